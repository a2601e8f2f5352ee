"""Offline data sets of Minari: three kinds of data of every environment, reproducible, with their environments."""

from __future__ import annotations

import json

import numpy as np
import pytest

import strong_envs
from strong_envs.adapters.offline import RANDOM_SHARE, default_name, record
from strong_envs.benchmarks.cli import main
from strong_envs.features import DataError


@pytest.fixture
def place(tmp_path, monkeypatch):
    pytest.importorskip("minari", reason="minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def returns(dataset):
    return np.mean([episode.rewards.sum() for episode in dataset.iterate_episodes()])


def test_better_kinds_have_higher_returns(place):
    data = {kind: record("TemporalMomentFlat-v0", kind, 12, seed=3) for kind in RANDOM_SHARE}
    assert all(dataset.total_episodes == 12 for dataset in data.values())
    assert returns(data["oracle"]) > returns(data["medium"]) > returns(data["random"])
    # All begin with the same videos.
    first = [next(dataset.iterate_episodes()).observations[0] for dataset in data.values()]
    assert (first[0] == first[1]).all() and (first[0] == first[2]).all()


def test_a_seed_gives_the_same_data(place):
    one, other = (record("TemporalMomentFlat-v0", "medium", 3, name=f"mine/copy{i}-v0", seed=5) for i in range(2))
    for first, second in zip(one.iterate_episodes(), other.iterate_episodes(), strict=True):
        assert (first.actions == second.actions).all() and (first.rewards == second.rewards).all()


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_every_environment_is_recorded_and_recovered(name, place):
    dataset = record(name, "random", 2)
    env = dataset.recover_environment(eval_env=True)
    assert env.unwrapped.bank.split == "test" and env.spec.id == name
    assert "tiou" in env.reset(seed=0)[1] or name == "SpatialTrack-v0"


def test_the_command_says_what_it_wrote_and_never_replaces(place, capsys):
    words = ["offline-data", "--kind", "random", "--episodes", "2", "--json"]
    assert main(words) == 0
    about = json.loads(capsys.readouterr().out)
    assert (
        about["id"] == default_name("TemporalMomentFlat-v0", "random") == "strong-envs/temporal-moment-flat/random-v0"
    )
    assert about["episodes"] == 2 and about["steps"] >= 2
    assert main(words) == 2 and "exists" in capsys.readouterr().err


def test_bad_arguments_are_one_sentence(place):
    with pytest.raises(DataError, match="kind must be"):
        record("TemporalMoment-v0", "expert")
    for name in ("mine", "", "../mine-v0", "a/../../mine-v0"):
        with pytest.raises(DataError, match="FOLDER/NAME-v0"):
            record("TemporalMoment-v0", name=name)
    with pytest.raises(DataError, match="env_id must be one of"):
        record("CartPole-v1")


def test_without_minari_it_is_one_sentence(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "minari", None)
    assert main(["offline-data"]) == 2
    assert 'pip install "strong-envs[minari]"' in capsys.readouterr().err
