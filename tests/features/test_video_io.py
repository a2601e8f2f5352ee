"""Which frame a time shows: uneven, repeated, missing and late time stamps, held pictures, files cut short."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import SMALL, annotate, colour_of, write_uneven_mp4, write_video

from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.extraction.single_video import VideoFeatures
from strong_envs.features.video_io import Decoder, is_whole

BURST = [("red", k / 30) for k in range(30)] + [("green", 1.0), ("blue", 9.0), ("white", 9.5)]


def shown(path: Path, times: list[float], **options: float) -> list[str | None]:
    decoder = Decoder(path, **options)
    try:
        return [None if (image := decoder.at(t)) is None else colour_of(image) for t in times]
    finally:
        decoder.close()


@pytest.mark.parametrize("seek_seconds", [math.inf, 2.0])
def test_a_frame_is_shown_until_the_next_one_begins(seek_seconds, tmp_path):
    recording = write_uneven_mp4(tmp_path / "screen.mp4", [("red", 0.0), ("blue", 8.0)], 16.0)
    times = [0.0, 5.0, 7.99, 8.0, 12.0, 15.9, 3.0, 16.5]
    wanted = ["red", "red", "red", "blue", "blue", "blue", "red", None]
    assert shown(recording, times, seek_seconds=seek_seconds) == wanted

    burst = write_uneven_mp4(tmp_path / "burst.mp4", BURST, 20.0)
    times = [0.5, 0.999, 1.0, 4.0, 8.99, 9.0, 9.49, 9.6, 19.9, 5.0, 0.2, 9.2]
    wanted = ["red", "red", "green", "green", "green", "blue", "blue", "white", "white", "green", "red", "blue"]
    assert shown(burst, times, seek_seconds=seek_seconds) == wanted


def test_any_order_of_times_gives_the_last_stamp_not_after_the_time(tmp_path):
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.choice([0.03, 0.04, 0.3, 2.5], 60, p=[0.5, 0.3, 0.15, 0.05]))
    starts -= starts[0]
    names = [["red", "green", "blue"][k % 3] for k in range(60)]
    file = write_uneven_mp4(tmp_path / "v.mp4", list(zip(names, starts.tolist(), strict=True)), float(starts[-1]) + 1)
    times = [*np.sort(rng.uniform(0, starts[-1] + 0.9, 80)), *rng.uniform(0, starts[-1] + 0.9, 30)]
    # Stamps are whole ticks of the file's clock: times within a tick of one are left out.
    times = [t for t in times if np.abs(starts - t).min() > 2e-3]
    wanted = [names[int(np.searchsorted(starts, t, "right")) - 1] for t in times]
    assert shown(file, times) == wanted
    assert shown(file, times, seek_seconds=0.5) == wanted


def test_a_store_of_an_uneven_recording_holds_what_is_on_the_screen(tmp_path):
    write_uneven_mp4(tmp_path / "v.mp4", [("red", 0.0), ("blue", 8.0)], 16.0)
    options = ExtractOptions(fps=1.0, dtype="float32", **SMALL)
    store, report = extract([tmp_path / "v.mp4"], annotate({"v": 16.0}), tmp_path / "s", options)
    red, blue = store.tensor("frames")[:, 0], store.tensor("frames")[:, 2]
    assert (red[:8] > 0.9).all() and (blue[:8] < 0.1).all() and (red[8:] < 0.1).all() and (blue[8:] > 0.9).all()
    assert not report.findings


def test_boxes_of_an_uneven_video_belong_to_the_frames_that_are_shown(tmp_path):
    write_uneven_mp4(tmp_path / "v.mp4", BURST, 20.0)
    boxes = np.stack([np.array([k / 100, 0.0, (k + 1) / 100, 1.0], np.float32) for k in range(len(BURST))])
    options = ExtractOptions(fps=1.0, **SMALL)
    store, _ = extract([tmp_path / "v.mp4"], annotate({"v": 20.0}), tmp_path / "s", options, {"v": boxes})
    rows = (store.tensor("boxes")[:, 0] * 100).round().astype(int).tolist()
    # Frame 15 at half a second, the green frame 30 until nine, the white frame 32 from then on.
    assert rows == [15] + [30] * 8 + [32] * 11


def test_the_last_frame_stands_where_the_annotated_duration_is_longer(clips):
    from strong_envs.features.store.store import StoredVideo
    from strong_envs.features.video_io import open_frames

    video = StoredVideo("v0", 10.0, 10, str(clips / "v0.avi"))  # the file has four seconds
    for order in ([9], [0, 9, 3, 8], [9, 8, 0]):
        frame = open_frames(video)
        pictures = {row: frame(row) for row in order}
        assert all(np.array_equal(pictures[row], Decoder(clips / "v0.avi").last()) for row in order if row > 4)


@pytest.mark.parametrize("kept", [0.5, 0.7])
def test_a_file_that_is_cut_short_holds_no_picture(kept, tmp_path):
    whole = write_video(tmp_path / "whole.avi", 80)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: int(kept * whole.stat().st_size)])
    assert is_whole(whole) == (True, True) and is_whole(cut) == (False, True)
    decoder = Decoder(cut)
    assert decoder.at(0.1) is not None and decoder.at(6.3) is None and decoder.seconds < 6.4 * kept + 0.5
    found = annotate({"whole": 6.4, "cut": 6.4})
    _, report = extract([whole, cut], found, tmp_path / "s", ExtractOptions(fps=1.0, **SMALL))
    assert [f.examples for f in report.findings.values() if f.kind == "a broken video"]


class FakeCapture:
    """A capture of grey pictures with given stamps in milliseconds."""

    stamps: tuple[float, ...] = ()
    rate = 10.0

    def __init__(self, path: str) -> None:
        self.at = -1

    def grab(self) -> bool:
        self.at += 1
        return self.at < len(self.stamps)

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((4, 4, 3), self.at, np.uint8)

    def get(self, what: int) -> float:
        stamps = self.stamps[min(max(self.at, 0), len(self.stamps) - 1)]
        return {cv2.CAP_PROP_POS_MSEC: stamps, cv2.CAP_PROP_FPS: self.rate}.get(what, float(len(self.stamps)))

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("stamps", "times", "frames"),
    [
        ((0, 0, 0, 0), (0.05, 0.15, 0.35), (0, 1, 3)),  # no stamps: the rate counts
        ((math.nan,) * 3, (0.05, 0.15, 0.25), (0, 1, 2)),
        ((5000, 5100, 5900), (0.05, 0.15, 0.85, 0.95), (0, 1, 1, 2)),  # the first stamp is not zero
        ((0, 100, 100, 100, 200), (0.05, 0.15, 0.25), (0, 3, 4)),  # repeated stamps move nothing
        ((0, 200, 100, 300), (0.05, 0.25, 0.35), (0, 2, 3)),  # a stamp that goes back
        ((0, 100, 5000, 5100), (0.05, 3.0, 4.99, 5.0, 5.15), (0, 1, 1, 2, 3)),
    ],
)
def test_odd_stamps(stamps, times, frames, tmp_path, monkeypatch):
    file = tmp_path / "v.bin"
    file.write_bytes(b"x")
    monkeypatch.setattr(FakeCapture, "stamps", stamps)
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    decoder = Decoder(file)
    assert tuple(int(decoder.at(t)[0, 0, 0]) for t in times) == frames
    again = Decoder(file)
    assert tuple(int(again.at(t)[0, 0, 0]) for t in reversed(times)) == frames[::-1]


def features(name: str) -> VideoFeatures:
    return VideoFeatures({"name": name}, 10.0, {"grid": "float16", "frames": "float32"})


@pytest.mark.parametrize("backbone", ["shapes cells", "colour-cells"])
@pytest.mark.parametrize("kind", ["one.png", "one.jpg", "one.avi", "one.mp4"])
def test_a_video_of_one_frame_has_one_row(backbone, kind, tmp_path):
    picture, file = np.full((48, 64, 3), (0, 0, 255), np.uint8), tmp_path / kind
    if kind.endswith(("png", "jpg")):
        cv2.imwrite(str(file), picture)
    else:
        code = cv2.VideoWriter_fourcc(*("MJPG" if kind.endswith("avi") else "mp4v"))
        writer = cv2.VideoWriter(str(file), code, 10.0, (64, 48))
        writer.write(picture)
        writer.release()
    frames, grid, seconds = features(backbone).of_file(file)
    assert len(frames) == len(grid) == 1 and np.isfinite(frames).all() and seconds > 0
    assert colour_of(Decoder(file).at(0.0)) == "red"
    one, cells = features(backbone).of_pixels(picture[None, ..., ::-1].copy())
    assert one.shape == frames.shape and cells.shape == grid.shape
    assert np.array_equal(features(backbone).of_pixels(picture[..., ::-1].copy())[0], one)
