"""Annotation readers: each format with its traps on rows made by hand, and the published counts on real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strong_envs.features import datasets
from strong_envs.features.datasets import READERS, boxes_at_rows, read, read_boxes
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*rows: dict) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def findings(report: Report) -> dict[str, tuple[str, int]]:
    return {f.kind: (f.action, f.count) for f in report.findings.values()}


def charades(folder: Path, *rows: str, csv: str = "id,length\nAAAAA,10.5\nBBBBB,20\n") -> Path:
    write(folder / "charades_sta_train.txt", "\n".join(rows))
    write(folder / "Charades_v1_train.csv", csv)
    return folder


# Charades-STA


def test_charades_sta_clips_ends_and_drops_inverted_rows(tmp_path):
    found = read(
        charades(
            tmp_path,
            "AAAAA 0.0 6.9##a person is putting a book on a shelf.",
            "AAAAA 5.0 11.2##person sneezing.",
            "AAAAA 7.0 3.0##inverted.",
            "AAAAA 12.0 11.0##inverted and past the end.",
            "BBBBB 20.5 21.0##past the end.",
            "CCCCC 1.0 2.0##no such video.",
            "AAAAA 1.0 2.0##   ",
            "not a row",
        )
    )
    assert [q.windows for q in found.queries] == [((0.0, 6.9),), ((5.0, 10.5),)]
    assert found.queries[0].qid == "train_1" and found.queries[1].qid == "train_2"
    assert found.queries[0].text == "a person is putting a book on a shelf."
    assert {q.split for q in found.queries} == {"train"} and list(found.videos) == ["AAAAA"]
    assert found.report.kept == 2 and found.report.count("clipped") == 1 and found.report.count("dropped") == 6
    assert findings(found.report)["end past the video's duration"] == ("clipped", 1)


def test_charades_sta_takes_durations_from_a_mapping_and_needs_some(tmp_path):
    file = write(tmp_path / "charades_sta_test.txt", "AAAAA 0 4##person runs.")
    with pytest.raises(DataError, match="Charades_v1"):
        READERS["charades_sta"](file)
    found = READERS["charades_sta"](file, durations={"AAAAA": 3})
    assert found.queries[0].windows == ((0.0, 3.0),) and found.queries[0].split == "test"


def test_charades_sta_csv_without_the_columns_or_a_length(tmp_path):
    folder = charades(tmp_path, "AAAAA 0 4##person runs.", "BBBBB 0 4##x.", csv="id,length\nAAAAA,\nBBBBB,9\n")
    found = read(folder)
    assert [q.video for q in found.queries] == ["BBBBB"]
    assert findings(found.report)["a video's duration is not a positive number"] == ("dropped", 1)
    with pytest.raises(DataError, match="columns id and length"):
        READERS["charades_sta"](folder, durations=write(tmp_path / "other.csv", "name,seconds\nAAAAA,3\n"))


def test_charades_sta_real_counts(shared_data):
    found = read(shared_data / "charades_sta")
    assert len(found.split("train")) == 12404 and len(found.split("test")) == 3720
    assert found.report.count("dropped") == 4
    for split, past_the_end, of_those_inverted in (("train", 1805, 3), ("test", 562, 0)):
        report = READERS["charades_sta"](shared_data / "charades_sta" / f"charades_sta_{split}.txt").report
        kinds = findings(report)
        assert kinds["end past the video's duration"] == ("clipped", past_the_end - of_those_inverted)
        both = kinds.get("start is not before end, and the end is past the video's duration", ("dropped", 0))
        assert both == ("dropped", of_those_inverted)
    assert all(0 <= s < e <= found.videos[q.video].duration for q in found.queries for s, e in q.windows)


# TACoS


def tacos(fps: float = 29.4, frames: int = 2940) -> dict:
    return {
        "s13-d21.avi": {
            "timestamps": [[252, 452], [252, 452], [0, 2950], [10, 20], [5, 5]],
            "sentences": ["He took out a pan", "He took out a pan", "He cooks", "He blinks", "Nothing"],
            "fps": fps,
            "num_frames": frames,
        }
    }


def test_tacos_json_counts_in_frames(tmp_path):
    found = read(write(tmp_path / "val.json", tacos()))
    video = found.videos["s13-d21"]
    assert video.duration == pytest.approx(100.0) and video.fps == 29.4 and video.n_frames == 2940
    assert found.queries[0].windows[0] == pytest.approx((252 / 29.4, 452 / 29.4))
    assert found.queries[0].extra == {"source_id": "s13-d21.avi", "frames": [252, 452]}
    assert found.queries[2].windows[0][1] == video.duration
    assert [q.split for q in found.queries] == ["val"] * 4
    assert findings(found.report) == {
        "a row repeats an earlier one exactly": ("doubtful", 1),
        "end past the video's duration": ("clipped", 1),
        "a moment is shorter than one second": ("doubtful", 1),
        "start is not before end": ("dropped", 1),
    }


def test_tacos_never_assumes_a_frame_rate(tmp_path):
    data = tacos()
    del data["s13-d21.avi"]["fps"]
    data["s14-d1.avi"] = {"timestamps": [[0, 50]], "sentences": ["He leaves"], "fps": 25, "num_frames": 100}
    found = READERS["tacos"](write(tmp_path / "test.json", data))
    assert [q.video for q in found.queries] == ["s14-d1"] and found.queries[0].windows == ((0.0, 2.0),)
    assert findings(found.report)["a video lacks a usable frame rate or frame count"] == ("dropped", 5)


def test_tacos_tall_text_needs_the_rates(tmp_path):
    tall = "s13-d21.avi_252_452:He took out a pan#He gets a pan.#\nrubbish\n"
    text = write(tmp_path / "tall" / "tacos_test.txt", tall)
    with pytest.raises(DataError, match="info="):
        read(text)
    info = write(tmp_path / "test.json", tacos())
    for found in (read(text, info=info), read(text, info={"s13-d21": (29.4, 2940)})):
        assert [q.text for q in found.queries] == ["He took out a pan", "He gets a pan."]
        assert found.queries[1].windows[0] == pytest.approx((252 / 29.4, 452 / 29.4))
        assert found.queries[0].split == "test" and found.report.count("dropped") == 1


def test_tacos_json_goes_before_the_same_rows_as_text(tmp_path):
    write(tmp_path / "val.json", tacos())
    write(tmp_path / "tacos_val.txt", "s13-d21.avi_252_452:He took out a pan#\n")
    found = read(tmp_path)
    assert len(found.queries) == 4
    assert findings(found.report)["TALL text beside json of the same data set was left out"] == ("doubtful", 1)


def test_tacos_real_counts(shared_data):
    found = read(shared_data / "tacos")
    assert [len(found.split(s)) for s in ("train", "val", "test")] == [9790, 4436, 4001]
    assert found.report.count("dropped") == 0 and len(found.videos) == 127
    clipped = [READERS["tacos"](shared_data / "tacos" / f"{s}.json").report for s in ("train", "val", "test")]
    assert [report.count("clipped") for report in clipped] == [43, 0, 5]
    assert findings(found.report)["a row repeats an earlier one exactly"][1] > 2000


# ActivityNet Captions and Charades-CD


def activitynet(sentence: str) -> dict:
    return {"v_x": {"duration": 60.0, "timestamps": [[0, 20], [30, 30], [50, 40]], "sentences": [sentence, "b", "c"]}}


def test_activitynet_names_its_convention(tmp_path):
    for name in ("train", "val_1", "val_2"):
        write(tmp_path / f"{name}.json", activitynet(name))
    splits = {
        "test=val_2": {"train": "train", "val_1": "val", "val_2": "test"},
        "test=val_1": {"train": "train", "val_1": "test", "val_2": "val"},
        "test=both": {"train": "train", "val_1": "test", "val_2": "test"},
    }
    for convention, expected in splits.items():
        found = read(tmp_path, convention=convention)
        assert convention in found.name and {q.text: q.split for q in found.queries} == expected
        assert len({q.qid for q in found.queries}) == 3 and found.report.count("dropped") == 6
    assert "test=val_2" in read(tmp_path).name
    with pytest.raises(DataError, match="did you mean 'test=val_2'"):
        read(tmp_path, convention="test=val2")


def test_activitynet_files_renamed_by_2d_tan(tmp_path):
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.json", activitynet(name))
    found = read(tmp_path, convention="test=val_1")
    assert {q.text: q.split for q in found.queries} == {"train": "train", "val": "test", "test": "val"}


def test_charades_cd_keeps_both_test_sets(tmp_path):
    for name in ("train", "val", "test_iid", "test_ood"):
        record = {"timestamps": [[1.0, 3.0]], "sentences": [name], "video_duration": 9.5, "decode_fps": 16.0}
        write(tmp_path / f"charades_{name}.json", {"VID": record})
    splits = {q.text: q.split for q in read(tmp_path).queries}
    assert splits == {"train": "train", "val": "val", "test_iid": "test_iid", "test_ood": "test"}
    found = read(tmp_path, test="iid")
    assert {q.text: q.split for q in found.queries}["test_iid"] == "test" and "iid" in found.name
    assert found.queries[0].windows == ((1.0, 3.0),)
    with pytest.raises(DataError, match="'ood', 'iid'"):
        read(tmp_path, test="odd")


# QVHighlights


def test_qvhighlights_several_windows_and_extra_fields(tmp_path):
    row = {"query": "a dog", "duration": 150, "vid": "a_0.0_150.0"}
    text = lines(
        {**row, "qid": 3, "relevant_windows": [[0, 10], [20, 30], [140, 160], [9, 9]], "saliency_scores": [[1, 2]]},
        {**row, "qid": "q4", "relevant_windows": [[1, 2.5]], "event": "run", "split": "test"},
        {**row, "qid": "q4", "relevant_windows": [[1, 3]]},
        {**row, "qid": 5},
        {**row, "qid": 6, "relevant_windows": []},
        {**row, "qid": None, "relevant_windows": [[1, 2]]},
        {**row, "qid": 7, "relevant_windows": [[1, 2]], "query": " "},
        {**row, "qid": 8, "relevant_windows": [[1, 2]], "duration": 90},
    )
    found = read(write(tmp_path / "highlight_val_release.jsonl", text + '{"qid": 9,\n'))
    assert found.queries[0].windows == ((0.0, 10.0), (20.0, 30.0), (140.0, 150.0))
    assert found.queries[0].extra == {"saliency_scores": [[1, 2]]} and found.queries[0].split == "val"
    assert found.queries[1].qid == "q4" and found.queries[1].split == "test"
    assert found.queries[1].extra["event"] == "run"
    assert found.queries[2].qid == "q4#2" and found.queries[2].extra["source_qid"] == "q4"
    assert [q.qid for q in found.queries] == ["3", "q4", "q4#2", "8"]
    kinds = findings(found.report)
    assert kinds["a query has no window"] == ("dropped", 2) and kinds["a query is empty"] == ("dropped", 1)
    assert kinds["a line is not valid JSON"] == ("dropped", 1)
    assert kinds["a video has two durations; the first counts"] == ("doubtful", 1)
    assert kinds["a query id is used twice; the later one is renamed"] == ("doubtful", 1)


def test_visitors_real_counts(shared_data):
    found = read(shared_data / "visitors")
    assert len(found.queries) == 48 and {q.split for q in found.queries} == {"train", "test"}
    assert found.videos["visitors"].duration == 139.4
    assert {q.extra["event"] for q in found.queries} >= {"arrive", "stand"}
    # One video, so the splits share it.
    assert findings(found.report) == {"a video of train is in test as well": ("doubtful", 1)}
    boxes = read_boxes(shared_data / "visitors" / "boxes.json")["visitors"]
    assert boxes.shape == (1394, 4) and boxes.dtype == np.float32
    seen = boxes[np.isfinite(boxes).all(1)]
    assert len(seen) == 1098 and (seen[:, :2] < seen[:, 2:]).all() and seen.min() >= 0 and seen.max() <= 1
    inside = [np.isfinite(boxes[int(s * 10) : int(e * 10)]).all() for q in found.queries for s, e in q.windows]
    assert np.mean(inside) > 0.9


# DiDeMo


def test_didemo_chunks_are_inclusive(tmp_path):
    row = {"description": "a dog", "video": "1@N00_2.mov", "num_segments": 6, "annotation_id": 7}
    data = [
        {**row, "times": [[1, 2], [1, 2], [1, 1], [4, 5]]},
        {**row, "annotation_id": 8, "times": [[0, 0], [5, 5], [0, 9]]},
        {**row, "annotation_id": 9, "times": []},
        {**row, "annotation_id": 10, "num_segments": 0, "times": [[0, 0]]},
    ]
    file = write(tmp_path / "test_data.json", data)
    found = read(file)
    assert found.queries[0].windows == ((5.0, 15.0),) and found.videos["1@N00_2.mov"].duration == 30.0
    assert found.queries[0].extra["annotators"] == [[5.0, 15.0], [5.0, 15.0], [5.0, 10.0], [20.0, 30.0]]
    assert found.queries[1].windows == ((0.0, 5.0),), "the earliest of equally agreed windows"
    assert found.report.count("dropped") == 2
    assert findings(found.report)["an annotator's chunks lie outside the video"] == ("doubtful", 1)
    assert read(file, windows="all").queries[0].windows == ((5.0, 10.0), (5.0, 15.0), (20.0, 30.0))
    shorter = READERS["didemo"](file, windows="all", durations={"1@N00_2.mov": 27.5})
    assert shorter.queries[0].windows[-1] == (20.0, 27.5)


# boxes


def test_hc_stvg_boxes_become_normalised_corners(tmp_path):
    record = {
        "bbox": [[64, 36, 64, 72], [600, 0, 80, 360], [700, 0, 10, 10]],
        "st_time": 8.9,
        "ed_time": 17.5,
        "img_num": 600,
        "st_frame": 268,
    }
    data = {
        "55_a.mp4": {**record, "caption": "The woman turns.", "width": 640, "height": 360},
        "56_b.mkv": {**record, "English": "The man sits.", "img_size": [360, 640], "st_frame": 599},
        "57_c.mp4": {**record, "caption": "He runs.", "width": 640, "height": 360, "img_num": 0},
    }
    found = read(write(tmp_path / "val_v2.json", data))
    first, second = found.queries
    assert found.videos["55_a"].fps == 30.0 and found.videos["55_a"].duration == 20.0 and first.split == "val"
    assert first.windows == ((8.9, 17.5),) and first.extra["first_box_frame"] == 267 and first.extra["track"] == "55_a"
    assert first.extra["boxes"].dtype == np.float32
    np.testing.assert_allclose(first.extra["boxes"][0], [0.1, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(first.extra["boxes"][1], [0.9375, 0, 1, 1], atol=1e-6)
    assert np.isnan(first.extra["boxes"][2]).all()
    assert second.text == "The man sits." and len(second.extra["boxes"]) == 2
    assert findings(found.report)["boxes past the last frame"] == ("clipped", 1)


def vidstg(tmp_path: Path) -> tuple[Path, Path]:
    relation = {
        "vid": "123",
        "fps": 25,
        "frame_count": 100,
        "width": 200,
        "height": 100,
        "used_segment": {"begin_fid": 0, "end_fid": 99},
        "temporal_gt": {"begin_fid": 25, "end_fid": 100},
        "captions": [{"description": "a dog runs.", "type": "object", "target_id": 0}],
        "questions": [{"description": "who runs?", "type": "person", "target_id": 0}, {"target_id": 5}],
    }
    box = {"xmin": 20, "ymin": 10, "xmax": 40, "ymax": 50}
    frames = [[], [{"tid": 0, "bbox": box}], [], [{"tid": 0, "bbox": box}, {"tid": 1, "bbox": {"xmin": 1}}]]
    video = {"video_id": "123", "width": 200, "height": 100, "trajectories": frames}
    write(tmp_path / "vidor" / "training" / "0001" / "123.json", video)
    return write(tmp_path / "val_annotations.json", [relation]), tmp_path / "vidor"


def test_vidstg_frames_and_tracks(tmp_path):
    file, vidor = vidstg(tmp_path)
    found = read(file, vidor=vidor)
    caption, question = found.queries
    assert caption.windows == ((1.0, 4.0),) and found.videos["123"].duration == 4.0 and caption.split == "val"
    assert caption.extra["kind"] == "captions" and question.extra["kind"] == "questions"
    assert caption.extra["boxes"] is question.extra["boxes"] and caption.extra["track"] == "123/0"
    assert caption.extra["first_box_frame"] == 1 and caption.extra["boxes"].shape == (3, 4)
    np.testing.assert_allclose(caption.extra["boxes"][0], [0.1, 0.1, 0.2, 0.5], atol=1e-6)
    assert np.isnan(caption.extra["boxes"][1]).all()
    assert found.report.count("dropped") == 2, "a question without text and a box without corners"
    plain = read(file, kinds=("captions",))
    assert len(plain.queries) == 1 and "boxes" not in plain.queries[0].extra
    assert any("pass vidor=" in kind for kind in findings(plain.report))


def test_boxes_file_in_pixels_with_bad_boxes(tmp_path):
    frames = {"0": [10, 10, 20, 20], "3": [90, 40, 40, 20], "7": [0, 0, 1, 1], "x": [0, 0, 1, 1], "2": [5, 5, 0, 3]}
    record = {"vid": "a", "track": "a/1", "num_frames": 5, "width": 100, "height": 50, "box_format": "xywh pixels"}
    file = write(tmp_path / "boxes.json", [{**record, "frames": frames}])
    with pytest.raises(DataError, match="pass report="):
        read_boxes(file)
    report = Report("boxes")
    boxes = read_boxes(file, report)["a/1"]
    np.testing.assert_allclose(boxes[[0, 3]], [[0.1, 0.2, 0.3, 0.6], [0.9, 0.8, 1, 1]], atol=1e-6)
    assert np.isnan(boxes[[1, 2, 4]]).all() and report.kept == 2
    assert report.count("dropped") == 3 and report.count("clipped") == 1
    with pytest.raises(DataError, match="box_format"):
        read_boxes(write(tmp_path / "b.json", {**record, "box_format": "polar", "frames": {}}))
    with pytest.raises(DataError, match="rows of boxes"):
        read_boxes(write(tmp_path / "c.json", {**record, "num_frames": 10**12, "frames": {}}))


def test_boxes_at_rows_takes_the_middle_frame():
    boxes = np.repeat(np.arange(10, dtype=np.float32)[:, None], 4, axis=1)
    assert boxes_at_rows(boxes, 5)[:, 0].tolist() == [1, 3, 5, 7, 9]
    rows = boxes_at_rows(boxes[:2], 5, first_frame=3, n_frames=10)[:, 0]
    assert rows[1] == 0 and np.isnan(rows[[0, 2, 3, 4]]).all()


# finding the format


def test_every_reader_is_found_by_its_content(tmp_path):
    row = {"qid": 1, "query": "x", "duration": 9, "vid": "v", "relevant_windows": [[1, 2]]}
    record = {"timestamps": [[1, 3]], "sentences": ["x"]}
    hc = {"bbox": [[1, 1, 2, 2]], "st_time": 1, "ed_time": 2, "img_num": 20, "st_frame": 1, "caption": "x"}
    samples = {
        "qvhighlights": lines(row),
        "activitynet_captions": {"v": {**record, "duration": 9}},
        "charades_cd": {"v": {**record, "video_duration": 9}},
        "tacos": {"v.avi": {**record, "fps": 1, "num_frames": 9}},
        "didemo": [{"description": "x", "video": "v", "times": [[0, 0]] * 4, "num_segments": 6}],
        "hc_stvg": {"v.mp4": {**hc, "width": 9, "height": 9}},
        "charades_sta": "AAAAA 0 4##x\n",
    }
    for name, content in samples.items():
        suffix = "txt" if name == "charades_sta" else "jsonl" if name == "qvhighlights" else "json"
        file = write(tmp_path / name / f"some_train.{suffix}", content)
        assert datasets.find_format(file) == datasets.find_format(file.parent) == name
        if name != "charades_sta":
            assert read(file).queries[0].text == "x" and read(file.parent, format=name).queries
    assert datasets.find_format(vidstg(tmp_path / "vidstg")[0]) == "vidstg"
    assert set(samples) | {"vidstg"} == set(READERS)


def test_unknown_formats_name_the_known_ones(tmp_path):
    write(tmp_path / "a" / "notes.json", {"hello": 1})
    with pytest.raises(DataError, match="charades_sta, didemo, hc_stvg"):
        read(tmp_path / "a")
    with pytest.raises(DataError, match="did you mean 'tacos'"):
        read(tmp_path / "a", format="taco")
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    write(tmp_path / "a" / "train.json", tacos())
    write(tmp_path / "a" / "val_1.json", activitynet("x"))
    with pytest.raises(DataError, match="several formats"):
        read(tmp_path / "a")


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path):
    data = {"v_x": {"duration": 60.0, "timestamps": [[30, 30]], "sentences": ["b"]}}
    with pytest.raises(DataError, match="1 dropped: start is not before end"):
        read(write(tmp_path / "train.json", data))
