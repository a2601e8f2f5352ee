"""Stop a training at any moment, go on, and get the weights of the training that was never stopped."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
import torch
from small_strong import FORMS, TINY_DDPG, TINY_PACE
from small_strong import tiny_strong as tiny

from strong_envs import features
from strong_envs.agents.strong.agent import Strong, make_level
from strong_envs.agents.strong.args import level_args
from strong_envs.agents.strong.cell_attention.attention import CellAttention
from strong_envs.agents.strong.presets import strong_args
from strong_envs.agents.training.checkpoint import load_weights
from strong_envs.agents.training.health import CollapseWarning, TrainingDiverged, TrainingMonitor
from strong_envs.agents.training.session import Session
from strong_envs.features.errors import DataError
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentVectorEnv


class Killed(Exception):
    """Stands for a kill: nothing is written on the way out."""


def numbers(system: Strong) -> dict[str, torch.Tensor]:
    """Everything that training changed."""
    tensors, _ = system.training_state()
    return tensors


def killed_after(count: int, path, bank, args, updates: int) -> Session:
    """Train until ``count`` updates were made, counting from the last start; returns the session."""
    ticks = 0

    def kill(training) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == count:
            raise Killed

    session = Session(path, every=None, updates=updates, resume=True, watchers=(kill,))
    with pytest.raises(Killed):
        Strong.of(bank, args).fit(checkpoint=session)
    return session


@pytest.fixture(scope="module")
def bank(ragged_store):
    return features.load(ragged_store, "train")


@pytest.mark.parametrize(("form", "frame_scores"), [*((form, False) for form in FORMS), ("uniform", True)])
def test_a_training_killed_again_and_again_ends_as_one_that_never_stopped(form, frame_scores, bank, tmp_path):
    """Kills every few updates, checkpoints every two: they fall into every stage, at its start and within it."""
    args, stages = tiny(form, frame_scores=frame_scores), set()
    straight = Strong.of(bank, args).fit()
    path = tmp_path / "checkpoint.safetensors"
    while True:
        try:
            killed_after(3, path, bank, args, updates=2)
        except pytest.fail.Exception:
            break
        stages.add(load_weights(path)[1]["stage"])
    resumed = Strong.of(bank, args)
    resumed.fit(lambda *_: None, checkpoint=Session(path, every=None, resume=True))
    wanted, got = numbers(straight), numbers(resumed)
    assert wanted.keys() == got.keys()
    for name in wanted:
        assert torch.equal(wanted[name], got[name]), name
    trained = ("spatial", "temporal") if form == "own" else ("frame attention", "spatial", "temporal")
    parts = [f"round {turn}, {part}" for turn in (1, 2) for part in trained]
    assert {"temporal alone", *parts} <= stages
    assert [s["stage"] for s in resumed.history] == [s["stage"] for s in straight.history]


@pytest.mark.parametrize("reward", ["signed_q", "attention_box"])
def test_snapshots_of_environments_go_on_alike(reward, bank):
    from strong_envs.spatial.task import SpatialConfig, SpatialTask
    from strong_envs.temporal.env import make_task

    task = make_task(bank, boxes="initial")
    look = lambda samples, frames: torch.tensor([0.1, 0.2, 0.6, 0.7]).expand(len(samples), 4)  # noqa: E731
    critic = lambda seen: seen["local"].sum(-1, keepdim=True).expand(-1, 7).cumsum(-1)  # noqa: E731
    spatial = SpatialTask(task, SpatialConfig(reward=reward, window="random"), critic, look)
    for make in (lambda: TemporalMomentVectorEnv.of(task, 16), lambda: SpatialTrackVectorEnv.of(spatial, 16)):
        one, other = make(), make()
        one.reset(seed=3)
        generator = torch.Generator().manual_seed(0)
        moves = torch.randint(int(one.single_action_space.n), (40, 16), generator=generator)
        for move in moves[:20]:
            one.step(move)
        other.restore(one.snapshot())
        for move in moves[20:]:
            (seen, paid, ended, *_), (seen2, paid2, ended2, *_) = one.step(move), other.step(move)
            assert torch.equal(paid, paid2) and torch.equal(ended, ended2)
            assert all(torch.equal(seen[name], seen2[name]) for name in seen)
        with pytest.raises(DataError, match="snapshot"):
            other.restore({"sample": torch.zeros(3)})


def test_ctrl_c_writes_a_checkpoint_between_two_updates(bank, tmp_path):
    args, path = tiny(), tmp_path / "checkpoint.safetensors"
    straight = Strong.of(bank, args).fit()
    count = 0

    def press(training) -> None:
        nonlocal count
        count += 1
        if count == 7:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Session(path, every=None, watchers=(press,)) as session:
        Strong.of(bank, args).fit(checkpoint=session)
    assert signal.getsignal(signal.SIGINT) is before
    assert session.written == 1
    resumed = Strong.of(bank, args).fit(checkpoint=Session(path, every=None, resume=True))
    wanted, got = numbers(straight), numbers(resumed)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors"]


def test_a_checkpoint_of_another_training_is_refused(bank, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    killed_after(4, path, bank, tiny(), updates=1)
    with pytest.raises(DataError, match="args.temporal.tau was 0.02, now it is 0.5"):
        other = replace(tiny(), temporal=replace(tiny().temporal, tau=0.5))
        Strong.of(bank, other).fit(checkpoint=Session(path, resume=True))
    Strong.of(bank, tiny()).save(str(tmp_path / "agent.safetensors"))
    with pytest.raises(DataError, match="not a checkpoint"):
        Session(tmp_path / "agent.safetensors", resume=True)
    with pytest.raises(DataError, match="must be positive"):
        Session(path, every=0)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="not a saved agent"):
        Session(path, resume=True)


def test_a_failed_write_leaves_the_checkpoint_before(bank, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    killed_after(4, path, bank, tiny(), updates=1)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DataError, match="cannot write .*checkpoint.safetensors.*no space"):
        Strong.of(bank, tiny()).fit(checkpoint=Session(path, every=None, updates=1, resume=True))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("form", ["own", "replay", "uniform"])
def test_numbers_that_are_lost_are_named(form, bank, tmp_path):
    system = Strong.of(bank, tiny(form))
    with torch.no_grad():
        system.temporal.critic.state_dict()[next(iter(system.temporal.critic.state_dict()))].fill_(float("nan"))
    path = tmp_path / "checkpoint.safetensors"
    said = "diverged in 'temporal alone' at step .*critic_loss nan.*lr_critic"
    with pytest.raises(TrainingDiverged, match=said) as e:
        system.fit(checkpoint=Session(path, every=None, updates=1))
    assert e.value.stage == "temporal alone" and isinstance(e.value, DataError)
    # Only what came before the first update was stored.
    assert (load_weights(path)[1]["training"] or {"iteration": 0})["iteration"] <= 3


def test_a_collapsed_actor_is_named_once():
    watch = TrainingMonitor("round 1, temporal", 1000, n_actions=7)
    with pytest.warns(CollapseWarning, match="collapsed in 'round 1, temporal' at step 50.*entropy") as caught:
        for step in range(0, 400, 10):
            watch.alive(step, 1e-4, 5)
    assert len(caught) == 1
    watch = TrainingMonitor("training", 1000, n_actions=7, exact=True)
    with pytest.warns(CollapseWarning, match="one and the same action"):
        for step in range(0, 400, 10):
            watch.alive(step, 1e-4, 1)


def test_a_healthy_actor_is_left_alone(recwarn):
    watch = TrainingMonitor("training", 1000, n_actions=7)
    for step in range(0, 1000, 10):
        watch.alive(step, 0.3, 1 if step % 100 else 2)
    exact = TrainingMonitor("training", 1000, n_actions=7, exact=True)
    for step in range(0, 1000, 10):
        exact.alive(step, 1e-4, 3)
    assert not [w for w in recwarn if issubclass(w.category, CollapseWarning)]


def test_training_with_a_collapsed_actor_warns(bank):
    level = level_args(algorithm="ddpg", **TINY_PACE, **TINY_DDPG, lr_actor=1e-9)
    system = Strong.of(bank, strong_args(boxes="frame", pretrain_steps=4000, temporal=level))
    with torch.no_grad():
        layer = [p for p in system.temporal.actor.parameters()][-1]
        layer[2] += 100
    with pytest.warns(CollapseWarning, match="temporal"):
        system.fit()


@pytest.mark.parametrize("form", ["own", "replay"])
def test_state_of_an_agent_is_all_of_it(form, bank):
    """Nothing that training changes is missing from its state."""
    system = Strong.of(bank, tiny(form))
    held, groups = system.temporal.training_state()
    assert {name.split(".")[0] for name in held} == {"weights", "generator"}
    system.fit()
    held, groups = system.temporal.training_state()
    assert {name.split(".")[0] for name in held} == {"weights", "generator", "optimiser"}
    attention = CellAttention(bank, system.args.cells, seed=9) if form == "own" else None
    twin = make_level(system.task, system.temporal.args, attention=attention)
    twin.load_training_state(held, groups)
    again, _ = twin.training_state()
    assert held.keys() == again.keys() and all(torch.equal(held[name], again[name]) for name in held)
