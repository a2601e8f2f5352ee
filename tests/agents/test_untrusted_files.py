"""Files that were damaged or made by somebody else: saved systems, checkpoints, run.json, log.csv.

Whatever they hold, the answer is a prediction or one sentence. Nothing that they name is imported.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small_strong import tiny_strong
from spoilt_agents import spoilt_bytes, spoilt_header, spoilt_tensors, write

from strong_envs import agents, features
from strong_envs.agents.inference import load_system
from strong_envs.agents.registry import BaseSystem, Prediction
from strong_envs.agents.strong.agent import Strong
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.agents.training.session import Session
from strong_envs.benchmarks.cli import main
from strong_envs.features.errors import DataError

ROOT = Path(__file__).parents[2]
PACE = dict(batch=16, warmup=16, num_envs=8)
LEVEL = dict(hidden=(8,), width=8, **PACE)
ACTOR = dict(actor_hidden=(8, 8), critic_hidden=(8, 8), **PACE)
LABELS = dict(frame_attention=dict(hidden=4, inside_hidden=4, steps=10), rounds=1)
SYSTEMS = {
    "strong": dict(temporal=LEVEL, spatial=LEVEL, cells=dict(hidden=4, stretches=4, episodes=8), rounds=1),
    "strong (all rewards)": dict(temporal=ACTOR, spatial=ACTOR, **LABELS),
    "strong (paper)": dict(temporal=ACTOR, spatial=ACTOR, rounds=1),
    "trl": dict(temporal=LEVEL, spatial=LEVEL),
    "ctrl": dict(embedding=8, hidden=8),
    "mcn": dict(visual=8, language=8, embedding=8),
    "acrn": dict(embedding=8, hidden=8, pool=4),
    "one-shot": dict(cells=5, parts=4, hidden=8),
    "frame classifier": dict(hidden=4, inside_hidden=4, cells=8),
    "read": dict(sizes=(4, 4, 4, 4), hidden=8),
    "sm-rl": dict(sizes=(4, 4, 4, 4), hidden=8),
    "tsp-prl": dict(part=4, hidden=8, iou_hidden=(4, 4)),
}
TEXT = "the red circle moves left"


@pytest.fixture(scope="module")
def world():
    return features.load("shapes-v0", "train"), features.load("shapes-v0", "test")


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """A file of every system, and its content."""
    folder, made = tmp_path_factory.mktemp("files"), {}

    def file_of(name):
        if name not in made:
            path = folder / f"{name}.safetensors"
            agents.make(name, world[0], budget=0.001, **SYSTEMS[name]).save(str(path))
            made[name] = path, *load_weights(path)
        return made[name]

    return file_of


def answer(path, world):
    """A prediction, or the sentence that refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            moment = agents.load(path).predict(world[1].grid[:20], TEXT, duration=2.0)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            return str(error)
    assert np.isfinite([moment.start, moment.end]).all() and 0 <= moment.start < moment.end <= 2.0 + 1e-6
    return moment


@pytest.mark.parametrize("count", [10, pytest.param(110, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_spoilt_headers_and_tensors_are_answered_or_refused(name, count, files, world, tmp_path):
    _, tensors, about = files(name)
    path, refused = tmp_path / "spoilt.safetensors", 0
    for seed in range(count):
        draw = random.Random(f"{name} {seed}")
        if draw.random() < 0.75:
            write(path, tensors, spoilt_header(about, draw))
        else:
            write(path, spoilt_tensors(tensors, draw), about)
        refused += isinstance(answer(path, world), str)
    assert refused > count / 3


@pytest.mark.parametrize("name", ["strong", "ctrl"])
def test_spoilt_bytes_are_noticed(name, files, world, tmp_path):
    raw, path = files(name)[0].read_bytes(), tmp_path / "spoilt.safetensors"
    for seed in range(150):
        path.write_bytes(spoilt_bytes(raw, random.Random(f"{name} {seed}")))
        assert isinstance(answer(path, world), str), f"damage {seed} is not noticed"


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(name, number, files, world, tmp_path):
    _, tensors, about = files(name)
    weight = next(k for k in sorted(tensors) if k.endswith("weight") and "critic" not in k)
    spoilt = {**tensors, weight: tensors[weight].clone()}
    spoilt[weight].view(-1)[0] = number
    save_weights(tmp_path / "spoilt.safetensors", spoilt, about)
    assert "NaN or infinite values in" in answer(tmp_path / "spoilt.safetensors", world)


@pytest.mark.parametrize("name", SYSTEMS)
def test_huge_weights_predict_windows_or_are_refused(name, files, world, tmp_path):
    _, tensors, about = files(name)
    huge = {k: t.abs().clamp(min=0.1) * 3e38 if k.endswith("weight") and t.is_floating_point() else t
            for k, t in tensors.items()}  # fmt: skip
    save_weights(tmp_path / "huge.safetensors", {k: t.nan_to_num() for k, t in huge.items()}, about)
    try:
        spans = load_system(tmp_path / "huge.safetensors", world[1]).predict(world[1]).spans
    except DataError as error:
        assert "predicts" in str(error) and "out of range" in str(error)
    else:
        assert spans.isfinite().all()


def test_a_prediction_that_is_not_finite_is_refused_by_every_system(world):
    class Broken(BaseSystem):
        name = "broken"

        def predict(self, bank, boxes=None):
            spans = torch.zeros(len(bank), 2, dtype=torch.float64)
            spans[3, 1] = float("nan") if boxes is None else 1.0
            return Prediction(spans)

    class Wider(Broken):
        def predict(self, bank, boxes=None):
            return super().predict(bank, boxes)

    for kind in (Broken, Wider):
        with pytest.raises(DataError, match=f"broken predicts 0.0 to nan s for query '{world[1].qids[3]}'"):
            kind().predict(world[1])
        assert kind().predict(world[1], boxes="given").spans[3, 1] == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, k: t.pop(k), "lacks 1 tensors, such as"),
        (lambda t, k: t.update({k: t[k].to(torch.float16)}), "which must be torch.float32"),
        (lambda t, k: t.update({k: t[k].to(torch.float64)}), "which must be torch.float32"),
        (lambda t, k: t.update({k: t[k][:-1].clone()}), "was trained on other features than|a size that none of its"),
        (lambda t, k: t.update({"more": torch.zeros(2)}), "unknown tensors, such as 'more'|lacks"),
    ],
)
@pytest.mark.parametrize("name", ["trl", "ctrl", "read"])
def test_tensors_that_do_not_fit_are_named(name, change, says, files, world, tmp_path):
    import re

    _, tensors, about = files(name)
    held = dict(tensors)
    change(held, next(k for k in sorted(held) if k.endswith("weight")))
    save_weights(tmp_path / "spoilt.safetensors", held, about)
    answered = answer(tmp_path / "spoilt.safetensors", world)
    # A tensor that belongs to no part of STRONG is not read.
    assert isinstance(answered, agents.Moment) if name == "trl" and "more" in held else re.search(says, answered)


def test_a_header_cannot_take_memory(files, world, tmp_path):
    for system, part, name, value in (
        ("trl", "temporal", "hidden", [16384] * 16),
        ("trl", "temporal", "hidden", [10**12]),
        ("trl", "temporal", "width", 16384),
        ("strong", "spatial", "hidden", [16384, 16384, 16384]),
        ("strong", "cells", "hidden", 16384),
        ("strong (all rewards)", "temporal", "actor_hidden", [16384, 16384, 16384]),
        ("strong (all rewards)", "spatial", "critic_hidden", [16384] * 16),
        ("strong (all rewards)", "frame_attention", "inside_hidden", 16384),
    ):
        _, tensors, about = files(system)
        spoilt = json.loads(json.dumps(about))
        spoilt["args"][part][name] = value
        write(tmp_path / "spoilt.safetensors", tensors, spoilt)
        assert "damaged or of another release" in (said := answer(tmp_path / "spoilt.safetensors", world)) or (
            "a size that none of its tensors has" in said
        )
    for name, value in (("frame_dim", 10**12), ("query_dim", 10**9), ("grid", [1000, 1000, 1000])):
        spoilt = {**about, "inputs": {**about["inputs"], name: value}}
        write(tmp_path / "spoilt.safetensors", tensors, spoilt)
        assert "the header of" in answer(tmp_path / "spoilt.safetensors", world)


# Imports ------------------------------------------------------------------------------------------------------------

MARK = "import pathlib\npathlib.Path({path!r}).write_text('imported')\ndef encode(texts):\n    raise ValueError\n"


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported, and that file."""
    mark = tmp_path / "mark"
    (tmp_path / "marking_module_of_a_test.py").write_text(MARK.format(path=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    yield "marking_module_of_a_test", mark
    sys.modules.pop("marking_module_of_a_test", None)


@pytest.mark.parametrize("spelling", ["dotted:{}:encode", "{}:encode"])
@pytest.mark.parametrize("part", ["text", "backbone"])
def test_what_a_file_names_is_imported_with_an_argument_only(part, spelling, files, marked, tmp_path):
    _, tensors, about = files("strong")
    module, mark = marked
    inputs = {**about["inputs"], part: {**about["inputs"][part], "name": spelling.format(module)}}
    write(tmp_path / "spoilt.safetensors", tensors, {**about, "inputs": inputs})
    video = np.zeros((3, 64, 64, 3), np.uint8)
    with pytest.raises(DataError):
        agents.load(tmp_path / "spoilt.safetensors").predict(video, TEXT)
    assert not mark.exists()
    if part == "text" and spelling.startswith("dotted"):
        with pytest.raises(ValueError):
            agents.load(tmp_path / "spoilt.safetensors", allow_import=True).predict(video, TEXT)
        assert mark.exists()


def test_a_kind_of_system_is_not_imported(files, marked, tmp_path):
    _, tensors, about = files("ctrl")
    module, mark = marked
    write(tmp_path / "spoilt.safetensors", tensors, {**about, "system": f"{module}:encode"})
    with pytest.raises(DataError, match="registered here are"):
        agents.load(tmp_path / "spoilt.safetensors")
    assert not mark.exists()


def test_the_system_of_a_run_is_imported_when_the_command_names_it(ragged_store, marked, tmp_path, capsys):
    module, mark = marked
    folder = tmp_path / "run"
    folder.mkdir()
    run = {"features": ragged_store, "train": "train", "test": "test", "system": f"{module}:encode"}
    run |= {"seed": 0, "budget": 1.0, "set": [], "device": "cpu"}
    (folder / "run.json").write_text(json.dumps(run))
    assert main(["train", "--out", str(folder), "--resume"]) == 2
    assert f"pass --system {module}:encode" in capsys.readouterr().err and not mark.exists()
    assert main(["train", "--out", str(folder), "--resume", "--system", f"{module}:encode"]) == 2
    assert mark.exists()


# Resuming -----------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill."""


def tiny(form):
    return tiny_strong(form, rounds=1, frame_scores=form == "uniform")


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kill", [1, 7, 12, 17, 26])
@pytest.mark.parametrize("form", ["own", "replay", "uniform"])
def test_spoilt_checkpoints_are_resumed_or_refused(form, kill, count, ragged_store, tmp_path):
    bank, path, updates = features.load(ragged_store, "train"), tmp_path / "checkpoint.safetensors", 0

    def watch(training):
        nonlocal updates
        updates += 1
        if updates == kill:
            raise Killed

    with pytest.raises(Killed):
        Strong.of(bank, tiny(form)).fit(checkpoint=Session(path, every=None, updates=1, watchers=(watch, watch)))
    if not path.exists():
        # Killed before the first checkpoint.
        Strong.of(bank, tiny(form)).fit(checkpoint=Session(path, every=None, updates=2))
    tensors, about = load_weights(path)
    refused = 0
    for seed in range(count):
        draw = random.Random(f"{form} {kill} {seed}")
        if draw.random() < 0.5:
            write(path, tensors, spoilt_header(about, draw))
        else:
            write(path, spoilt_tensors(tensors, draw), about)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                Strong.of(bank, tiny(form)).fit(checkpoint=Session(path, every=None, resume=True))
            except DataError:
                refused += 1
    assert refused > count / 3


@pytest.fixture(scope="module")
def stopped(ragged_store, tmp_path_factory):
    """The files of a run of the command that was stopped."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    arguments = ["train", "--features", ragged_store, "--system", "trl", "--budget", "0.02", "--out", str(folder)]
    arguments += ["--set", "batch=16", "--checkpoint-every", "1e-6"]
    calls = 0

    def stop(self, *_):
        nonlocal calls
        calls += 1
        # Not before rows of the log belong to the checkpoint.
        if calls >= 8 and len((folder / "log.csv").read_text().splitlines()) > 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strong_envs.agents.cli.Evaluator.during", stop)
        assert main(arguments) == 130
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("file", ["run.json", "log.csv", "checkpoint.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe\x00", b"{", b"null", b"[]", b'{"seed": "x"}', b"9" * 7000, b'{"a": ' * 5000,
        b'{"features": 3, "train": [], "test": {}, "system": null, "seed": -1, "budget": 1e999, "set": 3, "device": 1}',
    ],
)  # fmt: skip
def test_files_of_a_run_that_were_overwritten_are_refused(file, content, stopped, tmp_path, capsys):
    for name, raw in stopped.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / file).write_bytes(content)
    code = main(["train", "--out", str(tmp_path), "--resume"])
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said, said
    assert (tmp_path / file).read_bytes() == content


@pytest.mark.parametrize("seed", range(12))
def test_a_run_with_spoilt_options_is_refused_or_resumed(seed, stopped, tmp_path, capsys):
    draw = random.Random(seed)
    for name, raw in stopped.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "run.json").write_text(json.dumps(spoilt_header(json.loads(stopped["run.json"]), draw)))
    assert main(["train", "--out", str(tmp_path), "--resume"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


# Two processes ------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from strong_envs.features.files.locks import folder_lock
with folder_lock(sys.argv[1], "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_training_holds_is_refused(ragged_store, tmp_path, capsys):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        arguments = ["train", "--features", ragged_store, "--system", "trl", "--budget", "0.001", "--out", str(folder)]
        assert main(arguments) == 2
        assert f"process {holder.pid}" in capsys.readouterr().err
        assert not (folder / "run.json").exists()
    finally:
        holder.kill()
        holder.wait()
    time.sleep(0.1)
    assert main(arguments) == 0, "the lock of a killed process is free"


HOLD_CHECKPOINT = """
import sys, time
from strong_envs.agents.training.session import Session
with Session(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_checkpoint_that_another_training_holds_is_refused(ragged_store, tmp_path, capsys):
    """The lock is the session's, so it holds for `fit` in Python and for every command that trains."""
    file, out = tmp_path / "pre.safetensors.checkpoint", tmp_path / "pre.safetensors"
    command = [sys.executable, "-c", HOLD_CHECKPOINT, str(file)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    bank = features.load(ragged_store, "train")
    arguments = ["train-pretrained", "--features", ragged_store, "--budget", "1e-6", "--out", str(out)]
    arguments += ["--set", "rounds=0"]
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"process {holder.pid} .* for training"):
            agents.make("trl", bank, budget=0.001).fit(checkpoint=Session(file))
        with pytest.raises(DataError, match=f"process {holder.pid}"), Session(file):
            pass
        assert main(arguments) == 2 and f"process {holder.pid}" in capsys.readouterr().err
        assert not file.exists() and not out.exists()
        Session(tmp_path / "other").begin(agents.make("trl", bank, budget=0.001))
    finally:
        holder.kill()
        holder.wait()
    time.sleep(0.1)
    # One process may stop and resume as it likes, and leaves no lock.
    for resume in (False, True):
        with Session(file, every=None, updates=1, resume=resume) as session:
            agents.make("trl", bank, budget=0.001).fit(checkpoint=session)
    assert sorted(p.name for p in tmp_path.iterdir()) == [file.name]
