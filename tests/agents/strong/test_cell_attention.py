"""Attention over the cells of frames, what the temporal level observes of it, and its training."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from fake_device import OnlyOn
from random_stores import random_store
from small_strong import CELLS, small_level

from strong_envs import features
from strong_envs.agents.strong.agent import make_level
from strong_envs.agents.strong.cell_attention.attention import (
    AttendedFeatures,
    AttendedTask,
    CellAttention,
    CellAttentionArgs,
    observe_stretches,
    peak_boxes,
)
from strong_envs.agents.strong.cell_attention.training import CellAttentionTraining, QueryReplay
from strong_envs.agents.training.health import CollapseWarning
from strong_envs.features.bank.pooling import box_weights
from strong_envs.temporal.task import TemporalConfig

HEIGHT, WIDTH, CELLS_OF_A_FRAME = 4, 5, 20
CONFIG = TemporalConfig(multi_scale=True, reward="iou_delta", phi=0.001)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Videos of 20 frames: a stretch of 20 is a frame, and so is a step."""
    path = random_store(tmp_path_factory.mktemp("cells") / "store", [20] * 6, windows=2).path
    return features.load(str(path), "train")


@pytest.fixture(scope="module")
def attention(bank):
    made = CellAttention(bank, CellAttentionArgs(stretches=20, hidden=8), seed=0).eval()
    with torch.no_grad():  # scores that differ, as they do after a training
        made.score.out.weight.mul_(6)
    return made


# The attention -----------------------------------------------------------------------------------------------------


def test_features_are_means_of_cells_by_softmax_weights(bank, attention):
    torch.manual_seed(0)
    cells, query = torch.randn(3, 4, CELLS_OF_A_FRAME, 6), torch.randn(3, bank.query_dim)
    seen, weights = attention(cells, query)
    assert seen.shape == (3, 4, 6) and weights.shape == (3, 4, CELLS_OF_A_FRAME)
    assert torch.allclose(weights, attention.score(cells, query).softmax(-1))
    assert torch.allclose(seen[1, 2], weights[1, 2] @ cells[1, 2], atol=1e-5)
    assert weights.amax(-1).mean() > 2 / CELLS_OF_A_FRAME, "the test wants scores that differ"


def test_scores_that_are_known_give_the_same_features(bank, attention):
    corners = torch.tensor([0.1, 0.2, 0.6, 0.9]).expand(int(AttendedFeatures(bank, attention).rows[-1]), 4)
    for boxes in (None, corners):
        whole = AttendedFeatures(bank, attention)
        assert whole.peaks.shape == (len(corners), 4)  # its scores are computed
        again = AttendedFeatures(bank, attention, boxes, scored=whole)
        assert torch.equal(again.means.prefix, AttendedFeatures(bank, attention, boxes).means.prefix)


def test_a_box_limits_the_attention_to_its_cells(bank, attention):
    cells, query = torch.randn(2, 3, CELLS_OF_A_FRAME, 6), torch.randn(2, bank.query_dim)
    box = torch.tensor([0.2, 0.25, 0.6, 0.75])  # columns 1 and 2 of five, rows 1 and 2 of four
    inside = box_weights(box.expand(2, 3, 4), HEIGHT, WIDTH)
    covered = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    covered[1:3, 1:3] = True
    covered = covered.flatten()
    _, limited = attention(cells, query, inside)
    assert limited[..., ~covered].sum(-1).max() < 1e-3
    alone = attention.score(cells, query)[..., covered].softmax(-1)
    assert torch.allclose(limited[..., covered], alone, atol=1e-3)
    # A box around everything limits nothing.
    whole = box_weights(torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 3, 4), HEIGHT, WIDTH)
    assert torch.allclose(attention(cells, query, whole)[1], attention(cells, query)[1], atol=1e-4)


def test_frames_are_attended_one_by_one_as_stretches_are(bank, attention):
    seen, peaks = attention.attend(bank), AttendedFeatures(bank, attention).peaks
    maps = attention.maps(bank, bank.video, 20).to(torch.float32)
    with torch.no_grad():
        expected, _ = attention(maps, attention.query(bank.query))
    assert torch.allclose(seen.view(len(bank), 20, 6), expected, atol=0.02), "but for half precision"
    assert peaks.shape == (len(bank) * 20, 4) and peaks.min() >= 0 and peaks.max() <= 1
    assert (peaks[:, 2:] - peaks[:, :2]).min() >= attention.args.size - 1e-5
    boxes = torch.tensor([0.2, 0.25, 0.6, 0.75]).expand(len(bank) * 20, 4)
    limited = attention.attend(bank, boxes)
    assert torch.equal(AttendedFeatures(bank, attention, boxes).peaks, peaks), "peaks are those of the whole frame"
    with torch.no_grad():
        inside = box_weights(boxes.view(len(bank), 20, 4), HEIGHT, WIDTH)
        expected, _ = attention(maps, attention.query(bank.query), inside)
    assert torch.allclose(limited.view(len(bank), 20, 6), expected, atol=0.02)


@pytest.mark.parametrize("n", [1, 7, 20, 33])
def test_maps_are_means_over_stretches(n, tmp_path):
    bank = features.load(str(random_store(tmp_path / "one", [n, n]).path), "train")
    attention = CellAttention(bank, CellAttentionArgs(hidden=8))
    maps = attention.maps(bank, torch.tensor([1]), 10)[0].to(torch.float32)
    frames = attention.frames(bank.grid[n : 2 * n])
    for k in (0, 4, 9):
        low = k * n // 10
        high = max(-(-(k + 1) * n // 10), low + 1)
        assert torch.allclose(maps[k], frames[low:high].mean(0), atol=0.01)


def boxes_around(row, column, shape=((0, 0),)):
    """The box of an attention that rests on one cell of an object whose cells lie at ``shape`` from it."""
    weights, cells = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, 3)
    weights[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0.01
    weights[0, row, column] = 0.92
    for down, right in shape:
        cells[0, row + down, column + right, 0] = 2
    return peak_boxes(weights.flatten(1)[None], cells.flatten(1, 2), 8, 8, 0.2)[0, 0]


@pytest.mark.parametrize(("row", "column"), [(2, 2), (3, 5), (5, 3)])
def test_the_box_lies_around_the_object_that_the_attention_rests_on(row, column):
    one = boxes_around(row, column)
    expected = torch.tensor([(column + 0.5) / 8, (row + 0.5) / 8])
    assert torch.allclose((one[:2] + one[2:]) / 2, expected, atol=1e-5)
    assert torch.allclose(one[2:] - one[:2], torch.tensor([0.2, 0.2]), atol=1e-5)
    # An object of two cells side by side: the middle lies between them, and the box is wider than high.
    two = boxes_around(row, column, ((0, 0), (0, 1)))
    assert torch.allclose((two[:2] + two[2:]) / 2, expected + torch.tensor([0.5 / 8, 0.0]), atol=1e-5)
    width, height = two[2:] - two[:2]
    assert width > height == pytest.approx(0.2, abs=1e-5)


def test_boxes_stay_inside_the_frame_and_follow_the_attention_where_nothing_agrees():
    assert torch.allclose(boxes_around(0, 7), torch.tensor([0.8, 0.0, 1.0, 0.2]), atol=1e-5)
    empty = boxes_around(4, 2, ())
    assert torch.allclose((empty[:2] + empty[2:]) / 2, torch.tensor([2.5 / 8, 4.5 / 8]), atol=1e-3)


# What the temporal level observes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [True, False])
def test_stretches_give_what_frames_give(context, bank, attention):
    task = AttendedTask(bank, AttendedFeatures(bank, attention), TemporalConfig(context=context))
    samples = torch.tensor([0, 3, 5])
    # Thirds of whole frames; the ends of the video among them.
    start = torch.tensor([[0, 5, 17, 14], [1, 0, 8, 2], [11, 4, 0, 6]]).double()
    end = torch.tensor([[3, 14, 20, 20], [4, 18, 11, 20], [14, 19, 6, 9]]).double()
    seen = attention.attend(bank).view(len(bank), 20, 6)[samples]
    found = observe_stretches(task, seen, samples, start, end)
    state = samples.repeat_interleave(4), start.flatten(), end.flatten(), torch.zeros(12)
    expected = task.observe(*state)
    assert list(found) == list(expected) == list(task.dims())
    for name, part in expected.items():
        assert found[name].shape == (12, *task.dims()[name]) and torch.allclose(found[name], part, atol=1e-4), name


def test_gradients_pass_from_every_window_to_the_attended_features(bank, attention):
    task = AttendedTask(bank, AttendedFeatures(bank, attention), TemporalConfig())
    seen = torch.randn(1, 20, 6, requires_grad=True)
    start, end = torch.tensor([[5.0]]).double(), torch.tensor([[11.0]]).double()
    observe_stretches(task, seen, torch.tensor([0]), start, end)["local"].sum().backward()
    reached = seen.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [5 <= frame < 11 for frame in range(20)]


# The replay --------------------------------------------------------------------------------------------------------


def moves(count, value, **changes):
    made = {name: torch.full((count,), float(value)) for name in QueryReplay.FLOATS}
    made |= {"action": torch.full((count,), value % 7), "terminated": torch.zeros(count, dtype=torch.bool)}
    return made | changes


def test_the_replay_is_a_ring_for_each_query():
    replay = QueryReplay(3, 4, torch.device("cpu"))
    for value in range(6):
        replay.add(torch.tensor([2, 0]), torch.tensor([True, value < 3]), **moves(2, value))
    assert replay.count.tolist() == [3, 0, 6]
    drawn = replay.sample(torch.tensor([0, 2]), torch.rand(2, 300, generator=torch.Generator().manual_seed(0)))
    assert {name: column.shape for name, column in drawn.items()} == dict.fromkeys(drawn, (2, 300))
    assert set(drawn["reward"][0].tolist()) == {0, 1, 2}, "nothing is written where an episode has ended"
    assert set(drawn["reward"][1].tolist()) == {2, 3, 4, 5}, "the last moves are kept"
    assert torch.equal(drawn["action"], (drawn["reward"] % 7).to(torch.uint8))
    assert sorted(replay.rewards(torch.tensor([0, 1, 2])).tolist()) == [0, 1, 2, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda s: s.update({"count": torch.zeros(4, dtype=torch.int64)}), "belongs to other queries"),
        (lambda s: s.pop("column.reward"), "belongs to other queries"),
        (lambda s: s.update({"column.more": torch.zeros(3, 4)}), "belongs to other queries"),
        (lambda s: s["column.start"].fill_(float("nan")), "an unusable column 'start'"),
        (lambda s: s.update({"column.end": torch.zeros(3, 5)}), "an unusable column 'end'"),
        (lambda s: s["count"].fill_(-1), "negative counts"),
    ],
)
def test_a_replay_goes_on_from_its_state_and_refuses_damage(damage, says):
    replay, other = (QueryReplay(3, 4, torch.device("cpu")) for _ in range(2))
    for value in range(3):
        replay.add(torch.arange(3), torch.ones(3, dtype=torch.bool), **moves(3, value))
    state = replay.state_dict()
    other.load_state_dict(state)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in state.items())
    damage(state)
    with pytest.raises(ValueError, match=says):
        QueryReplay(3, 4, torch.device("cpu")).load_state_dict(state)


# The training ------------------------------------------------------------------------------------------------------


def training_of(bank, boxes=None, steps=2000, cells=None, **changes):
    args = CellAttentionArgs(**{**vars(CELLS), "stretches": 20, "dropout": 0.1, **(cells or {})})
    attention = CellAttention(bank, args, seed=1)
    task = AttendedTask(bank, AttendedFeatures(bank, attention), CONFIG)
    unclipped = {"clip": 0.0} if changes.get("algorithm", "dqn") == "dqn" else {"network": "matching"}
    agent = make_level(task, small_level(gamma=0.5, **unclipped, **changes), attention=attention)
    return CellAttentionTraining(agent, task, steps, boxes=boxes, whole=0.3 if boxes is not None else 0.0)


def state_of(training):
    """What a checkpoint writes; copies, because the training goes on in place."""
    tensors, values = training.state_dict()
    weights, groups = training.agent.training_state()
    return deepcopy((tensors, values, weights, groups))


@pytest.mark.parametrize(("limited", "algorithm"), [(False, "dqn"), (True, "dqn"), (True, "ddpg")])
def test_a_training_resumed_anywhere_ends_as_one_that_never_stopped(limited, algorithm, bank):
    boxes = torch.tensor([0.2, 0.25, 0.6, 0.75]).expand(len(bank) * 20, 4) if limited else None
    straight, states = training_of(bank, boxes, algorithm=algorithm), []
    for _ in range(6):
        states.append(state_of(straight))
        straight.advance()
    for at in (0, 1, 2, 4):
        tensors, values, weights, groups = states[at]
        resumed = training_of(bank, boxes, algorithm=algorithm)
        resumed.agent.load_training_state(weights, groups)
        resumed.load_state_dict(tensors, values)
        while resumed.iteration < 6:
            resumed.advance()
        wanted, got = state_of(straight), state_of(resumed)
        assert wanted[1] == got[1]
        for one, other in ((wanted[0], got[0]), (wanted[2], got[2])):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one), at


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t, v: t["order"].fill_(0), "not a permutation"),
        (lambda t, v: t.update({"order": t["order"][:-1]}), "not a permutation"),
        (lambda t, v: t["replay.column.action"].fill_(100), "actions out of range"),
        (lambda t, v: t["replay.column.reward"].fill_(float("inf")), "unusable column 'reward'"),
        (lambda t, v: v.update(done=-1), "done"),
        (lambda t, v: v.update(updates="x"), "updates"),
        (lambda t, v: v.pop("played"), "played"),
    ],
)
def test_damaged_state_is_refused(damage, says, bank):
    training = training_of(bank)
    training.advance()
    tensors, values = training.state_dict()
    damage(tensors, values)
    with pytest.raises((ValueError, RuntimeError), match=says):
        training_of(bank).load_state_dict(tensors, values)


def test_the_attention_learns_from_the_error_of_the_critic_alone(bank):
    """Its gradient is that of the temporal-difference error of the moves in the replay, and of nothing else."""
    training = training_of(bank)
    for _ in range(3):
        training.advance()
    agent, learn, wanted = training.agent, training.agent.learn, []
    parameters = list(training.attention.parameters())

    def watched(before, after, by_target, action, reward, terminated):
        with torch.no_grad():
            best = agent.critic.all_actions(agent.inputs(after)).argmax(-1, keepdim=True)
            following = agent.target_critic.all_actions(agent.target_inputs(by_target)).gather(1, best)[:, 0]
            y = reward * agent.unit + 0.5 * following * ~terminated
        value = agent.critic.all_actions(agent.inputs(before)).gather(1, action[:, None])[:, 0]
        wanted.append(torch.autograd.grad(torch.nn.functional.smooth_l1_loss(value, y), parameters, retain_graph=True))
        assert not after["local"].requires_grad and not by_target["local"].requires_grad
        return learn(before, after, by_target, action, reward, terminated)

    agent.learn = watched
    # Neither the moments nor the boxes are read in an update.
    training.task.truth = training.task.truth * float("nan")
    training._update()
    assert len(wanted) == 1
    for parameter, gradient in zip(parameters, wanted[0], strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert sum(float(gradient.abs().sum()) for gradient in wanted[0]) > 0


def test_the_attention_of_ddpg_learns_from_the_error_of_its_critic(bank):
    """Eqs. 6 and 7 on attended cells: the target's actor chooses, and its attention is the target's own."""
    training = training_of(bank, algorithm="ddpg")
    for _ in range(3):
        training.advance()
    agent, learn, wanted = training.agent, training.agent.learn, []
    parameters = list(training.attention.parameters())
    assert float(agent.unit) > 0, "rewards are in units of their spread"

    def watched(before, after, by_target, action, reward, terminated):
        with torch.no_grad():
            reached = agent.inputs(by_target)
            y = reward * agent.unit + 0.5 * agent.target_critic(reached, agent.target_actor(reached)) * ~terminated
        value = agent.critic(agent.inputs(before), torch.nn.functional.one_hot(action, agent.n_actions).float())
        wanted.append(torch.autograd.grad(torch.nn.functional.mse_loss(value, y), parameters, retain_graph=True))
        return learn(before, after, by_target, action, reward, terminated)

    agent.learn = watched
    training._update()
    for parameter, gradient in zip(parameters, wanted[0], strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert sum(float(gradient.abs().sum()) for gradient in wanted[0]) > 0


@pytest.mark.parametrize("algorithm", ["dqn", "ddpg"])
def test_the_attention_of_the_target_follows_by_tau(algorithm, bank):
    training = training_of(bank, tau=0.25, algorithm=algorithm)
    for _ in range(2):
        training.advance()
    agent = training.agent
    old = [p.clone() for p in agent.target_attention.parameters()]
    training._update()
    for before, source, now in zip(old, agent.attention.parameters(), agent.target_attention.parameters(), strict=True):
        assert torch.allclose(now, 0.75 * before + 0.25 * source, atol=1e-6)


def test_episodes_play_every_query_equally_often(bank):
    training = training_of(bank)
    for _ in range(3):
        training.advance()
    count = len(bank)
    assert training.played == 3 * min(CELLS.episodes, count)
    assert sorted(training.order.tolist()) == list(range(count))
    held = training.replay.count
    assert training.done == int(held.sum()) and (held > 0).all()


@pytest.mark.parametrize("algorithm", ["dqn", "ddpg"])
def test_an_update_on_a_device_never_waits_for_it(algorithm, bank):
    boxes = torch.tensor([0.2, 0.25, 0.6, 0.75]).expand(len(bank) * 20, 4)
    training = training_of(bank, boxes=boxes, algorithm=algorithm)
    observation = observe_stretches(
        training.task, torch.zeros(1, 20, 6), torch.tensor([0]), *(torch.full((1, 1), x) for x in (5.0, 10.0))
    )
    meta = {name: part.to("meta").expand(8, -1) for name, part in observation.items()}
    seen = torch.zeros(2, 20, 6, device="meta", requires_grad=True)
    windows = torch.zeros(2, 4, device="meta")
    agent = training.agent.to("meta")
    for name in ("_trained", "_followers"):
        vars(agent).pop(name, None)  # on this device the parameters are other objects
    for part in agent.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # its seed is drawn on the host, from the host's generator
    for name in agent.OPTIMISERS:  # Adam's counters of steps live on the host
        held = [p for group in getattr(agent, name).param_groups for p in group["params"]]
        setattr(agent, name, torch.optim.SGD([torch.nn.Parameter(p.detach().to("meta")) for p in held], 0.1))
    moves = torch.zeros(8, dtype=torch.int64, device="meta")
    queries = torch.zeros(2, bank.query_dim, device="meta")
    cells, box = torch.zeros(2, 20, CELLS_OF_A_FRAME, 6, device="meta"), torch.zeros(2, 20, 4, device="meta")
    training.task.bank = SimpleNamespace(query=torch.zeros(4, bank.query_dim, device="meta"))
    with OnlyOn():
        agent.learn(meta, meta, meta, moves, torch.zeros(8, device="meta"), moves.bool())
        with agent.dropping():
            agent.attention(cells, queries, box_weights(box, HEIGHT, WIDTH))
        observe_stretches(training.task, seen, moves[:2], windows, windows)["context"].sum().backward()
    assert seen.grad.device.type == "meta"


def test_an_actor_that_has_collapsed_is_named(bank):
    training = training_of(bank, algorithm="ddpg", entropy=0.0)
    for _ in range(3):
        training.advance()
    training.scalars()
    training.log["entropy"] = torch.tensor(1e-9)
    with pytest.warns(CollapseWarning, match="the actor has collapsed in 'training'"):
        for _ in range(3):
            training.scalars()
            training.done += training.total // 10
    assert 1 <= training.distinct <= training.agent.n_actions


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_the_lattice_has_as_many_cells_each_time_and_reaches_all(every, bank):
    training = training_of(bank, cells={"lattice": every})
    drawn = [training._lattice() for _ in range(200)]
    assert {len(cells) for cells in drawn} == {-(-HEIGHT // every) * -(-WIDTH // every)}
    assert all(len(set(cells.tolist())) == len(cells) for cells in drawn)
    assert set(torch.cat(drawn).tolist()) == set(range(HEIGHT * WIDTH))
