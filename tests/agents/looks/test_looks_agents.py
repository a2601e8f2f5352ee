"""Sensor, posterior and searches: what they read, what they find, and that the agent learns from answers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strong_envs import features
from strong_envs.agents.looks.agent import LookAgent, LookAgentArgs
from strong_envs.agents.looks.gaps import FEATURES, PLACES, OneVideo, gaps
from strong_envs.agents.looks.library import LibraryLookArgs, LibraryLooker
from strong_envs.agents.looks.posterior import LookPosterior, seen_of
from strong_envs.agents.looks.running import RunningPosterior
from strong_envs.agents.looks.search import random_rows, uncertainty_rows, unique_even_rows
from strong_envs.agents.looks.sensor import FrameSensor, SensorArgs, balanced_rows, inside
from strong_envs.agents.looks.sm_rl import SmRlLooker
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.core import spans
from strong_envs.features import DataError


@pytest.fixture(scope="module")
def bank():
    return features.load("shapes-v0", "train")


@pytest.fixture(scope="module")
def perfect(bank):
    """Log-odds of a sensor that is right about nine rows of ten."""
    generator = torch.Generator().manual_seed(0)
    everything = torch.arange(60).expand(len(bank), -1)
    sign = inside(bank, torch.arange(len(bank)), everything).float() * 2 - 1
    wrong = torch.rand(sign.shape, generator=generator) < 0.1
    return torch.where(wrong, -sign, sign) * 4


@pytest.fixture(scope="module")
def n_frames(bank):
    return bank.n_frames[bank.video]


def miou(bank, posterior, table, rows):
    samples = torch.arange(len(bank))
    seen = table if rows is None else seen_of(table, samples, rows)
    window = posterior.answer(seen, bank.n_frames[bank.video])
    return float(spans.span_iou(window[:, 0], window[:, 1], bank.truth, "clamped").mean())


def test_log_odds_of_a_row_depend_on_that_row_alone(bank):
    sensor = FrameSensor(bank, SensorArgs(steps=3)).fit(bank)
    samples, rows = torch.tensor([0, 0, 5]), torch.tensor([3, 40, 11])
    before = sensor.log_odds(bank, samples, rows)
    table = sensor.table(bank)
    np.testing.assert_allclose(table[samples, rows], before, atol=1e-4)
    other = features.FeatureBank(bank.store, "train")
    at = other.offsets[other.video[samples]] + rows
    kept = other.grid[at].clone()
    other.grid[:] = torch.randn(other.grid.shape).to(other.grid.dtype)
    other.grid[at] = kept
    np.testing.assert_array_equal(sensor.log_odds(other, samples, rows), before)


def test_half_of_the_rows_of_an_update_lie_inside(bank):
    samples = torch.arange(50)
    rows = balanced_rows(bank, samples, 20, torch.Generator().manual_seed(0))
    labels = inside(bank, samples, rows).float()
    # The ends of a window may share a row with what lies beside it.
    assert labels[:, :10].mean() > 0.98 and labels[:, 10:].mean() < 0.02


def test_a_sensor_tells_frames_apart(bank):
    sensor = FrameSensor(bank, SensorArgs(steps=60)).fit(bank)
    samples = torch.arange(len(bank))
    rows = balanced_rows(bank, samples, 10, torch.Generator().manual_seed(1))
    scores = torch.stack([sensor.log_odds(bank, samples, row) for row in rows.T], 1)
    assert scores[:, :5].mean() > scores[:, 5:].mean() + 0.5


def test_the_answer_has_the_highest_expected_iou(bank, n_frames):
    posterior = LookPosterior(bank)
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn((3, 60), generator=generator) * (torch.rand((3, 60), generator=generator) < 0.2) * 3
    answer = posterior.answer(seen, n_frames[:3]) * 60
    joint = posterior.windows(seen, n_frames[:3])
    windows = [(a, a + length) for length in posterior.lengths.tolist() for a in range(60 - length + 1)]
    ends = torch.tensor(windows, dtype=torch.float64)
    weight = torch.stack([joint[:, posterior.lengths.tolist().index(b - a), a] for a, b in windows], 1).double()
    assert weight.sum(1) == pytest.approx(1, abs=1e-5)
    expected = weight @ spans.iou_with_each(ends[None], ends[None])[0]
    for row in range(3):
        chosen = windows.index(tuple(round(x) for x in answer[row].tolist()))
        assert float(expected[row, chosen]) >= float(expected[row].max()) - 1e-5
    chance = torch.stack([(weight * ((ends[:, 0] <= i) & (ends[:, 1] > i))).sum(1) for i in range(60)], 1)
    np.testing.assert_allclose(posterior.inside(seen, n_frames[:3]), chance, atol=1e-4)


def test_with_all_frames_it_agrees_with_the_posterior_over_all_windows(bank, perfect, n_frames):
    """`WindowPosterior` with the same weight and without edges prefers the same windows, as good on the average."""
    full = WindowPosterior(60)
    full.fit_lengths(bank.truth)
    full.factors.copy_(torch.tensor([1.0, 0.0, 0.0]))
    # Both read sums over the window; log-shares and log-odds differ by a constant a row.
    windows = full.windows(perfect)[full.expected_iou(perfect.softmax(1).log()).argmax(1)]
    theirs = float(spans.span_iou(windows[:, 0], windows[:, 1], bank.truth, "clamped").mean())
    ours = miou(bank, LookPosterior(bank), perfect, None)
    assert ours > 0.85 and ours > theirs - 0.02


def test_searches_look_at_different_rows_and_better_ones_find_more(bank, perfect, n_frames):
    posterior, generator = LookPosterior(bank), torch.Generator().manual_seed(0)
    posterior.weight, posterior.clip = 0.5, 5.0
    scores = {}
    for name, rows in (
        ("random", random_rows(n_frames, 10, generator)),
        ("even", unique_even_rows(n_frames, 10)),
        ("uncertain", uncertainty_rows(posterior, perfect, n_frames, 10, 3)),
    ):
        assert rows.shape == (len(bank), 10) and all(len(set(row)) == 10 for row in rows.tolist())
        scores[name] = miou(bank, posterior, perfect, rows)
    assert scores["random"] < scores["even"] < scores["uncertain"] < miou(bank, posterior, perfect, None) + 0.02


def test_a_search_reads_only_the_rows_that_it_chose(bank, perfect, n_frames):
    posterior = LookPosterior(bank)
    for search in (
        lambda table: uncertainty_rows(posterior, table, n_frames, 7, 2),
        lambda table: LookAgent(posterior).rows(table, n_frames, 7, 2),
    ):
        rows = search(perfect)
        other = torch.randn(perfect.shape) * 9
        other.scatter_(1, rows, perfect.gather(1, rows))
        assert torch.equal(search(other), rows)


def test_short_videos_end_a_search(ragged_store):
    bank = features.load(ragged_store, "train")
    n_frames = bank.n_frames[bank.video]
    table = torch.randn((len(bank), bank.max_frames))
    posterior = LookPosterior(bank)
    for rows in (
        uncertainty_rows(posterior, table, n_frames, 9, 3),
        LookAgent(posterior).rows(table, n_frames, 9, 3),
        random_rows(n_frames, 9, torch.Generator().manual_seed(0)),
    ):
        looked = (rows >= 0).sum(1)
        assert (rows < n_frames[:, None]).all() and (looked <= n_frames).all() and looked.max() == 9
        window = posterior.answer(seen_of(table, torch.arange(len(bank)), rows), n_frames)
        assert ((window[:, 0] >= 0) & (window[:, 0] < window[:, 1]) & (window[:, 1] <= 1)).all()


def random_looks(n_frames, count, seed):
    """Different rows (B, count), -1 in slots that a short video does not fill, and numbers in [-1, 1] seen there."""
    generator = torch.Generator().manual_seed(seed)
    rows = random_rows(torch.as_tensor(n_frames), count, generator).numpy()
    scores = (torch.rand(rows.shape, generator=generator) * 2 - 1).numpy()
    return rows, np.where(rows < 0, 0, scores)


@pytest.mark.parametrize("clip", [3.0, 8.0])
def test_a_posterior_that_is_kept_up_to_date_is_the_one_that_is_computed_anew(bank, clip):
    posterior = LookPosterior(bank)
    posterior.weight, posterior.clip = 0.7, clip
    # One video is shorter than every moment, one as long as the shortest.
    n_frames = np.array([60, 45, 4, int(posterior.lengths[0])])
    rows, scores = random_looks(n_frames, 14, 0)
    scores = scores * 12
    running = RunningPosterior(posterior, n_frames, rows[:, :3], scores[:, :3])
    for k in range(3, 15):
        table = torch.zeros((4, 60))
        for i, (row, score) in enumerate(zip(rows[:, :k], scores[:, :k], strict=True)):
            table[i, row[row >= 0]] = torch.as_tensor(score[row >= 0], dtype=torch.float32)
        expected = posterior.inside(table, torch.as_tensor(n_frames)).numpy()
        np.testing.assert_allclose(running.inside(), expected, atol=1e-4)
        unsure = running.least_sure()
        for i, row in enumerate(unsure.tolist()):
            open_ = sorted(set(range(n_frames[i])) - set(rows[i, :k].tolist()))
            assert (row == -1) == (not open_)
            if open_:
                assert abs(expected[i, row] - 0.5) <= np.abs(expected[i, open_] - 0.5).min() + 1e-4
        if k < 14:
            running.look(rows[:, k], scores[:, k])


def test_contradictions_do_not_add_up_to_rounding(bank):
    """A run of looks that found the moment, then one that found nothing at each of its rows."""
    posterior = LookPosterior(bank)
    posterior.weight, posterior.clip = 3.0, 8.0
    n_frames, order = np.array([60]), np.arange(10, 40)
    running = RunningPosterior(posterior, n_frames, np.zeros((1, 0), int), np.zeros((1, 0)))
    table = torch.zeros((1, 60))
    for row in order:
        score = 8.0 if row < 20 else -8.0
        table[0, row] = score
        running.look(np.array([row]), np.array([score]))
    np.testing.assert_allclose(running.inside(), posterior.inside(table, torch.tensor([60])), atol=1e-4)


def test_rows_are_offered_in_gaps():
    rows = np.array([[10, 50, -1], [0, 1, 2], [59, 30, -1]])
    scores = np.array([[1.0, -1.0, 0.0], [0.2, 0.2, 0.2], [0.5, -0.7, 0.0]])
    row, known, there = gaps(rows, scores, np.array([60, 3, 60]), 18.0)
    assert row.shape == there.shape == (PLACES, 3, 4) and known.shape == (FEATURES, 3, 4) and np.isfinite(known).all()
    assert not there[:, 1].any()
    for i, looked in ((0, {10, 50}), (2, {59, 30})):
        found = set(row[:, i][there[:, i]].tolist())
        assert len(found) > 8 and not found & looked and found <= set(range(60))


def test_the_gaps_of_one_video_are_kept_up_to_date():
    n_frames = np.array([60])
    for seed in range(6):
        rows, scores = random_looks(n_frames, 25, seed)
        # Long runs of looks inside the moment are where a look changes gaps far from it.
        scores = np.where(np.abs(rows - 30) < 12, np.abs(scores), scores)
        video = OneVideo(60, 18.0)
        kept = [video.known(0)]
        for k, (row, score) in enumerate(zip(rows[0].tolist(), scores[0].tolist(), strict=True)):
            gap, first, last = video.look(row, score)
            kept.insert(gap, [])
            # A gap that was not named is what it was.
            for i in range(first, last + 1):
                kept[i] = video.known(i)
            _, known, _ = gaps(rows[:, : k + 1], scores[:, : k + 1], n_frames, 18.0)
            np.testing.assert_allclose(np.array(kept).T, known[:, 0], atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3])
def test_one_video_is_searched_as_many_are(bank, perfect, n_frames, at_once):
    agent = LookAgent(LookPosterior(bank))
    torch.nn.init.normal_(agent.net[-1].weight, generator=torch.Generator().manual_seed(0))
    together = agent.rows(perfect, n_frames, 12, 3, torch.arange(30), at_once)
    alone = [agent.rows(perfect, n_frames, 12, 3, torch.tensor([i]), at_once) for i in range(30)]
    assert torch.equal(torch.cat(alone), together)
    assert all(len(set(row)) == 12 for row in together.tolist())


@pytest.mark.slow
def test_the_agent_copies_the_search_and_learns_from_the_iou_of_its_answers(bank, perfect, n_frames):
    posterior = LookPosterior(bank)
    posterior.weight = 0.5
    args = LookAgentArgs(steps=10, copies=60, queries=12, least_looks=6, most_looks=8)
    start = miou(bank, posterior, perfect, LookAgent(posterior, args, seed=1).rows(perfect, n_frames, 8, 2))
    heard = []
    agent = LookAgent(posterior, args, seed=1).fit(bank, perfect, lambda *words: heard.append(words))
    search = miou(bank, posterior, perfect, uncertainty_rows(posterior, perfect, n_frames, 8, 2))
    ours = miou(bank, posterior, perfect, agent.rows(perfect, n_frames, 8, 2))
    assert ours > start + 0.1 and ours > search - 0.1
    assert len(heard) == 10 and heard[-1][:2] == (10, 10) and 0 < heard[-1][2] < 1
    again = LookAgent(posterior, args, seed=1).fit(bank, perfect)
    assert all(torch.equal(a, b) for a, b in zip(agent.net.parameters(), again.net.parameters(), strict=True))


@pytest.mark.parametrize("shared", [False, True])
def test_sm_rl_looks_at_its_rows_and_at_no_others(bank, perfect, shared):
    tables = {"train": perfect} if shared else None
    agent = SmRlLooker(bank, tables, seed=0, looks=4, steps=3, concept_steps=3, early_stopping=False).fit()
    samples = torch.arange(12)
    rows, windows = agent.looks(bank, samples)
    assert rows.shape == (12, 4) and (rows[:, 0] >= 0).all()
    assert all(len(set(row) - {-1}) == sum(r >= 0 for r in row) for row in rows.tolist())
    assert ((windows[:, 0] >= 0) & (windows[:, 0] < windows[:, 1]) & (windows[:, 1] <= 1)).all()
    other = features.FeatureBank(bank.store, "train")
    kept = (other.offsets[other.video[samples]][:, None] + rows)[rows >= 0]
    frames = other.frames[kept].clone()
    other.frames[:] = torch.randn(other.frames.shape).to(other.frames.dtype)
    other.frames[kept] = frames
    if shared:
        noise = torch.randn(perfect.shape)
        noise[samples[:, None], rows.clamp(min=0)] = perfect[samples[:, None], rows.clamp(min=0)]
        agent.tables = {"train": noise}
    again = agent.looks(other, samples)
    assert torch.equal(again[0], rows) and torch.equal(again[1], windows)


def test_sm_rl_says_which_log_odds_it_lacks(bank, perfect):
    with pytest.raises(DataError, match="no log-odds of the part 'train'"):
        SmRlLooker(bank, {"val": perfect}, seed=0, looks=2, steps=1).fit()


@pytest.mark.slow
def test_the_librarys_agent_trains_and_looks(bank, perfect):
    pytest.importorskip("sb3_contrib")
    posterior = LookPosterior(bank)
    args = LibraryLookArgs(steps=256, num_envs=8, most_looks=5, settings={"n_steps": 8, "batch_size": 32})
    rows = LibraryLooker(posterior, args).fit(bank, perfect).rows(bank, perfect, torch.arange(20))
    assert rows.shape == (20, 5) and all(len(set(row) - {-1}) == sum(r >= 0 for r in row) for row in rows.tolist())
    assert (rows[:, 0] >= 0).all()


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (LookAgentArgs, {"least_looks": 5, "most_looks": 3}, "least_looks must be at most most_looks=3, got 5"),
        (LookAgentArgs, {"at_once": 0}, "at_once must be"),
        (LookAgentArgs, {"least_looks": 0}, "least_looks must be"),
        (LibraryLookArgs, {"most_looks": 0}, "most_looks must be"),
        (SensorArgs, {"frames": 1}, "frames must be at least 2"),
    ],
)
def test_settings_that_cannot_be_trained_with_are_explained(kind, arguments, words):
    with pytest.raises(DataError, match=words):
        kind(**arguments)
