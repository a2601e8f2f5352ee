"""Windows recovered from rewards, and a frame attention that learns them in the place of labels."""

from __future__ import annotations

import pytest
import torch

from strong_envs import features
from strong_envs.agents.baselines.candidates import best_iou
from strong_envs.agents.strong import coupled_levels
from strong_envs.agents.strong.agent import Strong
from strong_envs.agents.strong.frame_attention.training import FrameAttentionTraining
from strong_envs.agents.strong.frame_attention.windows_from_rewards import windows_from_rewards
from strong_envs.agents.training.session import Session
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask

DELTA = TemporalConfig(multi_scale=True, reward="iou_delta", iou="clamped", phi=0.001)
SMALL = {"whole_frames": True, "steps": 20, "hidden": 8, "inside_hidden": 8}


@pytest.fixture(scope="module")
def bank():
    return features.load("shapes-v0", "test")


def task_of(bank, config=DELTA) -> TemporalTask:
    return TemporalTask(bank, LocalFeatures(bank, "frame"), config)


def quality(windows, truth) -> float:
    return float(best_iou(windows, truth)[:, 0].mean())


def test_eight_random_episodes_determine_the_window_and_signs_most_of_it(bank):
    assert quality(windows_from_rewards(task_of(bank), 8, 0), bank.truth) > 0.97
    signs = [quality(windows_from_rewards(task_of(bank, TemporalConfig()), n, 0), bank.truth) for n in (1, 8)]
    assert signs[0] + 0.1 < signs[1] and signs[1] > 0.85


def test_windows_are_those_that_are_paid_for_and_not_those_of_the_bank(bank):
    task = task_of(bank)
    mirrored = (1 - bank.truth).flip(-1)
    task.__dict__["truth"] = mirrored * task.config.total
    found = windows_from_rewards(task, 8, 0)
    assert quality(found, mirrored) > 0.97
    assert quality(found, bank.truth) < 0.6


def test_constant_rewards_leave_the_windows_unknown(bank):
    task = task_of(bank)
    task.reward = lambda before, after, t, phi: 0.0 * before
    found = windows_from_rewards(task, 4, 0)
    assert len(found.unique(dim=0)) == 1


def test_moves_after_the_end_of_an_episode_and_refused_ones_are_not_looked_at(bank):
    for invalid in ("terminate", "penalty", "refuse", "clip"):
        config = TemporalConfig(multi_scale=True, reward="iou_delta", iou="clamped", invalid=invalid)
        assert quality(windows_from_rewards(task_of(bank, config), 8, 0), bank.truth) > 0.75, invalid


def make(bank, **changes) -> Strong:
    parts = {"boxes": "frame", "frame_scores": True, "score_observation": "posterior", "pretrain_steps": 1500}
    return Strong(bank, **{**parts, "frame_attention": SMALL, "window_episodes": 2, **changes})


def test_the_frame_attention_and_the_posterior_learn_these_windows_alone(bank, monkeypatch):
    recovered = torch.tensor([0.5, 0.75], dtype=torch.float64).expand(len(bank), 1, 2)
    monkeypatch.setattr(
        coupled_levels, "windows_from_rewards", lambda task, *_: recovered[:1].expand(len(task.bank), 1, 2)
    )
    learned = []
    begun = FrameAttentionTraining.__init__

    def remembered(self, *args, **words):
        begun(self, *args, **words)
        learned.append(self.windows)

    monkeypatch.setattr(FrameAttentionTraining, "__init__", remembered)
    system = make(bank).fit()
    assert learned and all(torch.equal(windows, recovered) for windows in learned)
    # A quarter of the video is what the prior knows of lengths.
    assert int(system.posterior.prior.argmax()) in range(13, 16)
    spans = system.predict(bank).spans / bank.duration[bank.video][:, None]
    assert torch.isfinite(spans).all()


def test_labels_are_learned_where_they_are_asked_for(bank, monkeypatch):
    monkeypatch.setattr(coupled_levels, "windows_from_rewards", lambda *_: pytest.fail("rewards were asked"))
    make(bank, learns_from="frame labels").fit()


class Killed(Exception):
    """Stands for a kill: nothing is written on the way out."""


def test_a_training_that_is_killed_again_and_again_ends_alike(bank, tmp_path):
    straight, path, stages = make(bank).fit(), tmp_path / "checkpoint.safetensors", set()
    while True:
        ticks = 0

        def kill(training) -> None:
            nonlocal ticks
            ticks += 1
            stages.add(training.stage)
            if ticks == 9:
                raise Killed

        resumed = make(bank)
        try:
            resumed.fit(checkpoint=Session(path, every=None, updates=4, resume=True, watchers=(kill,)))
            break
        except Killed:
            continue
    assert stages == {"frame attention", "temporal"}
    assert torch.equal(resumed.predict(bank).spans, straight.predict(bank).spans)
    (wanted, _), (got, _) = straight.training_state(), resumed.training_state()
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_a_saved_system_predicts_alike(bank, tmp_path):
    whole, file = make(bank).fit(), str(tmp_path / "weights.safetensors")
    for lean in (False, True):
        whole.save(file, lean=lean)
        again = Strong.load(file, bank)
        found = again.predict(bank)
        assert torch.equal(found.spans, whole.predict(bank).spans)
        assert torch.equal(again.confidence(bank, found), whole.confidence(bank, found))


def test_scores_of_whole_frames_need_whole_frames(bank):
    with pytest.raises(DataError, match=r"'frame' with frame_attention\.whole_frames"):
        make(bank, frame_attention={"whole_frames": False})
