"""Lists of clips as other data sets write them: ids that name sources, times, cells with lists, other scripts."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from drawn_clips import captioned, frames_of, write_clip

from strong_envs.features.composing.clips import sentence_key
from strong_envs.features.composing.command import compose
from strong_envs.features.composing.encoding import EncodeOptions, encode_clips, with_rows
from strong_envs.features.composing.options import ComposeOptions, Layout
from strong_envs.features.composing.readers.captions import read_captions
from strong_envs.features.composing.readers.class_folders import group_of, read_class_folders
from strong_envs.features.composing.readers.fields import FIELDS
from strong_envs.features.composing.readers.stretches import stretches_of
from strong_envs.features.composing.sources import ClipOptions, describe, open_clips
from strong_envs.features.datasets.leaks import plain_text
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.registry import open_store

SMALL = EncodeOptions(backbone="colour-cells", fps=5.0, pca=None)
TEN = 10
"""Frames of a clip, at ten frames a second."""


def kinds(report: Report) -> dict[str, int]:
    return {f.kind: f.count for f in report.findings.values()}


def listed(folder, rows, name="clips.jsonl"):
    """A list of rows beside one file for each ``video`` or ``path`` that they name."""
    folder.mkdir(exist_ok=True)
    for i, row in enumerate(rows):
        file = row.get("path") or row.get("video")
        if file and not (folder / file).exists():
            write_clip(folder / file, frames_of((20 * i % 250, 9, 9), TEN, i))
    (folder / name).write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return folder / name


def test_an_id_beside_several_files_names_their_source(tmp_path):
    rows = [
        {"video_id": "film", "path": "a.avi", "caption": "a man walks"},
        {"video_id": "film", "path": "b.avi", "caption": "a dog runs"},
        {"video_id": "film", "path": "b.avi", "caption": "an animal is fast"},
        {"video_id": "other", "path": "c.avi", "caption": "rain falls"},
        {"video_id": "other", "path": "c.avi", "caption": "it is wet"},
        {"video_id": "film", "caption": "about neither"},
    ]
    found = read_captions(listed(tmp_path, rows))
    assert {c.id: (c.group, c.sentences) for c in found.clips} == {
        "a": ("film", ("a man walks",)),
        "b": ("film", ("a dog runs", "an animal is fast")),
        "other": ("other", ("rain falls", "it is wet")),
    }
    told = kinds(found.report)
    assert told["an id stands beside several files; each file is a clip, and the id is its source"] == 2
    assert told["a row names a source with several files and none of them"] == 1


@pytest.mark.parametrize(
    "rows",
    [
        [
            {"video": "a.avi", "start": 0, "end": 0.4, "caption": "x"},
            {"video": "a.avi", "start": 0.4, "end": 1, "caption": "y"},
        ],
        [
            {"clip_id": "1", "video": "a.avi", "start_time": "0", "end_time": "0.4", "caption": "x"},
            {"clip_id": "2", "video": "a.avi", "start_time": "0.4", "end_time": "1", "caption": "y"},
        ],
        [{"video": "a.avi", "timestamps": [[0, 0.4], [0.4, 1.0]], "sentences": ["x", "y"]}],
        [
            {"clip_id": "1", "video": "a.avi", "start": 0, "end": 0.4, "caption": "x", "group": "first half"},
            {"clip_id": "2", "video": "a.avi", "start": 0.4, "end": 1, "caption": "y", "group": "second half"},
        ],
    ],
)
def test_moments_of_longer_files_are_refused(tmp_path, rows):
    with pytest.raises(DataError, match=r"'a(\.avi)?': 0 to 0.4 s, 0.4 to 1 s\); compose takes trimmed clips"):
        read_captions(listed(tmp_path, rows))


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ({"time_start": "1", "time_end": "2.5"}, [(1.0, 2.5)]),
        ({"start": "0:01:02", "end": "01:10.5"}, [(62.0, 70.5)]),
        ({"start_sec": 3, "duration": 4}, [(3.0, 7.0)]),
        ({"timestamps": "[[0, 0.5], [0.5, 1]]"}, [(0.0, 0.5), (0.5, 1.0)]),
        ({"timestamp": [2, 3]}, [(2.0, 3.0)]),
        ({"spans": [[2, 5], [8, 13]], "segments": [[0, 1], [1, 2]], "duration": 3}, []),
    ],
)
def test_spellings_of_times(times, found):
    assert stretches_of(times, FIELDS) == (found, False)


@pytest.mark.parametrize(
    "times", [{"start_frame": 3, "end_frame": 9}, {"start": "early", "end": 4}, {"timestamps": ["x"]}]
)
def test_times_that_cannot_be_read_are_counted(tmp_path, times):
    found = read_captions(listed(tmp_path, [{"video": "a.avi", "caption": "x", **times}]))
    assert kinds(found.report)["a row has times that cannot be read; its file is taken whole"] == 1


def test_cut_files_of_one_video_are_clips_of_their_own(tmp_path):
    rows = [
        {"clip_id": f"film_{i}", "video": "film.mp4", "start": i, "end": i + 1, "caption": f"action {i}"}
        for i in (0, 1)
    ]
    rows += [{"VideoID": "tape", "Start": i, "End": i + 1, "Description": f"deed {i}"} for i in (0, 10)]
    for i, name in enumerate(("film_0", "film_1", "tape_0_1", "tape_10_11")):
        write_clip(tmp_path / "cut" / f"{name}.avi", frames_of((9, 9, i), TEN, i))
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_captions(tmp_path / "clips.jsonl")
    assert [(c.id, c.group) for c in found.clips][2:] == [("tape_0_1", "tape"), ("tape_10_11", "tape")]
    assert [(c.id, c.group) for c in found.clips][:2] == [("film_0", "film.mp4"), ("film_1", "film.mp4")]
    assert found.clips[0].stretch == (0.0, 1.0)


def test_sources_are_found_in_names_of_kinetics_and_vatex_and_in_folders_of_ucf11(tmp_path):
    rows = [{"videoID": f"abcdefghijk_0000{i}0_0000{i + 1}0", "enCap": [f"action {i}"]} for i in range(2)]
    for row in rows:
        write_clip(tmp_path / "v" / f"{row['videoID']}.avi", frames_of((9, 9, 9), 4, 0))
    (tmp_path / "v.json").write_text(json.dumps(rows))
    assert [c.group for c in read_captions(tmp_path / "v.json").clips] == ["abcdefghijk"] * 2
    for i in range(8):
        folder = tmp_path / "u" / ("ride", "walk")[i % 2]
        write_clip(
            folder / f"v_{folder.name}_0{i // 4}" / f"v_{folder.name}_0{i // 4}_0{i}.avi", frames_of((9, i, 9), 4, i)
        )
    assert len({c.group for c in read_class_folders(tmp_path / "u").clips}) == 4
    assert group_of("ride/v_ride_01_02.avi", "ride") is None


def test_no_times_are_read_where_the_user_says_so(tmp_path):
    rows = [{"video": "a.avi", "start": i, "end": i + 1, "caption": f"action {i}"} for i in (0, 1)]
    found = read_captions(listed(tmp_path, rows), fields={"start": "-"})
    assert found.clips[0].sentences == ("action 0", "action 1") and found.clips[0].stretch is None
    assert not any("times" in kind for kind in kinds(found.report))


def test_numbers_of_clips_in_their_video_are_no_sources(tmp_path):
    rows = [
        {"video_id": f"film{f}", "clip_id": c, "path": f"film{f}/{c}.avi", "caption": f"action {f} {c}"}
        for f in range(3)
        for c in range(2)
    ]
    found = read_captions(listed(tmp_path, rows))
    assert {c.group for c in found.clips} == {"film0", "film1", "film2"} and len(found.clips) == 6


def test_two_names_of_one_file_are_one_clip_and_equal_names_in_folders_are_told_apart(tmp_path):
    rows = [
        {"clip_id": "one", "file": "v/0.avi", "caption": "a man walks"},
        {"clip_id": "two", "file": "0.avi", "caption": "he is slow"},
        {"clip_id": "three", "file": r"w\1.avi", "caption": "rain falls"},
        {"clip_id": "four", "file": "x/1.avi", "caption": "nobody filmed this"},
    ]
    for place in ("v/0.avi", "w/1.avi"):
        write_clip(tmp_path / place, frames_of((9, 9, 9), TEN, len(place)))
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_captions(tmp_path / "clips.jsonl")
    assert {c.id: c.sentences for c in found.clips} == {"one": ("a man walks", "he is slow"), "three": ("rain falls",)}
    told = kinds(found.report)
    assert told["a clip's file is missing"] == 1
    assert told["two ids name one file; it is one clip with the captions of both"] == 1


def test_a_file_must_be_as_long_as_its_row_says(tmp_path):
    rows = [
        # As MSR-VTT: times within the source that the clip was cut from.
        {"video": "cut.avi", "start time": 137.0, "end time": 138.0, "caption": "cut from a film"},
        {"video": "uncut.avi", "start time": 0.1, "end time": 0.3, "caption": "a part of a longer file"},
        {"video": "whole.avi", "start time": 0.0, "end time": 1.0, "caption": "all of it"},
        {"video": "odd.avi", "start time": 50.0, "end time": 59.0, "caption": "shorter than said"},
    ]
    plain = read_captions(listed(tmp_path, [{k: r[k] for k in ("video", "caption")} for r in rows]))
    encode_clips(plain, tmp_path / "encoded", SMALL, lambda line: None, progress=False)
    found = read_captions(listed(tmp_path, rows))
    # Also where the clips were encoded before for a list without times.
    store = encode_clips(found, tmp_path / "encoded", SMALL, lambda line: None, progress=False)
    assert {c.id for c in with_rows(found, store)} == {"cut.avi", "whole.avi", "odd.avi"}
    told = kinds(found.report)
    assert told["a file is longer than the stretch of time that its row gives; cut it to that stretch"] == 1
    assert told["a file is not as long as the times of its row say; it is taken whole"] == 1
    assert not [k for k in told if "not among the encoded" in k]


def test_groups_and_boxes_are_found_for_lists_too(tmp_path):
    rows = [{"video": f"day{i // 2}_{i}.avi", "caption": f"action number {i}", "source": "all"} for i in range(4)]
    path = listed(tmp_path, rows)
    boxes = tmp_path / "boxes.json"
    frames = {str(i): [0.1, 0.2, 0.5, 0.6] for i in range(TEN)}
    boxes.write_text(
        json.dumps({"vid": "day0_1", "num_frames": TEN, "box_format": "xyxy normalised", "frames": frames})
    )
    found, _, _ = open_clips(path, ClipOptions(group_pattern=r"day(\d)", boxes=boxes))
    assert [c.group for c in found.clips] == ["0", "0", "1", "1"]
    assert [c.boxes is not None for c in found.clips] == [False, True, False, False]
    boxes.write_text(
        json.dumps({"vid": "nobody", "num_frames": TEN, "box_format": "xyxy normalised", "frames": frames})
    )
    found, _, _ = open_clips(path, ClipOptions(boxes=boxes, group_pattern=r"(x)?"))
    assert kinds(found.report)["a box track that no clip uses"] == 1
    assert kinds(found.report)["a file's name holds no group; the clip is a group of its own"] == 4


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (ClipOptions(whole_videos=True), "--whole-videos"),
        (ClipOptions(files="x", fields={"id": "x"}), "--files, --field"),
    ],
)
def test_options_that_say_nothing_about_a_source_are_refused(tmp_path, options, flag):
    source = listed(tmp_path / "list", [{"video": "a.avi", "caption": "x"}]) if options.whole_videos else tmp_path / "f"
    for name in ("walk", "run"):
        write_clip(tmp_path / "f" / name / "a.avi", frames_of((1, 2, 3), 4, 0))
    with pytest.raises(DataError, match=f"{flag} say"):
        open_clips(source, options)
    with pytest.raises(DataError, match="--split-files says nothing about a store"):
        open_clips("shapes", ClipOptions(split_files=("x.txt",)))


def test_captions_with_labels_among_clips_with_labels_alone_share_their_truth(tmp_path):
    rows = [
        {"video": "a.avi", "label": "walk"},
        {"video": "b.avi", "label": "walk", "caption": "somebody is on the way"},
        {"video": "c.avi", "label": "swim", "caption": "somebody is in the water"},
    ]
    shows = {c.id: c.shows for c in read_captions(listed(tmp_path, rows)).clips}
    assert "label: walk" in shows["b.avi"] and "label: swim" not in shows["c.avi"]


def test_boxes_of_another_number_of_frames_are_counted_and_not_stretched(tmp_path):
    person = [[2, 2, 10, 10]] * 5
    rows = [{"video": "a.avi", "caption": "x", "frames": TEN, "fps": 10, "width": 32, "height": 24, "boxes": person}]
    found = read_captions(listed(tmp_path, rows))
    assert np.isfinite(found.clips[0].boxes[:, 0]).tolist() == [True] * 5 + [False] * 5
    assert kinds(found.report)["a clip has boxes for another number of frames; they are those of its first frames"] == 1


def test_vowel_signs_tell_sentences_apart():
    boy, girl = "लड़का बैठा है", "लड़की बैठी है"
    assert sentence_key(boy) != sentence_key(girl) and plain_text(boy) != plain_text(girl)
    assert sentence_key("A Dog, jumps!") == sentence_key("a dog jumps") == "a dog jumps"


CELLS = [
    """['a man walks', "it's late"]""",
    """['a man walks' nan "it's late"]""",
    r"""('a man walks', 'it\'s late')""",
    """["a man walks", "it's late"]""",
]


@pytest.mark.parametrize("cell", CELLS)
def test_cells_with_lists_are_split_in_the_spelling_of_python_numpy_and_json(tmp_path, cell):
    write_clip(tmp_path / "a.avi", frames_of((1, 2, 3), 4, 0))
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("video_id", "captions"), ("a", cell)])
    assert read_captions(tmp_path / "clips.csv").clips[0].sentences == ("a man walks", "it's late")


def test_tables_with_semicolons_are_read_and_tables_without_names_say_so(tmp_path):
    write_clip(tmp_path / "a.avi", frames_of((1, 2, 3), 4, 0))
    (tmp_path / "clips.csv").write_text("video_id;caption\na;a man walks, slowly\n")
    assert read_captions(tmp_path / "clips.csv").clips[0].sentences == ("a man walks, slowly",)
    (tmp_path / "clips.csv").write_text("a,a man walks\nb,a dog runs\n")
    with pytest.raises(DataError, match="no row of 'clips.csv' names a clip; its fields are 'a', 'a man walks'"):
        read_captions(tmp_path / "clips.csv")


@pytest.mark.parametrize(
    ("places", "classes", "groups"),
    [
        (["dive/001/x.avi", "dive/002/x.avi", "golf/001/x.avi"], ["dive", "dive", "golf"], 3),  # UCF Sports
        (["shoot/v_1/x.avi", "shoot/v_1/y.avi", "swing/v_9/x.avi"], ["shoot", "shoot", "swing"], 2),  # UCF11
        (["ann/walk/x.avi", "ann/run/x.avi", "bob/walk/x.avi", "bob/run/x.avi"], ["run", "walk", "run", "walk"], 4),
        (["train/dive/001/x.avi", "test/golf/001/x.avi"], ["golf", "dive"], 2),
        (["dive/p1/x.avi", "dive/p2/x.avi", "golf/p1/x.avi", "golf/extra/x.avi"], ["dive", "dive", "golf", "golf"], 4),
        (["dive/x.avi", "dive/more/y.avi", "golf/more/y.avi"], ["dive", "dive", "golf"], 3),
        (["train/001/x.avi", "bus/001/x.avi", "car/001/x.avi"], ["bus", "car", "train"], 3),  # a vehicle
    ],
)
def test_classes_of_folders_in_folders(tmp_path, places, classes, groups):
    for i, place in enumerate(places):
        write_clip(tmp_path / place, frames_of((1, 2, i), 4, i))
    found = read_class_folders(tmp_path)
    assert [c.label for c in found.clips] == classes and len({c.group for c in found.clips}) == groups
    assert any("a clip lies in folders of folders" in kind for kind in kinds(found.report))
    assert describe(tmp_path)["classes"] == len(set(classes))


@pytest.mark.parametrize(
    "places",
    [
        ["UCF-101/dive/v_dive_g01_c01.avi", "UCF-101/golf/v_golf_g01_c01.avi"],
        ["videos/train/dive/v_dive_g01_c01.avi", "videos/test/golf/v_golf_g01_c01.avi"],
        ["dive/train/v_dive_g01_c01.avi", "golf/test/v_golf_g01_c01.avi"],
        ["dive/v_dive_g01_c01.avi", "golf/v_golf_g01_c01.avi", "__MACOSX/dive/._v.avi"],
    ],
)
def test_folders_around_classes_and_parts_inside_of_them(tmp_path, places):
    for i, place in enumerate(places):
        write_clip(tmp_path / place, frames_of((1, 2, i), 4, i))
    clips = read_class_folders(tmp_path).clips
    assert {(c.label, c.group) for c in clips} == {("dive", "dive/g01"), ("golf", "golf/g01")}
    assert {c.part for c in clips} == ({"train", "test"} if "train" in places[0] else {None})


def test_the_class_folder_may_be_chosen(tmp_path):
    for i, place in enumerate(["dive/p1/x.avi", "golf/p2/x.avi"]):
        write_clip(tmp_path / place, frames_of((1, 2, i), 4, i))
    found, _, _ = open_clips(tmp_path, ClipOptions(class_folder="last"))
    assert {c.label for c in found.clips} == {"p1", "p2"}


def test_joiners_stay_in_captions(tmp_path):
    text = "می\u200cرود"
    assert read_captions(listed(tmp_path, [{"video": "a.avi", "caption": text}])).clips[0].sentences == (text,)


def test_encoded_clips_of_other_files_are_refused(tmp_path):
    source = captioned(tmp_path / "one")
    options = ComposeOptions(layout=Layout(clips=(2, 2)), videos={"train": 2, "val": 1, "test": 1}, text="hashed-words")

    def made(path, out):
        return compose(path, tmp_path / out, options, encode=SMALL, encoded=tmp_path / "encoded", progress=False)

    made(source, "first")
    # The same files in another place are the same clips.
    shutil.copytree(source.parent, tmp_path / "copy")
    made(tmp_path / "copy" / source.name, "second")
    edited = sorted((tmp_path / "copy").rglob("*.avi"))[0]
    write_clip(edited, frames_of((1, 2, 3), 40, 0))
    with pytest.raises(DataError, match="1 of the clips at .*encoded.* were encoded from other files: .* bytes then"):
        made(tmp_path / "copy" / source.name, "third")


def test_a_store_is_not_written_over_its_own_clips(tmp_path):
    source = captioned(tmp_path / "clips")
    with pytest.raises(DataError, match="the encoded clips .* lie there; choose another --out"):
        compose(source, tmp_path / "s", encode=SMALL, encoded=tmp_path / "s", overwrite=True, progress=False)
    own = open_store("shapes-v0")
    with pytest.raises(DataError, match="its clips lie there; choose another --out"):
        compose(own.path, own.path, overwrite=True, progress=False)


def test_what_cannot_be_planned_is_told_before_clips_are_encoded_with_what_was_left_out(tmp_path, monkeypatch, capsys):
    rows = [{"video": f"{i}.avi", "caption": f"action {i}", "split": "train" if i < 6 else "odd"} for i in range(9)]
    monkeypatch.setattr("strong_envs.features.composing.command.encode_clips", lambda *a: pytest.fail("encoded"))
    with pytest.raises(DataError, match="part has"):
        compose(listed(tmp_path, rows), tmp_path / "s", ComposeOptions(layout=Layout(clips=(4, 4))), encode=SMALL)
    assert "3 dropped: a clip has no part, others have" in capsys.readouterr().err
