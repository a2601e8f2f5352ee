"""The strip of a video: it shows the frames, the moments where they are, and stands in for missing pixels."""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import pytest

from strong_envs.features.commands import show
from strong_envs.features.commands.show import AXIS, BARS, MARGIN, TEXT, TRACKS, draw_strip, tick_step
from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, write_store

LEFT = MARGIN + TEXT
COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20)]


def make(folder, *, path=None, grid=True, boxes=False, queries=None, name="v", duration=8.0) -> FeatureStore:
    rng = np.random.default_rng(0)
    extra = {"track": "t"} if boxes else {}
    if queries is None:
        queries = [Query("a", name, "the first half", ((0.0, 4.0),), "train", extra)]
        queries.append(Query("b", name, "two moments", ((1.0, 2.0), (6.0, 8.0)), "test", extra))
    rows = np.tile(np.array([[0.25, 0.25, 0.75, 0.75]], np.float32), (16, 1))
    rows[8:] = np.nan
    return write_store(
        folder / "store",
        StoreContents(
            name="strips",
            videos=[StoredVideo("other", 5.0, 4), StoredVideo(name, duration, 16, path)],
            queries=queries,
            frames=rng.normal(size=(20, 6)).astype(np.float32),
            query_vectors=rng.normal(size=(len(queries), 5)).astype(np.float32),
            grid=rng.normal(size=(20, 3, 4, 6)).astype(np.float32) if grid else None,
            boxes={"t": rows} if boxes else None,
        ),
    )


@pytest.fixture
def film(tmp_path) -> str:
    """8 seconds in four colours."""
    file = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for k in range(80):
        writer.write(np.full((64, 96, 3), COLOURS[k // 20][::-1], np.uint8))
    writer.release()
    return file


def bar_columns(image: np.ndarray, split: str, below: int) -> np.ndarray:
    """Columns of the axis, as fractions of the duration, that hold a bar of the split."""
    part = image[below:, LEFT : LEFT + AXIS]
    return np.flatnonzero((part == BARS[split]).all(-1).any(0)) / AXIS


def test_frames_stand_where_they_belong_in_time(tmp_path, film):
    image = draw_strip(make(tmp_path, path=film), "v", n_frames=4)
    y = MARGIN + 34 + 60
    for k, colour in enumerate(COLOURS):
        middle = image[y, LEFT + int((k + 0.5) * AXIS / 4)]
        assert np.abs(middle.astype(int) - colour).max() < 30


def test_bars_span_their_moments(tmp_path, film):
    image = draw_strip(make(tmp_path, path=film), "v")
    below = 150  # under the frames
    train, test = bar_columns(image, "train", below), bar_columns(image, "test", below)
    assert train.min() == pytest.approx(0.0, abs=0.002) and train.max() == pytest.approx(0.5, abs=0.002)
    gaps = test[1:][np.diff(test) > 0.01]
    assert test.min() == pytest.approx(1 / 8, abs=0.002) and gaps == pytest.approx([6 / 8], abs=0.002)


def test_boxes_are_drawn_only_where_there_are_some(tmp_path, film):
    image = draw_strip(make(tmp_path, path=film, boxes=True), "v", n_frames=4)
    yellow = (image == TRACKS[0]).all(-1)[:, LEFT:]
    assert (image[:, :LEFT] == TRACKS[0]).all(-1).any()  # and each query's row says which box is its own
    columns = np.flatnonzero(yellow.any(0)) / AXIS
    assert len(columns) and columns.max() < 0.5  # the second half has none
    assert columns.min() == pytest.approx(0.25 / 4, abs=0.005)


@pytest.mark.parametrize("grid", [True, False])
def test_norms_stand_in_for_missing_pixels(tmp_path, grid):
    image = draw_strip(make(tmp_path, path=str(tmp_path / "gone.mp4"), grid=grid), "v")
    band = image[MARGIN + 34 : MARGIN + 34 + 40, LEFT : LEFT + AXIS]
    assert len(np.unique(band.reshape(-1, 3), axis=0)) > 8 and not (band == 255).all(-1).any()


def test_the_default_world_is_drawn_from_its_seeds():
    from strong_envs.features.registry import open_store

    store = open_store("shapes-v0")
    image = draw_strip(store)
    band = image[MARGIN + 34 : MARGIN + 34 + 60, LEFT : LEFT + AXIS]
    assert band.max() > 150 and band.min() < 60


def test_many_queries_long_texts_and_odd_letters(tmp_path):
    words = "où est-elle, 人 " * 40
    queries = [Query(str(k), "v", words, ((k / 20, k / 20 + 1),), "dev") for k in range(100)]
    store = make(tmp_path, queries=queries)
    few, all_of_them = draw_strip(store, "v", max_queries=5), draw_strip(store, "v", max_queries=200)
    assert all_of_them.shape[0] - few.shape[0] == show.ROW * 94
    gap = few[160:, LEFT - 8 : LEFT - 2]
    assert (gap >= 230).all()  # texts end before the axis


def test_a_video_without_queries_is_drawn(tmp_path):
    assert draw_strip(make(tmp_path), "other").shape[1] == 2 * MARGIN + TEXT + AXIS


@pytest.mark.parametrize("duration, step", [(139.4, 10), (6.0, 0.5), (14.0, 1), (5400.0, 500), (0.4, 0.05)])
def test_ticks_are_round_seconds(duration, step):
    assert tick_step(duration) == pytest.approx(step)


def test_command(tmp_path, capsys):
    make(tmp_path)
    parser = argparse.ArgumentParser()
    show.add_parser(parser.add_subparsers())

    def run(*words: str) -> int:
        return show.main(parser.parse_args(["show", str(tmp_path / "store"), *words]))

    out = tmp_path / "new" / "strip.png"
    assert run("--video", "v", "--out", str(out)) == 0
    assert cv2.imread(str(out)).shape[1] == 2 * MARGIN + TEXT + AXIS
    assert [p.name for p in out.parent.iterdir()] == ["strip.png"]
    with pytest.raises(DataError, match="did you mean 'other'"):
        run("--video", "othr", "--out", str(out))
    with pytest.raises(DataError, match="at least 1"):
        run("--frames", "0", "--out", str(out))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="lies below .* which is a file"):
        run("--out", str(tmp_path / "file" / "strip.png"))


def test_the_real_video_has_its_moments(shared_data, tmp_path):
    from strong_envs.features import datasets
    from strong_envs.features.extraction.options import ExtractOptions
    from strong_envs.features.extraction.pipeline import extract

    folder = shared_data / "visitors"
    annotations = datasets.read(folder / "annotations.jsonl")
    boxes = datasets.read_boxes(folder / "boxes.json")
    options = {"backbone": "colour-cells", "text": "hashed-words", "fps": 0.25, "progress": False}
    store, _ = extract([folder / "visitors.mp4"], annotations, tmp_path / "s", ExtractOptions(**options), boxes=boxes)
    image = draw_strip(store)
    assert len({q.windows for q in store.queries}) == 24
    for split in ("train", "test"):
        columns = bar_columns(image, split, 170) * 139.4
        windows = [w for q in store.queries if q.split == split for w in q.windows]
        assert columns.min() == pytest.approx(min(s for s, _ in windows), abs=0.2)
        assert columns.max() == pytest.approx(max(e for _, e in windows), abs=0.2)
    assert (image[:160] == TRACKS[0]).all(-1).any()
