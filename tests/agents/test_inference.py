"""A saved system asked about one video and one sentence: ids, arrays, pixels, files, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_strong import small_strong

from strong_envs import agents, features
from strong_envs.agents.cli import held_out
from strong_envs.agents.inference import WEIGHTS
from strong_envs.agents.strong.agent import Strong
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.features import shapes
from strong_envs.features.errors import DataError


@pytest.fixture(scope="module")
def world():
    return features.load("shapes-v0", "train"), features.load("shapes-v0", "test")


@pytest.fixture(scope="module", params=["own rewards", "frame labels", "all rewards"])
def saved(request, world, tmp_path_factory):
    """A tracked system and its file."""
    steps = dict(pretrain_steps=1280, spatial_steps=1280, temporal_steps=1280)
    system = Strong.of(world[0], small_strong(learns_from=request.param, **steps)).fit()
    path = tmp_path_factory.mktemp("systems") / "strong.safetensors"
    system.save(str(path))
    return system, path


@pytest.fixture(scope="module")
def predictor(saved):
    return agents.load(saved[1])


def assert_same(one: agents.Moment, other: agents.Moment) -> None:
    assert (one.start, one.end) == pytest.approx((other.start, other.end))
    assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
    assert np.allclose(one.boxes, other.boxes, atol=1e-5) and np.allclose(one.path, other.path)


def test_ids_arrays_and_pixels_give_what_the_system_gives(saved, predictor, world):
    system, test = saved[0], world[1]
    whole = system.predict(test)
    lengths = test.n_frames[test.video]
    first = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    for sample in (0, 7):
        query, video = test.queries[sample], test.videos[int(test.video[sample])]
        moment = predictor.predict(video.id, query.text)
        assert (moment.start, moment.end) == pytest.approx(whole.spans[sample].tolist())
        assert np.allclose(moment.boxes, whole.boxes[first[sample] : first[sample + 1]].numpy(), atol=1e-5)
        assert moment.path[-1].tolist() == pytest.approx([moment.start, moment.end])
        assert len(moment.path) == int(whole.length[sample]) + 1
        assert 0 <= moment.confidence <= 1
        rows = slice(int(test.offsets[test.video[sample]]), int(test.offsets[test.video[sample] + 1]))
        grid, frames = test.grid[rows], test.frames[rows]
        assert_same(predictor.predict(grid, query.text), moment)
        assert_same(predictor.predict((frames.numpy(), grid.numpy()), query.text, duration=video.duration), moment)
        pixels = shapes.render(video.extra["seed"], video.extra["level"])
        assert_same(predictor.predict(pixels, query.text), moment)


def test_a_video_file(predictor, world, tmp_path):
    import cv2

    video = world[1].videos[0]
    pixels = shapes.render(video.extra["seed"], video.extra["level"])
    path = str(tmp_path / "shapes.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (128, 128))
    for frame in pixels:
        writer.write(cv2.cvtColor(cv2.resize(frame, (128, 128)), cv2.COLOR_RGB2BGR))
    writer.release()
    moment = predictor.predict(path, world[1].texts[0])
    assert 0 <= moment.start < moment.end <= 6.0 + 1e-6
    assert moment.boxes.shape == (60, 4) and moment.boxes.dtype == np.float32


def test_a_lean_file_predicts_alike_and_is_smaller(saved, predictor, world, tmp_path):
    system, path = saved
    system.save(str(tmp_path / "lean.safetensors"), lean=True)
    assert (tmp_path / "lean.safetensors").stat().st_size < path.stat().st_size
    video, text = world[1].videos[3].id, "the red circle moves left"
    assert_same(agents.load(tmp_path / "lean.safetensors").predict(video, text), predictor.predict(video, text))


def test_frames_alone_are_enough_for_a_system_that_looks_at_whole_frames(world, tmp_path):
    system = agents.make("trl", world[0], budget=0.01)
    system.fit().save(str(tmp_path / "trl.safetensors"))
    ready = agents.load(tmp_path / "trl.safetensors")
    moment = ready.predict(world[1].frames[:60], world[1].texts[0])
    assert moment.boxes is None
    spans = system.predict(world[1]).spans[0].tolist()
    assert (moment.start, moment.end) == pytest.approx(spans)
    again = type(system).load(str(tmp_path / "trl.safetensors"), world[1])
    assert torch.equal(again.predict(world[1]).spans, system.predict(world[1]).spans)


def test_what_cannot_be_answered_is_refused(saved, predictor, world, ragged_store, tmp_path):
    text = "the red circle moves left"
    for video, sentence, message in (
        ("shapes-standard-test-00000", text, "did you mean 'shapes-standard-test-0000"),
        (np.zeros((5, 3), np.float32), text, r"frames \(n, 20\) or cells \(n, 8, 8, 20\).*got \[\(5, 3\)\]"),
        (np.zeros((5, 20), np.float32), text, "needs cells"),
        (np.full((5, 8, 8, 20), np.nan, np.float32), text, "NaN"),
        (np.zeros((5, 8, 8, 20), np.float32), "", "sentence must be"),
        (np.zeros((5, 8, 8, 20), np.float32), "...", "no words"),
    ):
        with pytest.raises(DataError, match=message):
            predictor.predict(video, sentence)
    with pytest.raises(DataError, match="duration must be a positive"):
        predictor.predict(np.zeros((5, 8, 8, 20), np.float32), text, duration=0.0)
    with pytest.raises(DataError, match="no agent at"):
        agents.load(tmp_path / "absent.safetensors")
    bank = features.load(ragged_store, "train")
    Strong.of(bank, small_strong()).save(str(tmp_path / "odd.safetensors"))
    odd = agents.load(tmp_path / "odd.safetensors")
    cells = np.zeros((5, 4, 5, 6), np.float32)
    with pytest.raises(DataError, match="no rate of feature rows; pass duration"):
        odd.predict(cells, text)
    with pytest.raises(DataError, match="encoder 'random'"):
        odd.predict(cells, text, duration=3.0)
    with pytest.raises(DataError, match="is no file; .* pass features="):
        odd.predict("v0", text)
    Strong.of(bank, small_strong("truth")).save(str(tmp_path / "bound.safetensors"))
    with pytest.raises(DataError, match="upper bound"):
        agents.load(tmp_path / "bound.safetensors")
    given = torch.tensor([0.2, 0.2, 0.6, 0.7]).expand(len(bank), 4)
    agents.make("read", bank, boxes=given, sizes=(8, 8, 8, 4), hidden=16).save(str(tmp_path / "read.safetensors"))
    with pytest.raises(DataError, match="trained on given boxes"):
        agents.load(tmp_path / "read.safetensors")
    about = {"system": "Other", "args": {}, "inputs": load_weights(saved[1])[1]["inputs"]}
    save_weights(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, about)
    with pytest.raises(DataError, match="of the kind 'Other'; registered here are"):
        agents.load(tmp_path / "other.safetensors")


ASKED = [name for name, entry in agents.REGISTRY.items() if entry.needs_training and not entry.upper_bound]


@pytest.mark.parametrize("name", ASKED)
def test_every_system_is_asked_like_any_other(name, world, tmp_path):
    """A file is enough: the system in it answers about one video as it does about a whole split."""
    train, test = world
    if agents.incompatibility(name, train):
        pytest.skip(agents.incompatibility(name, train))
    system, sample = agents.make(name, train, seed=0, budget=0.001).fit(), 5
    system.save(str(tmp_path / "system.safetensors"))
    whole, query = system.predict(test), test.queries[sample]
    moment = agents.load(tmp_path / "system.safetensors", features="shapes-v0").predict(query.video, query.text)
    assert (moment.start, moment.end) == pytest.approx(whole.spans[sample].tolist())
    assert (moment.boxes is None) == (whole.boxes is None) and (moment.path is None) == (whole.path is None)
    assert moment.confidence is None or 0 <= moment.confidence <= 1
    if whole.ranked is not None:
        kept = whole.ranked[sample][whole.ranked[sample].isfinite().all(-1)]
        assert np.allclose(moment.ranked, kept.numpy()) and moment.ranked[0].tolist() == [moment.start, moment.end]
        sure = system.confidence(test, whole)
        order = whole.scores[:, 0].argsort()
        assert (sure[order].diff() >= 0).all() and moment.confidence == pytest.approx(float(sure[sample]), abs=1e-4)


def test_pretrained_weights_work_at_once(world):
    ready = agents.pretrained()
    assert WEIGHTS.stat().st_size < 2_000_000
    assert load_weights(WEIGHTS)[1]["inputs"]["text"]["name"] == "hashed words"
    query = world[1].queries[0]
    moment = ready.predict(query.video, query.text)
    assert moment.boxes.shape == (60, 4) and moment.end <= 6.0
    system = agents.find("strong").factory.load(str(WEIGHTS), world[1])
    # A floor that an untrained system does not reach: the file is what a training wrote.
    assert held_out(system, world[1]) > 0.7


ONE_FRAME = {
    "trl": {},
    "ctrl": dict(steps=10),
    "mcn": dict(steps=10),
    "one-shot": dict(steps=10),
    "frame classifier": dict(steps=10),
    "read": dict(steps=640, num_envs=8),
    "sm-rl": dict(steps=5, concept_steps=5),
    "tsp-prl": dict(steps=640),
}


def one_frame_videos(world, tmp_path):
    """One frame in every form that a video may have."""
    import cv2

    video = world[1].videos[0]
    image = shapes.render(video.extra["seed"], video.extra["level"])[0]
    writer = cv2.VideoWriter(str(tmp_path / "one.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (128, 128))
    writer.write(cv2.resize(image, (128, 128)))
    writer.release()
    cv2.imwrite(str(tmp_path / "one.png"), image)
    grid, frames = world[1].grid[:1], world[1].frames[:1]
    return [image, image[None], grid, (frames, grid), tmp_path / "one.avi", tmp_path / "one.png"]


def test_one_frame_is_a_video(predictor, world, tmp_path):
    for video in one_frame_videos(world, tmp_path):
        moment = predictor.predict(video, "the red circle moves left")
        assert 0 <= moment.start < moment.end <= 0.1 + 1e-6 and moment.boxes.shape == (1, 4)


@pytest.mark.parametrize("name", ONE_FRAME)
def test_every_kind_of_system_predicts_one_frame(name, world, tmp_path):
    system = agents.make(name, world[0], budget=1.0 if ONE_FRAME[name] else 0.001, **ONE_FRAME[name]).fit()
    system.save(str(tmp_path / "system.safetensors"))
    moment = agents.load(tmp_path / "system.safetensors").predict(world[1].grid[:1], "the red circle moves left")
    assert 0 <= moment.start < moment.end <= 0.1 + 1e-6


@pytest.mark.parametrize(
    "video",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((1, 2, 3, 4, 5), np.float32),
        np.zeros(3, np.float32),
        np.zeros((0, 8, 8, 20), np.float32),
        np.array(None),
        np.array(["a"]),
    ],
)
def test_arrays_that_are_no_video_are_refused(video, predictor):
    with pytest.raises(DataError):
        predictor.predict(video, "the red circle moves left")


@pytest.mark.parametrize("device", ["cuda:99", "mps", "banana", "", None, 3, "meta", b"cpu"])
def test_devices_that_cannot_be_used_are_refused(device, saved, ragged_store, tmp_path):
    with pytest.raises(DataError, match="device"):
        agents.load(saved[1], device=device)
    with pytest.raises(DataError, match="device"):
        agents.pretrained(device=device)


@pytest.mark.parametrize("duration", ["long", [], float("nan"), -1.0, float("inf"), 0])
def test_durations_that_are_no_seconds_are_refused(duration, predictor, world):
    with pytest.raises(DataError, match="duration must be a positive number of seconds"):
        predictor.predict(world[1].grid[:5], "the red circle moves left", duration=duration)
