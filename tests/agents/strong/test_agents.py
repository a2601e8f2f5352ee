"""Levels that learn, their replay and networks, and STRONG in turns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_stores import random_store
from small_strong import small_level, small_strong

from strong_envs import agents, features
from strong_envs.agents.strong.agent import Strong, make_level
from strong_envs.agents.strong.args import level_args
from strong_envs.agents.strong.cell_attention.attention import AttendedFeatures
from strong_envs.agents.strong.levels.training import train
from strong_envs.agents.strong.presets import strong_args
from strong_envs.agents.strong.stored import KNOWN_SENTENCES
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.agents.training.networks import Actor, Critic, Standardise
from strong_envs.agents.training.replay import IndexReplay
from strong_envs.core.rewards import critic_rewards
from strong_envs.features.errors import DataError
from strong_envs.rollout import localise
from strong_envs.temporal.env import TemporalMomentVectorEnv, make_task
from strong_envs.temporal.task import TemporalConfig


def test_critic_values_all_actions_like_one_by_one():
    torch.manual_seed(0)
    critic, x = Critic(11, 7, (16, 8, 4)), torch.randn(5, 11)
    one_by_one = [critic(x, torch.eye(7)[a].expand(5, 7)) for a in range(7)]
    assert torch.allclose(critic.all_actions(x), torch.stack(one_by_one, 1), atol=1e-6)


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    actor, critic, x = Actor(6, 7, (8, 8)), Critic(6, 7, (8, 8, 8)), torch.randn(64, 6)
    critic(x, actor(x)).sum().backward()
    for module in (actor, critic):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_standardised_inputs_and_hidden_parts():
    shapes = {"query": (3,), "local": (2,)}
    inputs = Standardise(shapes, hidden=("local",))
    batch = {"query": torch.randn(500, 3) * 7 + 4, "local": torch.randn(500, 2)}
    inputs.fit(batch)
    out = inputs(batch)
    assert torch.allclose(out[:, :3].mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(out[:, :3].std(0), torch.ones(3), atol=1e-3)
    assert out[:, 3:].abs().max() == 0


def test_replay_forgets_the_oldest_and_returns_what_was_stored():
    replay = IndexReplay(10, torch.device("cpu"))
    for i in range(0, 24, 4):
        replay.add(a=torch.arange(i, i + 4), b=torch.arange(i, i + 4).to(torch.float64) / 2)
    assert replay.size == 10
    drawn = replay.sample(500, torch.Generator().manual_seed(0))
    assert set(drawn["a"].tolist()) == set(range(14, 24))
    assert torch.equal(drawn["a"] / 2, drawn["b"])


def test_a_transition_is_some_tens_of_bytes(ragged_store):
    env = TemporalMomentVectorEnv(8, ragged_store, autoreset_mode="SameStep", output="torch", observation="index")
    env.reset(seed=0)
    state = env.state()
    env.step(torch.zeros(8, dtype=torch.int64))
    replay = IndexReplay(1000, torch.device("cpu"))
    replay.add(
        **{f"state.{k}": v for k, v in state.items()},
        **{f"next.{k}": v for k, v in env.reached.items()},
        action=torch.zeros(8, dtype=torch.uint8),
        reward=torch.zeros(8),
        terminated=torch.zeros(8, dtype=torch.bool),
    )
    assert replay.nbytes / replay.capacity < 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "options", "least"),
    [
        ({}, {"algorithm": "dqn"}, 0.7),
        ({}, {"algorithm": "ddpg"}, 0.6),
        ({}, {"algorithm": "full feedback"}, 0.6),
        # More moves than there are steps to make them in: what matters is to take the long ones first.
        ({"multi_scale": True, "reward": "iou_delta", "phi": 0.001}, {"algorithm": "dqn", "gamma": 0.5}, 0.8),
        ({"multi_scale": True}, {"algorithm": "full feedback", "objective": "distil"}, 0.8),
    ],
)
def test_every_algorithm_overfits_ten_samples(environment, options, least):
    bank = features.load("shapes-v0", "train")
    task = make_task(bank, boxes="truth", **environment)
    ten = torch.arange(10)

    class TenSamples(TemporalMomentVectorEnv):
        def _start(self, mask, options):
            self.sample = self.sample % 10
            super()._start(mask, options)

    env = TenSamples.of(task, 32)
    args = level_args(steps=20_000, num_envs=32, batch=128, updates=2, warmup=640, **options)
    agent = train(make_level(task, args), env)

    def miou(policy):
        spans = localise(task, policy, ten).spans / task.seconds[ten][:, None]
        return float(task.iou(ten, spans[:, 0], spans[:, 1], "clamped").mean())

    untrained = make_level(task, args)
    assert miou(agent.act) > max(least, miou(untrained.act) + 0.2)


@pytest.mark.parametrize("good", [0, 3, 6])
def test_select_value_takes_the_window_that_is_valued_most(good, ragged_store):
    """A policy that shifts forward six times; its critic would stop after ``good`` of them, the last included."""
    task = make_task(ragged_store, boxes="frame", max_steps=6, initial_span=(0.0, 0.5))
    samples = torch.arange(len(task.bank))

    def forward(observation):
        return torch.full((len(observation["query"]),), 4)

    def value(observation):
        q = torch.zeros(len(observation["query"]), 7)
        q[:, 6] = -abs(observation["location"][:, 0] * 20 - good)
        return q

    last = localise(task, forward, samples)
    chosen = localise(task, forward, samples, value=value)
    assert torch.allclose(last.spans[:, 0], 6 * task.seconds) and torch.equal(last.path, chosen.path)
    assert torch.allclose(chosen.spans[:, 0], good * task.seconds)


def test_select_is_an_argument_of_strong(ragged_store):
    bank = features.load(ragged_store, "train")
    with pytest.raises(DataError, match="select must be one of .*did you mean 'value'"):
        Strong.of(bank, strong_args(select="vaule"))
    assert strong_args().select == "last"
    found = [Strong.of(bank, strong_args(boxes="frame", select=one)).predict(bank) for one in ("last", "value")]
    assert torch.equal(found[0].path, found[1].path) and not torch.equal(found[0].spans, found[1].spans)
    on_path = (found[1].path - found[1].spans[:, None]).abs().amax(-1).amin(1)
    assert (on_path < 1e-9).all()


def test_values_of_a_critic_that_was_not_saved_are_refused(ragged_store, tmp_path):
    bank = features.load(ragged_store, "train")
    for algorithm in ("ddpg", "dqn"):
        args = strong_args(boxes="frame", select="value", temporal=level_args(algorithm=algorithm))
        system, path = Strong.of(bank, args), str(tmp_path / f"{algorithm}.safetensors")
        system.save(path, lean=True)
        if algorithm == "ddpg":
            with pytest.raises(DataError, match="saved without"):
                Strong.load(path, bank).predict(bank)
        else:
            # A value-based agent acts by its critic, which is therefore in every file.
            assert torch.equal(Strong.load(path, bank).predict(bank).spans, system.predict(bank).spans)


@pytest.mark.parametrize(
    "options", [{}, {"reward": "iou_delta"}, {"reward": "read", "start": "random"}, {"invalid": "penalty"}]
)
def test_action_rewards_are_what_a_step_pays(options, ragged_store):
    env = TemporalMomentVectorEnv(
        32, ragged_store, autoreset_mode="SameStep", output="torch", observation="index", **options
    )
    env.reset(seed=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        state = env.state()
        action = torch.randint(7, (32,), generator=generator)
        _, reward, *_ = env.step(action)
        promised = env.action_rewards(state).gather(1, action[:, None])[:, 0]
        assert torch.allclose(promised, reward, atol=1e-6)


def test_gains_tell_long_moves_from_short_ones(ragged_store):
    """Signs pay every move towards the truth alike; with gains the longest that does not overshoot is the best."""
    env = TemporalMomentVectorEnv(
        8, ragged_store, autoreset_mode="SameStep", output="torch", observation="index", multi_scale=True, phi=0.0
    )
    env.reset(seed=0)
    state = env.state() | {"start": torch.zeros(8, dtype=torch.float64), "end": torch.full((8,), 20.0).double()}
    signs, paid = env.action_rewards(state), env.action_rewards(state, gain=1.0)
    assert env.has_multi_scale and torch.equal(signs, signs.sign()) and ((paid - signs).abs() <= 1).all()
    late = (signs[:, [0, 7, 13]] == 1).all(1)
    assert late.any(), "start forward helps at all three sizes"
    assert (paid[late, 0] > paid[late, 7]).all() and (paid[late, 7] > paid[late, 13]).all()
    assert (env.action_rewards(state)[:, 6] == 0).all() and (paid[:, 6] == 0).all()


@pytest.mark.slow
def test_training_repeats_bit_for_bit_and_depends_on_the_seed(ragged_store):
    bank = features.load(ragged_store, "train")
    weights = []
    for seed in (0, 0, 1):
        system = Strong.of(bank, small_strong("frame", seed=seed)).fit()
        weights.append(torch.cat([p.flatten() for p in system.temporal.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


DDPG = {"temporal": small_level("ddpg"), "spatial": small_level("ddpg", stop=8)}
FORMS = {
    "own rewards": {},
    "plain network": {"temporal": small_level(network="plain", hidden=(8, 12))},
    "frame labels": {"learns_from": "frame labels"},
    "all rewards": {"learns_from": "all rewards"},
    "ddpg": {"learns_from": "frame labels", **DDPG},
    "ddpg by its critic": {
        "learns_from": "frame labels",
        "temporal": small_level("ddpg", greedy="critic", network="matching", width=8),
        "spatial": small_level("ddpg", greedy="critic", stop=8),
    },
    "ddpg over cells": {"temporal": small_level("ddpg", network="matching", width=8)},
    "ddpg over cells by its critic": {"temporal": small_level("ddpg", greedy="critic", network="matching", width=8)},
    "attention over frames": {"learns_from": "frame labels", "attention": "frames"},
    "attention over frames, plain": {
        "learns_from": "frame labels",
        "attention": "frames",
        "temporal": small_level(network="plain"),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_strong_moves_boxes_and_survives_saving(form, ragged_store, tmp_path):
    bank, test = features.load(ragged_store, "train"), features.load(ragged_store, "test")
    stages = []
    system = Strong.of(bank, small_strong(**FORMS[form])).fit(lambda stage, *_: stages.append(stage))
    assert [s["stage"] for s in system.history] == ["pre-training", "round 1"]
    assert {"temporal alone", "round 1, spatial", "round 1, temporal"} <= set(stages)
    before = system.predict(test)
    assert before.boxes.shape == (int(test.n_frames[test.video].sum()), 4)
    assert (before.boxes[..., 2:] > before.boxes[..., :2]).all()
    assert before.boxes.min() >= 0 and before.boxes.max() <= 1
    sizes = []
    for lean in (False, True):
        path = tmp_path / f"{lean}.safetensors"
        system.save(str(path), lean=lean)
        loaded = Strong.load(str(path), bank)
        after = loaded.predict(test)
        for name in ("spans", "length", "path", "boxes", "frames_seen"):
            assert torch.equal(getattr(before, name), getattr(after, name)), name
        assert torch.equal(system.confidence(test, before), loaded.confidence(test, after))
        sizes.append(path.stat().st_size)
        # A system that was loaded from a lean file stays lean.
        loaded.save(str(tmp_path / "again.safetensors"))
        assert (tmp_path / "again.safetensors").stat().st_size == pytest.approx(sizes[-1], rel=0.02)
    assert sizes[1] < 0.8 * sizes[0]


def test_a_ramp_moves_steps_to_later_turns_and_keeps_their_sum(ragged_store):
    args = strong_args(rounds=3, temporal_steps=700, ramp=2.0)
    assert [args.turn_steps(turn) for turn in (1, 2, 3)] == [300, 600, 1200]
    assert [strong_args(rounds=3, temporal_steps=700, ramp=1.0).turn_steps(turn) for turn in (1, 2, 3)] == [700] * 3
    with pytest.raises(DataError, match=r"ramp must be a number in \(0, 100\], got 0"):
        Strong.of(features.load(ragged_store, "train"), strong_args(ramp=0.0))


def test_frames_may_be_longer_than_cells(tmp_path):
    """f_o comes from whole frames first and from boxes later; a store whose two lengths differ trains all the same."""
    random_store(tmp_path / "wide", [7, 12, 9, 5], wider=5)
    bank = features.load(str(tmp_path / "wide"), "train")
    strong = Strong.of(bank, small_strong())
    before = strong.predict(bank, use_tracker=False)
    strong.fit().save(str(tmp_path / "wide.safetensors"))
    loaded = Strong.load(str(tmp_path / "wide.safetensors"), bank)
    assert torch.equal(loaded.predict(bank).path, strong.predict(bank).path)
    assert before.boxes is None and torch.isfinite(before.spans).all()
    with pytest.raises(DataError, match="6 numbers and a frame .* has 11"):
        Strong.of(bank, small_strong(learns_from="frame labels", attention="frames"))


def test_spans_stay_inside_their_videos(ragged_store):
    bank, test = features.load(ragged_store, "train"), features.load(ragged_store, "test")
    spans = Strong.of(bank, small_strong("frame")).fit().predict(test).spans
    assert (spans[:, 0] >= 0).all() and (spans[:, 0] < spans[:, 1]).all()
    assert (spans[:, 1] <= test.duration[test.video] + 1e-9).all()


def test_paper_preset_has_the_papers_state_and_numbers(ragged_store):
    args = strong_args("paper")
    level = args.temporal
    assert level.algorithm == args.spatial.algorithm == "ddpg" and args.learns_from == "own rewards"
    assert (level.lr_actor, level.gamma, level.tau, level.batch, level.weights_std) == (0.01, 0.2, 0.02, 128, 0.1)
    assert (level.actor_hidden, level.critic_hidden) == ((500, 128), (1024, 512, 300))
    assert args.temporal_env.phi == 0.1 and args.temporal_env.z_e == 10 and args.spatial_env.z_s == 10
    assert not args.temporal_env.context and args.spatial_env.reward == "q_value"
    bank = features.load(ragged_store, "train")
    strong = Strong.of(bank, replace(args, boxes="frame"))
    assert list(strong.task.dims()) == ["query", "location", "local", "global", "frames", "taken"]
    assert strong.temporal.inputs.size == bank.query_dim + 2 + 2 * bank.frame_dim


@pytest.mark.parametrize("reward", critic_rewards())
def test_rewards_that_compare_values_train_with_what_goes_with_them(reward, ragged_store):
    bank = features.load(ragged_store, "train")
    system = agents.make("strong", bank, budget=0.001, rounds=1, spatial_env={"reward": reward})
    args = system.args
    assert system.frame_attention is None and args.spatial.network == "matching" and args.random_boxes > 0
    assert system.fit().spatial.inputs.windows == ["inside", "scene", "around"]
    asked = agents.make("strong", bank, budget=0.001, spatial_env={"reward": reward, "surroundings": False})
    assert not asked.args.spatial_env.surroundings, "what is asked for stays"
    wrong = agents.make(
        "strong (all rewards)",
        bank,
        budget=0.001,
        spatial_env={"reward": reward},
        spatial={"algorithm": "full feedback"},
    )
    with pytest.raises(DataError, match="train with algorithm='dqn' or 'ddpg'"):
        wrong.fit()


def test_wrong_requests_are_explained(ragged_store, tmp_path):
    bank = features.load(ragged_store, "train")
    with pytest.raises(DataError, match="did you mean 'trl'"):
        agents.make("tlr", bank)
    with pytest.raises(DataError, match="boxes must be one of"):
        Strong.of(bank, small_strong("nowhere"))
    for wrong, says in (
        ({"preset": "papre"}, "did you mean 'paper'"),
        ({"gama": 0.1}, "no argument 'gama'; did you mean 'gamma'"),
        ({"algorithm": "dnq"}, "algorithm must be one of .*did you mean 'dqn'"),
        ({"lr_actor": 0.1}, "lr_actor is an argument of algorithm='ddpg' and 'full feedback', not 'dqn'"),
        ({"algorithm": "ddpg", "critic": "head"}, "did you mean 'heads'"),
        ({"algorithm": "ddpg", "states": "uniform"}, "states is an argument of algorithm='full feedback', not 'ddpg'"),
        ({"network": "matchin"}, "did you mean 'matching'"),
    ):
        with pytest.raises(DataError, match=says):
            level_args(**wrong)
    with pytest.raises(DataError, match="no agent at"):
        load_weights(tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(DataError, match="not a saved agent"):
        load_weights(tmp_path / "broken.safetensors")
    save_weights(tmp_path / "good.safetensors", {"a": torch.zeros(2)}, {"b": 1})
    assert load_weights(tmp_path / "good.safetensors")[1] == {"b": 1}


def test_a_store_without_grid_is_refused_before_training(tmp_path):
    from random_stores import random_store

    bank = features.load(str(random_store(tmp_path / "flat", [5, 6, 7, 8], grid=False).path), "train")
    assert agents.incompatibility("trl", bank) is None
    for name in ("strong", "trl+gau"):
        assert "grid" in agents.incompatibility(name, bank)
        with pytest.raises(DataError, match="grid"):
            agents.make(name, bank)


def peaks_of(system, bank):
    """Boxes around the peak of the attention that the boxes of a system follow."""
    if system.frame_attention is not None:
        return system.frame_attention.boxes(bank)
    return AttendedFeatures(system.words.bank(bank), system.cell_attention).peaks


@pytest.mark.parametrize("learns_from", ["own rewards", "frame labels"])
def test_a_static_attention_box_is_the_median_of_the_attention_boxes_of_its_video(learns_from, ragged_store):
    bank, test = (features.load(ragged_store, split) for split in ("train", "test"))
    kinds = ("static_attention", "attention")
    still, moving = (Strong.of(bank, small_strong(boxes, learns_from)).fit() for boxes in kinds)
    found, peaks = still.predict(test).boxes, peaks_of(still, test)
    assert found.shape == peaks.shape and still.spatial is None
    assert torch.equal(moving.predict(test).boxes, peaks_of(moving, test))
    lengths = test.n_frames[test.video].tolist()
    for boxes, frames_seen in zip(found.split(lengths), peaks.split(lengths), strict=True):
        assert (boxes == boxes[0]).all()
        ordered = frames_seen.sort(0).values[(len(frames_seen) - 1) // 2]
        assert torch.equal(boxes[0], ordered)
    if learns_from == "frame labels":
        assert torch.equal(still.task.local.boxes, still.boxes(bank)), "trained on the boxes that it gives"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learns_from": "own reward"}, "learns_from must be one of .*did you mean 'own rewards'"),
        ({"attention": True}, "attention must be one of"),
        ({"attention": "none"}, "follow an attention; with learns_from='own rewards' it must be attention='cells'"),
        ({"learns_from": "all rewards", "attention": "cells"}, "must be 'dqn' or 'ddpg', got 'full feedback'"),
        ({"temporal": level_args(algorithm="full feedback"), "attention": "none"}, "'full feedback' learns from"),
        ({"learns_from": "all rewards", "spatial": level_args(stop=8)}, None),
        ({"learns_from": "all rewards", "temporal": level_args(), "spatial": level_args(stop=8)}, "does not agree"),
        ({"temporal_env": TemporalConfig(time_in_observation=True)}, "needs time_in_observation=False"),
        ({"temporal_env": TemporalConfig(global_scope="moment")}, "attention='cells' needs .*global_scope='video'"),
    ],
)  # fmt: skip
def test_what_a_system_learns_from_must_agree_with_its_parts(options, says):
    if says is None:
        strong_args(**options)
        return
    with pytest.raises(DataError, match=says):
        strong_args(**options)


def test_attention_over_cells_needs_cells_and_boxes(ragged_store, tmp_path):
    flat = features.load(str(random_store(tmp_path / "flat", [5, 6, 7, 8], grid=False).path), "train")
    with pytest.raises(DataError, match="attention='cells' needs a spatial grid.*use attention='none'"):
        Strong.of(flat, small_strong("frame", attention="cells"))
    bank = features.load(ragged_store, "train")
    with pytest.raises(DataError, match="boxes='cells' has none; use attention='none'"):
        Strong.of(bank, small_strong("cells", attention="cells"))


def test_a_loaded_system_reads_unknown_words_as_the_one_that_was_saved(ragged_store, tmp_path):
    bank, other = (features.load(ragged_store, split) for split in ("train", "test"))
    system, path = Strong.of(bank, strong_args(boxes="frame")), str(tmp_path / "trl.safetensors")
    system.save(path)
    loaded = Strong.load(path, other)
    assert torch.equal(loaded.words.known, system.words.known) and len(system.words.known)
    assert torch.equal(loaded.predict(other).spans, system.predict(other).spans)
    tensors, about = load_weights(path)
    save_weights(path, tensors | {KNOWN_SENTENCES: torch.zeros(3, 2)}, about)
    with pytest.raises(DataError, match=f"unusable {KNOWN_SENTENCES!r}"):
        Strong.load(path, other)
