"""What to do about each kind of finding in a `Report`, for the check command; keys are the beginnings of the kinds.

Findings of a single format have their advice in its module, see `annotation_format`.
"""

from __future__ import annotations

from strong_envs.features.datasets.format import FORMATS

ADVICE = {
    # moments
    "end past the video's duration": "The end becomes the duration, which is the rule of the field. Nothing to do.",
    "start before zero": "The start becomes 0. Nothing to do.",
    "start is not before end": "Left out, as in published counts. Correct the times to keep it.",
    "the window lies outside its video": "Compare its times with the duration; times in frames cause this.",
    "a window is not a pair of numbers": "Write a window as [start, end].",
    "a boundary is not a finite number": "Correct the row; times are numbers in seconds (TACoS: frames).",
    "a moment is shorter than one second": "Kept, as in published counts. Coarse features cannot resolve it.",
    "a query has no window": "Of no use without a truth; QVHighlights hides those of its test set.",
    "a row repeats an earlier one exactly": "Kept, as in published counts. Repeats weigh their moment more.",
    # text and ids
    "a query is empty": "Write a sentence, or leave the row out.",
    "a query is not text": "Write the sentence as a JSON string.",
    "a query is too long": "Cut the text below 20,000 characters of valid Unicode.",
    "a query id is used twice": "Kept under a new id (the old one is in extra['source_qid']). Make ids unique.",
    "an id ": "Ids become file names: use printable text without path tricks.",
    "a JSON key is written twice": "JSON keeps only the last of them. If both were meant, give them different keys.",
    # detector features
    "objects at another rate": "Taken at the middle of each feature row. Check that both cover the whole video.",
    "more objects a row": "The first are kept. Put the video with most objects first, or cut them all to one number.",
    "fewer objects a row": "Filled with zeros. Nothing to do where zeros mean no object.",
    "the objects of a video": "The video and its queries are left out. Make its array (n, K, C) of finite floats.",
    # videos
    "a video's duration is not": "Give the duration in seconds, above 0 and below ten million.",
    "a video has two durations": "The first is used for every row. Correct the other.",
    "a video lacks a usable frame rate": "Give fps and the number of frames; a frame rate is never assumed.",
    # text
    "the text encoder does not know some words": "Use an encoder of the language of the queries.",
    "different sentences have the same vector": "No system can tell them apart. Use another text encoder.",
    # units
    "times look like fractions": "Multiply the times by the duration, if they are fractions of it.",
    "times look like milliseconds": "Divide the times by 1,000, if they are milliseconds.",
    "times look like frames": "Divide the times by the frame rate of the video, if they are frames.",
    "times look like percent": "Multiply the times by the duration and divide by 100, if they are percent of it.",
    "times look like": "Convert the times to seconds.",
    "durations look like": "Give durations in seconds, as the times are.",
    "no video is longer than one second": "Give durations and times in seconds.",
    # leaks
    "a video of ": "Scores on shared videos are too high. Remove them from train, or move them to one split.",
    "a sentence of ": "Usual for short sentences. Compare with systems that see no video: strong-envs references PATH.",
    "two videos of different splits": "Probably one video under two ids. Remove it from train.",
    # records, lines, splits
    "a video's record is not an object": "Compare the file with the format's description.",
    "a record lacks its timestamps": "Each video needs the lists timestamps and sentences.",
    "a sentence without a window": "The two lists differ in length; the surplus is left out.",
    "a row is not an object": "Compare the file with the format's description.",
    "a line is not": "The line is left out. Look at it: an unfinished download ends in one.",
    "a line is longer": "No annotation has such lines: the file is probably something else.",
    "a split": "Use train, val or test, so that every command finds it.",
    "the file name names no split": "Name the file after its split, or pass split=.",
    # boxes
    "a query has no usable boxes": "It serves the temporal level only.",
    "a box is not four numbers": "The frame counts as one without a box.",
    "a box reaches out of the picture": "It is cut at the border. Nothing to do.",
    "a box's frame is not in the video": "The box is left out. Check whether frames are counted from 0 or 1.",
    "a box track": "Compare the file with the format of boxes.json.",
    # features
    "a video has no features": "Its queries are dropped on import. Extract or download the missing file.",
    "a query whose video has no features": "Extract or download the missing features.",
    "a feature file cannot be used": "Extract or download that file again.",
    "features of another width": "They come from another network; one store holds one kind.",
    "vectors of another width": "They come from another network; one store holds one kind.",
    "streams of different length": "Trailing rows are cut; one or two rows come from rounding.",
    "streams whose lengths differ a lot": "Compare what one row of each stream covers, in seconds.",
    "every video has the same number of rows": "Fine for training; pass no seconds_per_row.",
    "feature length does not fit": "Compare duration, seconds per row and file: a video cut short causes this.",
    "more feature rows than a video has frames": "Compare rows and duration; the array may be transposed.",
    "one feature row covers more than a minute": "Compare rows and duration; the array may hold one vector a video.",
    "an array looks transposed": "Features are (rows, channels). Pass --transposed if these are (channels, rows).",
    "most videos have no features": "Compare the names of the files with the ids of the videos.",
    "a name in an h5 file is not text": "Rename it, or write the file again with names in UTF-8.",
    "grids are (rows, channels": "Nothing to do.",
    "a grid at another rate": "Taken at the middle of each feature row. Check that both cover the whole video.",
    "the features of a video": "The video and its queries are left out. Make its array (n, D) of finite floats.",
    "the grid of a video": "The video and its queries are left out. Make its array (n, h, w, C) of finite floats.",
    "feature rows that are zero": "Often padding, or frames that failed to decode.",
    "features are integers": "Check that they are features and not indices or pixels.",
    "axes of length one": "Nothing to do.",
    "a query has no text features": "Its row is dropped on import. Encode it, or import without the text folder.",
    "a text feature file cannot be used": "Encode that query again.",
    "text features of another width": "They come from another encoder; one store holds one kind.",
    "a moment is shorter than one feature row": "Kept. No method can place such a moment better than one row.",
    "a part of a video cannot be used": "Extract or download the file of that part again.",
    "a record cannot be used": "The record is left out.",
    # extraction
    "no file for an annotated video": "Its queries are dropped. Fetch the file, or name it after the video's id.",
    "a video file that no annotation names": "The file is not used. A file's name must be the id of its video.",
    "a video without a query": "Nothing to do.",
    "a broken video": "Its queries are dropped. Fetch the file again.",
    "a query is dropped": "See the finding on its video.",
    "a file ends before": "Compare the file with the annotated duration; it may be cut short.",
    "a last chunk is shorter": "The duration becomes that of the file. Nothing to do.",
    "a file is longer": "Compare the file with the annotated duration; it may be another cut of the video.",
    "no box track for a query": "The query serves the temporal level only.",
    "the text encoder knows no word": "Use an encoder of the language of the queries.",
    # trimmed clips to compose
    "a clip's file is missing": "The clip is left out. Fetch the file, or give the folder of files with --files.",
    "a clip cannot be decoded": "The clip is left out. Fetch the file again.",
    "a clip is not among the encoded": "Delete the encoded clips (--encoded) to encode all again, or nothing to do.",
    "a clip is there twice": "One of them is used. Nothing to do.",
    "a clip has no source": "Name its source (source_id), so that clips of one source stay in one part.",
    "a file's name holds no group": "Give --groups REGEX where several clips come from one source.",
    "a clip has no usable caption": "It is shown without a query. Add a caption, or remove the row.",
    "a clip has lost all its sentences": "It is shown without a query. Give its part sentences of its own.",
    "a clip has no part": "Name its part, or remove the parts of all clips.",
    "a clip is left out of its part": "Correct the parts: clips of one source belong into one.",
    "a clip has two": "Make the rows of a clip agree.",
    "a caption has no word": "It is left out.",
    "a caption is not text": "Write captions as JSON strings.",
    "a caption is given twice": "Nothing to do.",
    "a caption is longer": "It is left out. Cut it.",
    "a caption stands at several clips": "All of them are its truth where they share a video. Nothing to do.",
    "a sentence of the": "Nothing to do: no sentence may stand in two parts.",
    "a word of the": "Encoders of hashed words cannot relate it to a known one; pretrained encoders can.",
    "a class has no sentence": "Put it into words in the file of sentences, in another wording for every part.",
    "sentences are given for a class": "Compare the name with those of the folders.",
    "a file lies in no class folder": "Move it into the folder of its class.",
    "a file's name is not Unicode": "Rename it.",
    "a row names no clip": "Give every row the clip's id or file (--field id=NAME names another field).",
    "a line cannot be read as JSON": "The line is left out. Look at it: an unfinished download ends in one.",
    "a part is none of": "Use train, val or test.",
    "a part has few clips": "Pass --clips-per-stream, or larger shares of that part (--val-share, --test-share).",
    "no clip is given to the test part": "Give a test part, or report that the validation part was tested on.",
    "no split file names a clip": "The clip is left out. Compare its name with the split files.",
    "a split file names a clip that is not there": "Fetch the clip, or nothing to do.",
    "a split file puts a clip into no part": "Nothing to do: the data set leaves it out of this split.",
    "boxes need a list": "Give width and height beside the boxes.",
    "a window holds the middle of no": "Extract with more rows per second (--fps) to keep it.",
}


def advice(kind: str) -> str:
    """What to do about one kind of finding; of all keys that begin it, here and in the formats, the longest counts."""
    every = {**ADVICE, **{key: text for form in FORMATS.values() for key, text in form.advice.items()}}
    found = max((key for key in every if kind.startswith(key)), key=len, default=None)
    return "Look at the examples." if found is None else every[found]
