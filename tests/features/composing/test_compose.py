"""Composed stores: exact truth in time and space, options, determinism, pixels, and one encoding of each clip."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pytest
import torch
from drawn_clips import NAMES, captioned, class_folders

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.metrics.score import score
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.commands.show import draw_strip
from strong_envs.features.composing.assemble import area_weights
from strong_envs.features.composing.clips import about_label
from strong_envs.features.composing.command import compose
from strong_envs.features.composing.encoding import EncodeOptions
from strong_envs.features.composing.options import ComposeOptions, Layout
from strong_envs.features.composing.readers.from_store import clips_of_store, rows_in
from strong_envs.features.composing.recipe import Recipe
from strong_envs.features.composing.sources import ClipOptions
from strong_envs.features.errors import DataError
from strong_envs.features.extraction import pipeline
from strong_envs.features.shapes import open_store
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.video_io import open_frames
from strong_envs.local_features import LocalFeatures

SMALL = EncodeOptions(backbone="colour-cells", fps=5.0, pca=None)
COUNTS = {"train": 6, "val": 2, "test": 3}
MANY = {**COUNTS, "train": 20}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> FeatureStore:
    return open_store("standard", "small", cache=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("clips") / "ucf")


def made(source, out, layout: Layout, seed: int = 0, counts=None, reading=None, **more) -> FeatureStore:
    options = ComposeOptions(layout, counts or COUNTS, seed, text="hashed-words", **more)
    return compose(source, out, options, clips=reading, encode=SMALL, progress=False)[0]


def rows_of(store: FeatureStore) -> dict[str, tuple[int, int]]:
    out, row = {}, 0
    for video in store.videos:
        out[video.id] = (row, row + video.n_frames)
        row += video.n_frames
    return out


def test_sequences_of_the_drawn_world_are_rows_of_its_videos_with_exact_windows_and_boxes(drawn, tmp_path):
    store = made(drawn, tmp_path / "s", Layout("sequence", clips=(4, 4)))
    assert store.name == "shapes-v0-sequence-composed"
    at, source = rows_of(store), rows_of(drawn)
    for video in store.videos:
        recipe = Recipe.of(video)
        assert len(recipe.pieces) == 4
        assert video.duration == pytest.approx(video.n_frames / 10)
        for piece in recipe.pieces:
            clip = recipe.sources[piece.source]
            first = source[clip.group][0] + piece.first
            for tensor in ("frames", "grid"):
                ours = store.tensor(tensor, at[video.id][0] + piece.at, at[video.id][0] + piece.end)
                np.testing.assert_array_equal(ours, drawn.tensor(tensor, first, first + piece.rows))
    said = {q.text: q for q in drawn.queries}
    videos = {v.id: v for v in store.videos}
    for query in store.queries:
        recipe = Recipe.of(videos[query.video])
        (start, end), original = query.windows[0], said[query.text]
        piece = next(p for p in recipe.pieces if p.at == round(start * 10))
        assert round(end * 10) == piece.end
        assert recipe.sources[piece.source].id == query.extra["clip"]
        boxes = store.tensor("boxes", *store.tracks[query.extra["track"]])
        assert np.isnan(boxes[: piece.at]).all()
        assert np.isnan(boxes[piece.end :]).all()
        track = drawn.tensor("boxes", *drawn.tracks[original.extra["track"]])
        if original.video == recipe.sources[piece.source].group:
            np.testing.assert_array_equal(boxes[piece.at : piece.end], track[piece.first : piece.first + piece.rows])


def test_a_sentence_of_a_mosaic_is_about_one_clip_in_one_tile(drawn, tmp_path):
    store = made(drawn, tmp_path / "m", Layout("mosaic", clips=(2, 2), boxes="tile"))
    assert store.shape("grid")[1:3] == (8, 8)
    at, source = rows_of(store), rows_of(drawn)
    weights = area_weights(8, 4)
    seen = set()
    for video in store.videos:
        recipe = Recipe.of(video)
        for piece in recipe.pieces:
            y, x = divmod(piece.tile, 2)
            first = source[recipe.sources[piece.source].group][0] + piece.first
            whole = drawn.tensor("grid", first, first + piece.rows).astype(np.float32)
            fewer = np.einsum("ij,njkc,lk->nilc", weights, whole, weights)
            grid = store.tensor("grid", at[video.id][0] + piece.at, at[video.id][0] + piece.end)
            np.testing.assert_allclose(grid[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4], fewer, atol=2e-2)
    for query in store.queries:
        y, x = divmod(query.extra["tile"], 2)
        seen.add(query.extra["tile"])
        boxes = store.tensor("boxes", *store.tracks[query.extra["track"]])
        inside = np.isfinite(boxes[:, 0])
        np.testing.assert_allclose(boxes[inside], np.tile([x / 2, y / 2, (x + 1) / 2, (y + 1) / 2], (inside.sum(), 1)))
        start, end = (round(t * 10) for t in query.windows[0])
        assert inside[start:end].all()
        assert inside.sum() == end - start
    assert seen == {0, 1, 2, 3}


def test_a_person_is_boxed_inside_the_tile_where_boxes_are_known(drawn, tmp_path):
    tile = made(drawn, tmp_path / "t", Layout("mosaic", clips=(2, 2), boxes="tile"))
    person = made(drawn, tmp_path / "p", Layout("mosaic", clips=(2, 2)))
    assert [q.qid for q in tile.queries] == [q.qid for q in person.queries]
    for a, b in zip(tile.queries, person.queries, strict=True):
        outer = tile.tensor("boxes", *tile.tracks[a.extra["track"]])
        inner = person.tensor("boxes", *person.tracks[b.extra["track"]])
        rows = np.isfinite(inner[:, 0])
        assert b.extra["box"] == "person"
        assert (inner[rows, :2] >= outer[rows, :2] - 1e-6).all()
        assert (inner[rows, 2:] <= outer[rows, 2:] + 1e-6).all()
        assert (inner[rows, 2] - inner[rows, 0] < 0.25).all()


def test_the_same_seed_gives_the_same_store_and_another_seed_another(drawn, tmp_path):
    layout = Layout("mosaic", clips=(2, 3), gaps=0.3, repeats=0.3, background=0.2)
    first = made(drawn, tmp_path / "a", layout)
    assert made(drawn, tmp_path / "b", layout).content_hash == first.content_hash
    assert made(drawn, tmp_path / "c", layout, seed=1).content_hash != first.content_hash


def test_a_larger_store_begins_with_the_videos_of_a_smaller_one(drawn, tmp_path):
    layout = Layout("sequence", clips=(3, 3))
    small = made(drawn, tmp_path / "a", layout)
    large = made(drawn, tmp_path / "b", layout, counts={"train": 20, "val": 4, "test": 9})
    videos = {v.id: v for v in large.videos}
    assert all(videos[v.id].extra == v.extra for v in small.videos)


def test_sequences_hold_every_clip_once_and_banks_read_them_in_memory_and_from_disk(drawn, tmp_path):
    store = made(drawn, tmp_path / "s", Layout("sequence", clips=(8, 8)), counts={"train": 60, "val": 2, "test": 2})
    rows = sum(v.n_frames for v in store.videos)
    assert store.shape("grid")[0] == rows
    assert len(store.maps("grid")[0]) < rows / 2
    store.verify()
    held, mapped = FeatureBank(store, "train"), FeatureBank(store, "train", memory="map")
    samples = torch.arange(0, len(held), 7)
    first = torch.zeros(len(samples), dtype=torch.int64)
    last = held.n_frames[held.video[samples]]
    torch.testing.assert_close(
        held.frame_means(samples, first, last), mapped.frame_means(samples, first, last), atol=1e-4, rtol=1e-4
    )
    corners = torch.tensor([[0.1, 0.2, 0.6, 0.9]]).expand(len(samples), 4)
    videos = held.video[samples]
    torch.testing.assert_close(
        held.box_sums(videos, first, last, corners), mapped.box_sums(videos, first, last, corners), atol=1e-2, rtol=1e-3
    )
    numbers = torch.tensor([0, 5, rows // 3])
    torch.testing.assert_close(mapped.frames[numbers], held.frames[numbers])


def test_long_windows_of_repeated_rows_are_summed_from_disk(drawn, tmp_path, monkeypatch):
    from strong_envs.features.bank import mapped as module

    store = made(drawn, tmp_path / "s", Layout("sequence", clips=(8, 8)))
    held, disk = FeatureBank(store, "train"), FeatureBank(store, "train", memory="map")
    monkeypatch.setattr(module, "LONG", 16)
    total = disk.frames.window_sums(disk.offsets[:-1], disk.offsets[1:])
    wanted = torch.stack([held.frames[a:b].sum(0) for a, b in zip(held.offsets[:-1], held.offsets[1:], strict=True)])
    torch.testing.assert_close(total, wanted, atol=1e-3, rtol=1e-4)


def test_gaps_are_black_and_belong_to_no_window(drawn, tmp_path):
    store = made(drawn, tmp_path / "s", Layout("sequence", clips=(3, 3), gaps=1.0, gap_seconds=(0.5, 1.0)))
    video = store.videos[0]
    recipe = Recipe.of(video)
    covered = {row for p in recipe.pieces for row in range(p.at, p.end)}
    empty = sorted(set(range(video.n_frames)) - covered)
    assert 15 <= len(empty) <= 30
    frames = store.tensor("frames", 0, video.n_frames)
    assert (frames[empty] == frames[empty[0]]).all()
    assert not (frames[sorted(covered)] == frames[empty[0]]).all(1).any()
    assert (open_frames(video)(empty[0]) == 0).all()
    for query in store.queries:
        if query.video == video.id:
            start, end = (round(t * 10) for t in query.windows[0])
            assert set(range(start, end)) <= covered


def test_repeated_classes_give_a_query_all_its_windows(folder, tmp_path):
    store = made(folder, tmp_path / "s", Layout("sequence", clips=(6, 6), repeats=0.5), counts=MANY)
    videos = {v.id: v for v in store.videos}
    several = [q for q in store.queries if len(q.windows) > 1]
    assert several
    for query in store.queries:
        recipe = Recipe.of(videos[query.video])
        of_class = [p for p in recipe.pieces if recipe.sources[p.source].id.startswith(query.extra["event"] + "/")]
        assert [(round(a * 5), round(b * 5)) for a, b in query.windows] == [(p.at, p.end) for p in of_class]
    # Without repeats, everything is there once.
    once = made(folder, tmp_path / "o", Layout("sequence", clips=(6, 6)))
    assert all(len(q.windows) == 1 for q in once.queries)


def test_what_is_seen_in_two_tiles_at_once_is_not_asked_about(folder, tmp_path):
    store = made(folder, tmp_path / "s", Layout("mosaic", clips=(3, 3), repeat_classes=True), counts=MANY)
    videos = {v.id: v for v in store.videos}
    for query in store.queries:
        recipe = Recipe.of(videos[query.video])
        of_class = sorted(
            (p for p in recipe.pieces if recipe.sources[p.source].id.startswith(query.extra["event"] + "/")),
            key=lambda p: p.at,
        )
        assert all(a.end <= b.at for a, b in itertools.pairwise(of_class))


def test_background_clips_have_no_query(drawn, tmp_path):
    store = made(
        drawn, tmp_path / "s", Layout("sequence", clips=(6, 6), background=0.5), counts={**COUNTS, "train": 30}
    )
    asked = len({(q.video, q.windows) for q in store.queries})
    shown = sum(len(Recipe.of(v).pieces) for v in store.videos)
    assert 0.3 < asked / shown < 0.7


def test_lengths_are_those_asked_for(drawn, tmp_path):
    layout = Layout("sequence", seconds=(4.0, 6.0), clip_seconds=(0.5, 1.0))
    store = made(drawn, tmp_path / "s", layout, counts={**COUNTS, "train": 30})
    lengths = [v.duration for v in store.videos]
    assert 4.0 <= min(lengths) < 4.5 < 5.5 < max(lengths) <= 6.0
    assert max(p.rows for v in store.videos for p in Recipe.of(v).pieces) <= 10


@pytest.mark.parametrize(("name", "cells"), [("1x1", (8, 8)), ("1x2", (8, 8)), ("3x2", (9, 8)), ("3x3", (9, 9))])
def test_layouts_from_one_to_nine_tiles(drawn, tmp_path, name, cells):
    store = made(drawn, tmp_path / "s", Layout(name, clips=(1, 1)))
    assert store.shape("grid")[1:3] == cells
    rows, columns = (int(x) for x in name.split("x"))
    image = open_frames(store.videos[0])(0)
    assert image.shape == (64 * rows, 64 * columns, 3)
    assert store.manifest["extra"]["composed"]["layout"] in store.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"layout": "4x4"}, {"layout": "mosaik"}, {"gaps": 1.5}, {"clips": (3, 2)}, {"clips": (0, 2)}, {"sentences": 0},
        {"seconds": (1.0, float("inf"))}, {"boxes": "face"}, {"tile_cells": 0}, {"repeats": float("nan")},
    ],
)  # fmt: skip
def test_odd_options_are_one_sentence(wrong):
    with pytest.raises(DataError):
        Layout(**wrong)


def test_too_many_clips_for_the_classes_say_what_to_change(folder, tmp_path):
    with pytest.raises(DataError, match="needs 8 clips that show different things, the train part has 6"):
        made(folder, tmp_path / "s", Layout("sequence", clips=(8, 8)))
    # Where no number is asked for, streams become shorter, and the report says so.
    store = made(folder, tmp_path / "s", Layout("sequence"))
    assert len(Recipe.of(store.videos[0]).pieces) == len(NAMES)
    assert any("few clips" in f["kind"] for f in store.manifest["extra"]["report"]["findings"])


def test_the_manifest_states_that_the_store_is_composed_and_how(folder, tmp_path):
    store = made(folder, tmp_path / "s", Layout("mosaic", clips=(2, 2), repeat_classes=True), seed=5)
    told = store.manifest["extra"]["composed"]
    assert told["layout"] == "mosaic-2x2"
    assert told["seed"] == 5
    assert told["options"]["repeat_classes"] is True
    assert told["parts"]["train"]["videos"] == 6
    assert sum(p["clips"] for p in told["parts"].values()) == 36
    assert "cut" in told["note"]
    assert store.name == "ucf-mosaic-2x2-composed"


def test_each_clip_is_encoded_once_for_all_layouts(folder, tmp_path, monkeypatch):
    encoded = tmp_path / "clips"
    options = ComposeOptions(Layout("sequence", clips=(4, 4)), COUNTS, text="hashed-words")
    compose(folder, tmp_path / "a", options, encode=SMALL, encoded=encoded, progress=False)

    def refuse(*args: object) -> None:
        raise AssertionError("a clip was encoded again")

    monkeypatch.setattr("strong_envs.features.composing.encoding.extract", refuse)
    other = ComposeOptions(Layout("mosaic", clips=(1, 1)), COUNTS, 3, text="hashed-words")
    store, _ = compose(folder, tmp_path / "b", other, encode=SMALL, encoded=encoded, progress=False)
    assert store.manifest["extra"]["composed"]["clips_hash"] == FeatureStore.open(encoded).content_hash
    wrong = EncodeOptions(backbone="colour-cells", fps=2.0, pca=None)
    with pytest.raises(DataError, match="encoded otherwise: fps is 5.0, asked is 2.0"):
        compose(folder, tmp_path / "c", other, encode=wrong, encoded=encoded, progress=False)


def test_a_killed_encoding_continues_and_ends_in_the_same_store(folder, tmp_path, monkeypatch):
    options = ComposeOptions(Layout("sequence", clips=(4, 4)), COUNTS, text="hashed-words")
    whole, _ = compose(folder, tmp_path / "whole", options, encode=SMALL, progress=False)
    done = []
    run = pipeline.run

    def killed(*args):
        for number, result in enumerate(run(*args)):
            if number == 20:
                raise KeyboardInterrupt
            yield result

    def counted(*args):
        for result in run(*args):
            done.append(result[0].video)
            yield result

    monkeypatch.setattr(pipeline, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        compose(folder, tmp_path / "s", options, encode=SMALL, progress=False)
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(pipeline, "run", counted)
    store, _ = compose(folder, tmp_path / "s", options, encode=SMALL, progress=False)
    assert 0 < len(done) <= 36 - 20
    assert store.content_hash == whole.content_hash
    assert not list(tmp_path.glob("*.composing"))


def test_a_reduction_is_fitted_on_training_clips_and_refused_for_another_split(tmp_path):
    folder = class_folders(tmp_path / "ucf")
    options = ComposeOptions(Layout("sequence", clips=(4, 4)), COUNTS, text="hashed-words")
    reduced = EncodeOptions(backbone="colour-cells", fps=5.0, pca=6)
    store, _ = compose(folder, tmp_path / "a", options, encode=reduced, progress=False)
    assert store.shape("grid")[-1] == 6
    assert store.manifest["extra"]["pca"]["dim"] == 6
    other = ComposeOptions(Layout("sequence", clips=(4, 4)), COUNTS, 1, text="hashed-words")
    with pytest.raises(DataError, match="training clips that are others now.*--keep-channels"):
        compose(folder, tmp_path / "b", other, encode=reduced, encoded=tmp_path / "a.clips", progress=False)


def test_kept_channels_serve_every_split(tmp_path):
    folder = class_folders(tmp_path / "ucf")
    kept = EncodeOptions(backbone="colour-cells", fps=5.0, pca=6, keep_channels=True)
    stores = []
    for seed in (0, 1):
        options = ComposeOptions(Layout("sequence", clips=(4, 4)), COUNTS, seed, text="hashed-words", pca=6)
        where = {"encode": kept, "encoded": tmp_path / "clips", "progress": False}
        stores.append(compose(folder, tmp_path / f"s{seed}", options, **where)[0])
    assert FeatureStore.open(tmp_path / "clips").shape("grid")[-1] == 14
    assert [s.shape("grid")[-1] for s in stores] == [6, 6]
    assert stores[0].manifest["extra"]["pca"] != stores[1].manifest["extra"]["pca"]


def test_captions_are_composed_and_words_that_training_never_uses_are_reported(tmp_path):
    file = captioned(tmp_path, 40)
    store = made(file, tmp_path / "s", Layout("sequence", clips=(3, 3), sentences=1))
    per_clip = {(q.video, q.extra["clip"]) for q in store.queries}
    assert len(per_clip) == len(store.queries)
    findings = {f["kind"]: f for f in store.manifest["extra"]["report"]["findings"]}
    told = findings["a word of the test part that no training sentence uses"]
    assert told["count"] > 0
    trained = {w for q in store.queries if q.split == "train" for w in q.text.split()}
    assert all(word not in trained for word in told["examples"])


def test_windows_of_stores_become_rows_by_the_middle_of_a_row():
    video = StoredVideo("v", 10.0, 20)
    assert rows_in((1.0, 3.0), video) == (2, 6)
    assert rows_in((1.24, 1.26), video) == (2, 3)
    assert rows_in((1.3, 1.7), video) == (3, 3)
    assert rows_in((0.0, 10.0), video) == (0, 20)


def test_clips_of_the_drawn_world_are_about_an_event_and_show_what_else_happens(drawn):
    found = clips_of_store(drawn)
    assert found.kind == "store"
    clip = found.clips[0]
    assert clip.about in clip.shows
    assert clip.row_boxes.shape == (clip.n_rows, 4)
    assert len(clips_of_store(drawn, whole=True).clips) == len(drawn.videos)
    assert about_label("x") != clip.about


def test_the_command_composes_the_drawn_world_and_prints_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STRONG_ENVS_CACHE", str(tmp_path / "cache"))
    words = ["compose", "shapes", "--layout", "mosaic", "--out", str(tmp_path / "s"), "--text", "hashed-words"]
    assert main([*words, "--videos", "5", "2", "3", "--clips-per-stream", "2-3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["name"] == "shapes-v0-mosaic-2x2-composed"
    assert told["queries"].keys() == {"train", "val", "test"}
    assert main([*words, "--json"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["references", str(tmp_path / "s")]) == 0


def test_show_draws_the_pixels_of_composed_videos_or_says_that_they_are_gone(folder, tmp_path):
    clips = class_folders(tmp_path / "mine", groups=4)
    store = made(clips, tmp_path / "s", Layout("mosaic", clips=(1, 1)))
    drawn = draw_strip(store)
    one = Recipe.of(store.videos[0]).sources[0]
    moved = tmp_path / "away.avi"
    os.rename(one.path, moved)
    part = draw_strip(store)
    assert part.shape == drawn.shape
    assert (part != drawn).any()
    row = Recipe.of(store.videos[0]).pieces[0]
    image = open_frames(store.videos[0])(row.at)
    assert image is not None
    for source in Recipe.of(store.videos[0]).sources[1:]:
        os.unlink(source.path)
    assert open_frames(store.videos[0])(0) is None
    draw_strip(store)


def test_a_composed_store_is_not_composed_again(drawn, tmp_path):
    made(drawn, tmp_path / "s", Layout("sequence", clips=(3, 3)))
    with pytest.raises(DataError, match="composed already"):
        made(tmp_path / "s", tmp_path / "t", Layout("sequence", clips=(3, 3)), reading=ClipOptions())


@pytest.mark.parametrize("spans", [[[0, 3]], [[0, 10**6]], [[3, 3]], [[-1, 2]], "x", [[0, 1.5]], [["a", "b"]], [None]])
def test_a_manifest_with_wrong_spans_is_refused(drawn, tmp_path, spans):
    made(drawn, tmp_path / "s", Layout("sequence", clips=(3, 3)))
    file = tmp_path / "s" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["spans"] = spans
    file.write_text(json.dumps(manifest))
    with pytest.raises(DataError):
        FeatureStore.open(tmp_path / "s")


def test_a_recipe_that_cannot_be_is_refused():
    good = {"tiles": [1, 1], "size": [4, 4], "sources": [{"id": "a", "group": "a", "duration": 1.0, "n_frames": 5}]}
    fine = StoredVideo("v", 1.0, 5, None, {"composed": {**good, "pieces": [[0, 0, 5, 0, 0]]}})
    assert len(Recipe.of(fine).pieces) == 1
    assert open_frames(fine)(0) is None
    wrong = [
        [[0, 0, 6, 0, 0]],
        [[1, 0, 5, 0, 0]],
        [[0, 0, 5, 1, 0]],
        [[0, 0, 5, 0, 1]],
        [[0]],
        "no",
        [[0, 0, 5, 0, "x"]],
    ]
    for pieces in wrong:
        with pytest.raises(DataError):
            Recipe.of(StoredVideo("v", 1.0, 5, None, {"composed": {**good, "pieces": pieces}}))


def test_the_right_tile_is_a_metric_of_mosaics_alone(drawn, tmp_path):
    def tiles_of_true_boxes(layout: Layout) -> dict:
        bank = FeatureBank(made(drawn, tmp_path / layout.layout, layout), "test")
        boxes = LocalFeatures(bank, "truth").boxes
        windows = bank.truth[:, 0] * bank.duration[bank.video][:, None]
        left = boxes * torch.tensor([0.5, 1.0, 0.5, 1.0])
        return {name: score(Prediction(windows, boxes=b), bank) for name, b in (("true", boxes), ("left", left))}

    scores = tiles_of_true_boxes(Layout("1x2", clips=(2, 2)))
    assert (scores["true"]["tile"] == 1).all()
    assert 0 < scores["left"]["tile"].mean() < 1, "only the queries about the left tile"
    assert "tile" not in tiles_of_true_boxes(Layout("sequence", clips=(2, 2)))["true"]
