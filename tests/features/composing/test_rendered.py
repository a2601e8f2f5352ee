"""Composed features are those of a video that is really rendered and extracted, away from cuts and tile borders."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_clips import RATE, SIDE, class_folders, write_clip

from strong_envs.features.composing.command import compose
from strong_envs.features.composing.encoding import EncodeOptions
from strong_envs.features.composing.options import ComposeOptions, Layout
from strong_envs.features.composing.recipe import Recipe
from strong_envs.features.datasets.types import Annotations, Query, Report, Video
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.video_io import Decoder

ROWS = 5.0
FEW = {"train": 1, "val": 1, "test": 1}
CELLS = "drawn_clips:flat_cells"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("ucf"))


def whole_clip(path: str) -> np.ndarray:
    """Every frame of a file, decoded apart from the code under test."""
    import cv2

    capture, out = cv2.VideoCapture(path), []
    while True:
        ok, image = capture.read()
        if not ok:
            return np.stack(out)
        out.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def extracted(path, seconds: float, tmp_path, backbone: str) -> FeatureStore:
    """The store of one rendered file."""
    found = Annotations(
        "rendered", {"r": Video("r", seconds)}, [Query("q", "r", "it", ((0.0, seconds),))], Report("rendered")
    )
    options = ExtractOptions(backbone=backbone, text="hashed-words", fps=ROWS, dtype="float32", progress=False)
    return extract({"r": str(path)}, found, tmp_path / f"{path.stem}-store", options)[0]


def composed(folder, out, backbone: str, layout: Layout) -> FeatureStore:
    options = ComposeOptions(layout, FEW, text="hashed-words")
    encode = EncodeOptions(backbone=backbone, fps=ROWS, dtype="float32", pca=None)
    return compose(folder, out, options, encode=encode, progress=False)[0]


def test_a_sequence_has_the_features_of_the_clips_joined_in_one_file(folder, tmp_path):
    store = composed(folder, tmp_path / "s", "colour-cells", Layout("sequence", clips=(5, 5)))
    video = store.videos[0]
    recipe = Recipe.of(video)
    clips = [whole_clip(recipe.sources[p.source].path) for p in recipe.pieces]
    # All frames of all clips, one after the other: two frames a row, and clips have even numbers of frames.
    path = write_clip(tmp_path / "joined.avi", np.concatenate(clips))
    rendered = extracted(path, sum(map(len, clips)) / RATE, tmp_path, "colour-cells")
    assert rendered.videos[0].n_frames == video.n_frames
    assert rendered.videos[0].duration == pytest.approx(video.duration)
    # The network sees one frame a row, so that cuts change nothing: the same numbers to the last bit but for the
    # order of sums within a batch.
    for tensor in ("frames", "grid"):
        ours = store.tensor(tensor, 0, video.n_frames)
        np.testing.assert_allclose(ours, rendered.tensor(tensor), atol=2e-6)
    assert np.abs(np.diff(store.tensor("frames", 0, video.n_frames), axis=0)).max() > 0.01


def mosaic_of(recipe: Recipe, n_rows: int) -> np.ndarray:
    """(n, 128, 128, 3): the mosaic's frames at the middle of its rows, tiled by hand."""
    out = np.zeros((n_rows, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    for piece in recipe.pieces:
        frames = whole_clip(recipe.sources[piece.source].path)
        y, x = divmod(piece.tile, 2)
        for k in range(piece.rows):
            image = frames[int((piece.first + k + 0.5) * RATE / ROWS)]
            out[piece.at + k, y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = image
    return out


def test_a_mosaic_has_the_cells_of_a_rendered_one_but_at_the_borders_of_tiles(folder, tmp_path):
    layout = Layout("mosaic", clips=(2, 2), tile_cells=4, repeat_classes=True)
    store = composed(folder, tmp_path / "m", CELLS, layout)
    video = store.videos[0]
    frames = mosaic_of(Recipe.of(video), video.n_frames)
    path = write_clip(tmp_path / "tiled.avi", frames, ROWS)
    rendered = extracted(path, video.n_frames / ROWS, tmp_path, "drawn_clips:wide_cells")
    ours, theirs = store.tensor("grid", 0, video.n_frames), rendered.tensor("grid")
    assert ours.shape == theirs.shape == (video.n_frames, 8, 8, 5)
    # Colours are means over a cell: equal everywhere.
    np.testing.assert_allclose(ours[..., :3], theirs[..., :3], atol=1e-6)
    # Edges look at neighbouring pixels: equal in every cell that does not touch another tile.
    inside = np.ones(8, bool)
    inside[3:5] = False
    np.testing.assert_allclose(ours[:, inside][:, :, inside], theirs[:, inside][:, :, inside], atol=1e-6)
    assert np.abs(ours[..., 3:] - theirs[..., 3:])[:, 3:5].max() > 1e-3
    # The pooled vector is the mean of the cells.
    np.testing.assert_allclose(store.tensor("frames", 0, video.n_frames), ours.mean((1, 2)), atol=1e-6)


def test_fewer_cells_are_those_of_a_mosaic_rendered_at_half_the_size(folder, tmp_path):
    import cv2

    layout = Layout("mosaic", clips=(2, 2), repeat_classes=True)
    store = composed(folder, tmp_path / "m", CELLS, layout)
    video = store.videos[0]
    ours = store.tensor("grid", 0, video.n_frames)
    assert ours.shape[1:] == (4, 4, 5)
    frames = mosaic_of(Recipe.of(video), video.n_frames)
    small = np.stack([cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in frames])
    rendered = extracted(write_clip(tmp_path / "small.avi", small, ROWS), video.n_frames / ROWS, tmp_path, CELLS)
    # Mean colours differ by the rounding of pixels to whole numbers; edges depend on the size of a pixel.
    np.testing.assert_allclose(ours[..., :3], rendered.tensor("grid")[..., :3], atol=0.51 / 255)


def test_the_pixels_of_a_composed_video_are_those_its_features_were_made_of(folder, tmp_path):
    from strong_envs.features.video_io import open_frames

    layout = Layout("mosaic", clips=(2, 2), repeat_classes=True)
    store = composed(folder, tmp_path / "m", CELLS, layout)
    video = store.videos[1]
    frame = open_frames(video)
    ours = np.stack([frame(row) for row in range(video.n_frames)])
    assert (ours == mosaic_of(Recipe.of(video), video.n_frames)).all()


def test_a_single_clip_is_encoded_as_extraction_encodes_it(folder, tmp_path):
    composed(folder, tmp_path / "s", "colour-cells", Layout("sequence", clips=(3, 3)))
    clips = FeatureStore.open(tmp_path / "s.clips")
    first = clips.videos[0]
    decoder = Decoder(first.path)
    alone = extracted(type(tmp_path)(first.path), decoder.listed_seconds, tmp_path, "colour-cells")
    np.testing.assert_array_equal(clips.tensor("grid", 0, first.n_frames), alone.tensor("grid"))
