"""Rewards of answers in words: what can be read is paid its IoU, anything else nothing; TRL trains with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strong_envs import features
from strong_envs.adapters.language_rewards import format_reward, iou_reward, parse_window, questions
from strong_envs.features import DataError


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("<answer>12.5 to 20.1</answer>", (12.5, 20.1)),
        ("<think>it starts at 3 to 4</think><answer>12 - 20</answer>", (12.0, 20.0)),
        ("<answer>1 to 2</answer> no, <answer>3 to 4</answer>", (3.0, 4.0)),
        ("The event happens from 12.5s to 20.1 seconds.", (12.5, 20.1)),
        ("[12.5, 20.1]", (12.5, 20.1)),
        ("<answer>0:12 to 1:02.5</answer>", (12.0, 62.5)),
        ("between 5 and 9", (5.0, 9.0)),
        ("<answer>20.1 to 12.5</answer>", None),
        ("<answer>7 to 7</answer>", None),
        ("<answer>twelve to twenty</answer> 3 to 4", None),
        ("-5 to 3", None),
        ("12.5", None),
        ("", None),
        ("nan to inf", None),
        ("<answer>1e3 to 5e3</answer>", None),
        ("<answer>3 to 5e3</answer>", None),
        ("<answer>3 seconds to 5 minutes</answer>", None),
        ("<answer>3 to 5 %</answer>", None),
        ("<answer> <answer>3 to 5</answer>", (3.0, 5.0)),
    ],
)
def test_windows_are_read(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["<answer>" * 20_000, "1" + " " * 50_000, "<think>" * 20_000, "1 to " * 20_000])
def test_answers_without_end_are_read_at_once(text):
    # Quadratic patterns took between 20 and 60 seconds, more than the limit of a test.
    assert parse_window(text) is None and format_reward([text]) == [0.0]


def test_windows_of_arrays_are_read():
    forms = ([np.float32(0), np.float32(5)], [[np.int64(0), np.int64(5)]], np.array([0, 5]), torch.tensor([[0.0, 5.0]]))
    assert iou_reward(["0 to 10"] * 4, windows=list(forms)) == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("instruction", ["{foo}", "{", "{text.x}", "{duration:q}"])
def test_an_instruction_that_cannot_be_filled_in_is_refused(instruction):
    with pytest.raises(DataError, match="instruction may hold"):
        questions(features.load("shapes-v0", "train"), instruction)


def test_iou_of_answers():
    completions = ["<answer>0 to 10</answer>", "<answer>5 to 15</answer>", "no idea", "<answer>30 to 40</answer>"]
    windows = [[[0.0, 10.0]], [[0.0, 10.0]], [[0.0, 10.0]], [[0.0, 10.0], [30.0, 50.0]]]
    assert iou_reward(completions, windows=windows, prompts=[""] * 4) == pytest.approx([1.0, 1 / 3, 0.0, 0.5])
    assert iou_reward(["0 to 10"], windows=[(0.0, 5.0)]) == pytest.approx([0.5])


def test_conversations_are_read_by_their_last_message():
    talk = [{"role": "user", "content": "0 to 1"}, {"role": "assistant", "content": "<answer>2 to 4</answer>"}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "<answer>2 to 4</answer>"}]}]
    assert iou_reward([talk, parts], windows=[[[2, 4]], [[2, 4]]]) == [1.0, 1.0]
    assert format_reward([talk, parts]) == [1.0, 1.0]


def test_format():
    good = ["<answer>1 to 2</answer>", "<think>hm\n</think>\n<answer>0:01 to 0:02</answer>\n"]
    bad = ["1 to 2", "<answer>soon</answer>", "<answer>1 to 2</answer> I think", "<answer>1 to 2</answer>" * 2, ""]
    bad += ["<think>a</think><think>b</think><answer>1 to 2</answer>", "so <answer>1 to 2</answer>"]
    assert format_reward(good) == [1.0] * len(good) and format_reward(bad) == [0.0] * len(bad)


@pytest.mark.parametrize(
    ("completions", "windows", "words"),
    [
        (["1 to 2"], None, "needs the true windows"),
        (["1 to 2"], [{"start": 1}], "windows must be"),
        (["1 to 2"], [["1", "2"]], "windows must be"),
        (["1 to 2"], [[10**400, 10**401]], "windows must be"),
        (["1 to 2"], 3, "windows must be a list"),
        (["1 to 2"], [], "1 completions and 0 entries"),
        (["1 to 2"], [[[2.0, 1.0]]], "start before end"),
        (["1 to 2"], [[]], "must be"),
        (["1 to 2"], ["soon"], "must be"),
        ([7], [[[1.0, 2.0]]], "a text or a list of messages"),
    ],
)
def test_bad_columns_are_errors_and_bad_answers_are_not(completions, windows, words):
    with pytest.raises(DataError, match=words):
        iou_reward(completions, windows=windows)


def test_questions_hold_what_the_rewards_need():
    bank = features.load("shapes-v0", "train")
    rows = questions(bank)
    assert len(rows) == len(bank) and rows[0]["prompt"].count(bank.texts[0]) == 1
    answers = [f"<answer>{row['windows'][0][0]} to {row['windows'][0][1]}</answer>" for row in rows]
    assert iou_reward(answers, windows=[row["windows"] for row in rows]) == pytest.approx([1.0] * len(rows))


@pytest.mark.slow
def test_trl_trains_a_tiny_causal_model(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from datasets import Dataset
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz0123456789 .:?<>/,W"]
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<eos>")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256, "vocab_size": len(words)}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    tiny = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends))
    seen: list[list[float]] = []

    def watched(completions, windows, **columns):
        assert {"prompts", "duration"} <= set(columns)
        seen.append(iou_reward(completions, windows=windows))
        # A tiny model writes no window, so something is paid that it can do.
        return [paid + sum(map(ord, text)) % 97 / 97 for paid, text in zip(seen[-1], completions, strict=True)]

    before = {name: value.clone() for name, value in tiny.named_parameters()}
    arguments = trl.GRPOConfig(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = questions(features.load("shapes-v0", "train"))[:8]
    trainer = trl.GRPOTrainer(
        model=tiny,
        reward_funcs=[watched, format_reward],
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        args=arguments,
    )
    trainer.train()
    assert seen and all(0.0 <= paid <= 1.0 for batch in seen for paid in batch)
    assert any(not bool((value == before[name]).all()) for name, value in tiny.named_parameters())
