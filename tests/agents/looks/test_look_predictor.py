"""From a file to an answer: only what is looked at is decoded; a saved predictor answers as the one that was saved."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import torch

from strong_envs import features
from strong_envs.agents.looks.predict import LookPredictor
from strong_envs.agents.looks.sensor import SensorArgs
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.features import DataError
from strong_envs.features.shapes import render


@pytest.fixture(scope="module")
def predictor():
    return LookPredictor.fit(features.load("shapes-v0"), SensorArgs(steps=12))


def write(path, frames):
    """An AVI of independent JPEG pictures at 10 frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def frames():
    return np.concatenate([render(seed, "standard") for seed in (7, 8)])


def test_frames_that_are_not_looked_at_do_not_matter(predictor, frames, tmp_path, capsys):
    path = write(tmp_path / "a.avi", frames)
    moment = predictor.predict(path, "the red circle moves left", looks=8)
    assert capsys.readouterr().out.strip() == str(moment) and "of 120 frames read in" in str(moment)
    assert moment.rows == 120 and len(moment.times) == 8 and 8 < moment.frames <= 16
    assert 0 <= moment.start < moment.end <= 12.0
    seen = {round(t * 10 - 0.5) for t in moment.times} | {round(t * 10 - 1.5) for t in moment.times}
    other = np.random.default_rng(0).integers(0, 255, frames.shape, np.uint8)
    other[sorted(row for row in seen if row >= 0)] = frames[sorted(row for row in seen if row >= 0)]
    again = predictor.predict(write(tmp_path / "b.avi", other), "the red circle moves left", looks=8, say=False)
    assert (again.start, again.end, again.times, again.log_odds) == (
        moment.start,
        moment.end,
        moment.times,
        moment.log_odds,
    )


def test_all_frames_are_read_where_no_number_is_given(predictor, frames, tmp_path):
    moment = predictor.predict(write(tmp_path / "a.avi", frames[:30]), "a blue square grows", looks=None, say=False)
    assert moment.frames == moment.rows == len(moment.times) == 30
    few = predictor.predict(tmp_path / "a.avi", "a blue square grows", looks=500, say=False)
    assert few.frames == 30


def test_a_saved_predictor_answers_as_before(predictor, frames, tmp_path):
    path = write(tmp_path / "a.avi", frames[:40])
    file = predictor.save(tmp_path / "looks.safetensors")
    first = predictor.predict(path, "a green triangle blinks", looks=6, say=False)
    second = LookPredictor.load(file).predict(path, "a green triangle blinks", looks=6, say=False)
    assert (first.start, first.end, first.log_odds) == (second.start, second.end, second.log_odds)


def test_bad_input_is_explained(predictor, tmp_path):
    with pytest.raises(DataError, match="no video file"):
        predictor.predict(tmp_path / "none.mp4", "a red circle")
    with pytest.raises(DataError, match="sentence must be"):
        predictor.predict(tmp_path / "none.mp4", " ")
    with pytest.raises(DataError, match="no agent at"):
        LookPredictor.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"first": "a"}, "first must lie in"), ({"first": 2}, "first must lie in"), ({"looks": 0}, "looks must be")],
)
def test_shares_and_numbers_of_looks_are_checked_before_a_file_is_opened(arguments, words, predictor, tmp_path):
    with pytest.raises(DataError, match=words):
        predictor.predict(tmp_path / "none.mp4", "a red circle", **arguments)


def test_a_path_that_is_none_is_explained(predictor):
    with pytest.raises(DataError, match="path must name a video file, got None"):
        predictor.predict(None, "a red circle")


@pytest.mark.parametrize(
    ("tensors", "about", "words"),
    [
        ({"lengths": None}, {}, "lengths of moments"),
        ({"prior": torch.zeros(1)}, {}, "lengths of moments"),
        ({"lengths": torch.tensor([10**9]), "prior": torch.zeros(1)}, {}, "lengths of moments"),
        ({"lengths": torch.tensor([0]), "prior": torch.zeros(1)}, {}, "lengths of moments"),
        ({"other": torch.zeros(1)}, {}, "unknown tensors"),
        ({}, {"weight": None}, "weight"),
        ({}, {"clip": "x"}, "clip"),
        ({}, {"whole_frames": 3}, "whole_frames"),
    ],
)
def test_a_file_that_was_written_by_other_hands_is_refused(tensors, about, words, predictor, tmp_path):
    held, header = load_weights(predictor.save(tmp_path / "a.safetensors"))
    held = {name: value for name, value in (held | tensors).items() if value is not None}
    file = save_weights(tmp_path / "b.safetensors", held, header | about)
    with pytest.raises(DataError, match=words):
        LookPredictor.load(file)


@pytest.mark.slow
def test_half_an_hour_is_searched_by_reading_twenty_frames(shared_data, tmp_path):
    """Prints seconds; what is asserted does not depend on the machine."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("sentence_transformers")
    from visitors_long import half_an_hour, visitors_store

    source = shared_data / "visitors" / "visitors.mp4"
    if not source.is_file():
        pytest.skip("visitors.mp4 is absent")
    store, sentence = visitors_store(shared_data / "visitors", tmp_path)
    predictor = LookPredictor.fit(features.load(store, "train"), SensorArgs(steps=100))
    long, window = half_an_hour(source, tmp_path / "long.mp4")
    begun = time.perf_counter()
    moment = predictor.predict(long, sentence, looks=20)
    print(f"{time.perf_counter() - begun:.1f} s, true window {window}")
    assert moment.rows > 3000 and moment.frames == 20
    assert 0 <= moment.start < moment.end <= 1810


def test_a_store_can_be_named_and_what_is_none_is_explained(tmp_path):
    assert LookPredictor.fit("shapes-v0", SensorArgs(steps=1)).inputs["query_dim"] > 0
    for call, words in (
        (lambda: LookPredictor.fit("shapes-v00"), "shapes-v00"),
        (lambda: LookPredictor.fit(None), "bank must be a FeatureBank, or the key or path of a store; got None"),
        (lambda: LookPredictor.load(None), "path must name a file of LookPredictor.save, got None"),
    ):
        with pytest.raises(DataError, match=words):
            call()
