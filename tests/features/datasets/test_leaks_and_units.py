"""Data that splits share, and times that are in another unit than the durations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strong_envs.features.commands.check import check, format_items
from strong_envs.features.datasets import read
from strong_envs.features.datasets.advice import advice
from strong_envs.features.datasets.leaks import find_leaks, plain_text
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.datasets.units import suspect_units
from strong_envs.features.errors import DataError
from strong_envs.features.importing.importer import import_store


def row(qid: int, video: str, text: str, split: str, window: tuple[float, float] = (1, 9), seconds: float = 30) -> dict:
    return {"qid": qid, "query": text, "duration": seconds, "vid": video, "relevant_windows": [window], "split": split}


def write(folder: Path, *rows: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def counts(report: Report) -> dict[str, int]:
    return {f.kind: f.count for f in report.findings.values()}


def test_shared_videos_and_sentences_are_named_with_rows_and_a_command(tmp_path):
    folder = write(
        tmp_path / "d",
        row(1, "a", "A dog runs.", "train"),
        row(2, "b", "a cat sits", "train"),
        row(3, "a", "somebody sings", "test"),
        row(4, "c", "a  DOG runs", "test"),
        row(5, "d", "it rains", "val"),
        row(6, "d", "it snows", "test"),
    )
    found = read(folder)
    assert counts(found.report) == {
        "a video of train is in test as well": 1,
        "a sentence of train is in test as well": 1,
        "a video of val is in test as well": 1,
    }
    text = format_items(check(folder))
    assert "for example a\n" in text and "1 (train) and 4 (test)" in text and "strong-envs references" in text
    (tmp_path / "f").mkdir()
    for k, video in enumerate("abcd"):
        np.save(tmp_path / "f" / f"{video}.npy", np.full((30, 2), k + 1, np.float32))
    store, _ = import_store(tmp_path / "s", found, tmp_path / "f")
    assert "a video of train is in test as well" in format_items(check(store.path))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A dog runs.", "a dog runs", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("STRASSE", "stra\u00dfe", True),
        ("\uff44\uff4f\uff47", "dog", True),
        ("a dog runs", "a dog ran", False),
        ("\u72d7\u8dd1", "\u732b\u8dd1", False),
    ],
)
def test_sentences_are_compared_without_case_and_spelling_of_unicode(one, other, same):
    assert (plain_text(one) == plain_text(other)) == same


def test_videos_are_compared_without_suffix_and_prefix():
    queries = [Query("1", "v_a", "x", ((0, 1),), "train"), Query("2", "a.mp4", "y", ((0, 1),), "test")]
    assert "v_a and a.mp4" in str(find_leaks(queries)) and find_leaks(queries).count("doubtful") == 1


def test_splits_that_share_nothing_and_one_split_are_silent():
    queries = [Query("1", "a", "x", ((0, 1),), "train"), Query("2", "b", "y", ((0, 1),), "test")]
    assert not find_leaks(queries).findings
    assert not find_leaks([Query("1", "a", "x", ((0, 1),)), Query("2", "a", "x", ((0, 1),))]).findings


def test_one_video_under_two_ids_is_found_by_its_features(tmp_path):
    found = read(write(tmp_path / "d", row(1, "v_a", "a dog", "train"), row(2, "a2", "a cat", "test"),
                       row(3, "c", "a cow", "test")))  # fmt: skip
    (tmp_path / "f").mkdir()
    for video, value in (("v_a", 1), ("a2", 1), ("c", 2)):
        np.save(tmp_path / "f" / f"{video}.npy", np.full((30, 2), value, np.float32))
    store, report = import_store(tmp_path / "s", found, tmp_path / "f")
    wanted = "two videos of different splits have the same features"
    assert counts(report) == {wanted: 1} and "v_a (train) and a2 (test)" in str(report)
    assert wanted in format_items(check(store.path))


def test_joined_stores_name_the_sentences_that_their_splits_share(tmp_path):
    from strong_envs import features

    stores = []
    for k, split in enumerate(("train", "test")):
        folder = write(tmp_path / split, row(k, f"v{k}", "A dog runs.", split))
        (tmp_path / split / "f").mkdir()
        np.save(tmp_path / split / "f" / f"v{k}.npy", np.full((30, 2), k, np.float32))
        stores.append(import_store(tmp_path / f"s{k}", read(folder), tmp_path / split / "f")[0])
    assert counts(features.join(*stores).report) == {"a sentence of train is in test as well": 1}


def unit_of(folder: Path, scale: float, seconds: float = 1.0, offset: float = 0.0) -> set[str]:
    """Findings on units of six moments of thirty seconds, multiplied by ``scale``; durations by ``seconds``."""
    rows = [row(k, f"v{k}", f"sentence {k}", "train", ((2.0 + k) * scale, (9.0 + 3 * k) * scale), (30.0 + k) * seconds)
            for k in range(6)]  # fmt: skip
    try:
        report = str(read(write(folder, *rows)).report)
    except DataError as error:
        report = str(error)
    words = ("fractions", "milliseconds or frames", "milliseconds", "percent", "frames", "longer than one second")
    return {next(w for w in words if w in line) for line in report.splitlines() if any(w in line for w in words)}


@pytest.mark.parametrize(
    ("scale", "seconds", "unit"),
    [
        (1.0, 1.0, set()),
        (1 / 36, 1.0, {"fractions"}),
        (100 / 36, 1.0, {"percent"}),
        (25.0, 1.0, {"frames"}),
        (60.0, 1.0, {"frames"}),
        (1000.0, 1.0, {"milliseconds"}),
        (1.0, 1000.0, {"milliseconds or frames"}),
        (1.0, 25.0, {"milliseconds or frames"}),
        (1 / 36, 1 / 36, {"longer than one second"}),
    ],
)
def test_times_of_another_unit_are_suspected(scale, seconds, unit, tmp_path):
    assert unit_of(tmp_path / "d", scale, seconds) == unit


def test_units_that_fit_alike_are_all_named(tmp_path):
    def kind(times: list[tuple[float, float]]) -> list[str]:
        report = Report("x")
        suspect_units(times, report, "train")
        return [f.kind.removeprefix("times look like ") for f in report.findings.values()]

    minutes = ", or durations like minutes"
    # (end, duration): percent of videos of ten seconds, or frames of one that is slow
    assert kind([(80, 10), (95, 9), (40, 8), (60, 11)]) == ["percent or frames"]
    # seconds beside durations in minutes: more than thirty a minute, which few videos have as frames
    assert kind([(100, 2.5), (30, 1.5), (170, 3), (85, 2)]) == [f"frames{minutes}"]
    assert kind([(55, 1), (70, 1.5), (20, 1), (45, 2)]) == [f"percent or frames{minutes}"]
    # minutes beside durations in seconds
    assert kind([(2.5, 180), (1.2, 150), (3, 200), (0.4, 60)]) == ["minutes, or durations like frames"]
    assert kind([(0.3, 30), (0.4, 31), (0.2, 29), (0.5, 32)]) == ["fractions of the duration or minutes"]


@pytest.mark.parametrize(
    ("window", "form"),
    [
        (["0:05", "1:23"], "a boundary is written as minutes:seconds"),
        (["00:00:05.2", "00:01:23,5"], "a boundary is written as hours:minutes:seconds"),
        ([2, "1:23"], "a boundary is written as minutes:seconds"),
        (["5 s", "9s"], "a boundary is written with a unit"),
        (["2", "9"], "a boundary is a number in quotation marks"),
        ([2, "later"], "a boundary is not a finite number"),
        ([2, None], "a boundary is not a finite number"),
        ([2, "nan"], "a boundary is not a finite number"),
    ],
)
def test_the_form_of_a_time_is_named_with_what_to_do(window, form, tmp_path):
    good = row(1, "a", "a dog", "train")
    found = read(write(tmp_path / "d", good, row(2, "b", "a cat", "train", window)))
    assert counts(found.report) == {form: 1} and [q.qid for q in found.queries] == ["1"]
    assert advice(form) != "Look at the examples."
    (tmp_path / "d" / "all.jsonl").unlink()
    rows = [good, row(2, "b", "a cat", "train", seconds=window[1])]
    report = counts(read(write(tmp_path / "d", *rows)).report)
    assert report == {form.replace("boundary", "video's duration").replace("finite", "positive"): 1}


def test_one_split_of_another_unit_is_suspected(tmp_path):
    good = [row(k, f"v{k}", f"sentence {k}", "train", (2, 9 + k)) for k in range(20)]
    bad = [row(50 + k, f"w{k}", f"words {k}", "test", (0.1, 0.3 + k / 10)) for k in range(4)]
    assert "times look like fractions of the duration" in counts(read(write(tmp_path / "d", *good, *bad)).report)


def test_real_data_have_the_units_that_they_should(shared_data):
    for name in ("charades_sta", "tacos", "visitors"):
        found = counts(read(shared_data / name).report)
        assert not [kind for kind in found if "look like" in kind or "no video is longer" in kind]
        assert ("a video of train is in test as well" in found) == (name == "visitors")
