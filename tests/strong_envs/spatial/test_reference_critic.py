"""The critic that ships ranks boxes of held-out videos by what the sentence is about, better than chance."""

from __future__ import annotations

import pytest
import torch

from strong_envs import features
from strong_envs.spatial.env import make_spatial_task
from strong_envs.spatial.reference_critic import find_reference_critic


@pytest.fixture(scope="module")
def boxes():
    """A held-out bank, windows in steps (6 of each query), and boxes of one size: on the target, and clear of it."""
    bank = features.load("shapes-v0", "test")
    task = make_spatial_task(bank, window="random").temporal
    draw = torch.Generator().manual_seed(0)
    sample = torch.arange(len(bank)).repeat(6)
    ends = torch.rand(len(sample), 2, generator=draw, dtype=torch.float64).sort(-1).values * task.config.total
    middle = (task.truth[sample, 0].mean(-1) / task.config.total * task.n_frames[sample]).to(torch.int64)
    true = bank.true_box(sample, middle).to(torch.float64)
    size = (1.3 * (true[:, 2:] - true[:, :2])).clamp(max=1)
    on = torch.cat((((true[:, :2] + true[:, 2:]) / 2).clamp(min=size / 2, max=1 - size / 2), size), -1)
    off = torch.cat((size / 2 + (1 - size) * torch.rand(len(sample), 2, generator=draw, dtype=torch.float64), size), -1)
    clear = ((on - off)[:, :2].abs() > size).any(-1) & (ends[:, 1] - ends[:, 0] > 1)
    return bank, sample[clear], ends[clear, 0], ends[clear, 1], on[clear], off[clear]


@pytest.mark.parametrize(("reward", "least"), [("q_value", 0.58), ("signed_q", 0.7), ("q_error", 0.7)])
def test_boxes_on_the_target_are_valued_above_boxes_off_it(reward, least, boxes):
    """Chance is one half; with some 300 pairs its standard deviation is .03."""
    bank, sample, start, end, on, off = boxes
    task = make_spatial_task(bank, reward=reward)
    above = task.begin(sample, start, end, on).score > task.begin(sample, start, end, off).score
    assert len(sample) > 250 and float(above.double().mean()) > least


def test_it_fits_the_default_world_only(ragged_store):
    assert find_reference_critic(make_spatial_task("shapes-v0").temporal) is not None
    other = make_spatial_task(ragged_store, reward="box_iou").temporal
    assert find_reference_critic(other) is None
    # Other arguments show the critic other numbers.
    assert find_reference_critic(make_spatial_task("shapes-v0", reward="box_iou", context=False).temporal) is None
    assert find_reference_critic(make_spatial_task("shapes-v0", reward="box_iou", multi_scale=True).temporal) is None
