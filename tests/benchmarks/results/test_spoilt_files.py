"""Result files, cells and predictions that somebody or something spoilt: a sentence, never a raw exception."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_run import finished_run
from fuzzing import NASTY, only_data_errors, paths
from safetensors.torch import load_file, save_file

from strong_envs import features
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands import aggregate, document, episode, report
from strong_envs.benchmarks.commands.compare import compare, read_scored
from strong_envs.benchmarks.execution.cell import Cell, read_cell
from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.results import figures
from strong_envs.benchmarks.results.files import read_result, write_json
from strong_envs.features.errors import DataError

WORDS = ["IoU", "strong", "-1", "1e999", "NaN", "null", "true", "{}", "[]", '"x"', "9" * 5000, "\\ud800", "../../x"]


@pytest.fixture(scope="module")
def run(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run(ragged_store, folder)
    return folder


def spoilt_tree(tree: object, chance: random.Random) -> object:
    """A tree with one to three of its nodes replaced, removed, renamed, repeated or swapped."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.randint(1, 3)):
        path = chance.choice(paths(tree))
        value = copy.deepcopy(chance.choice(NASTY))
        if not path:
            return value
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        what = chance.choice(["replace", "replace", "remove", "rename", "repeat", "swap"])
        if what == "swap":
            other = tree
            for key in chance.choice(paths(tree)):
                other = other[key]
            parent[path[-1]] = copy.deepcopy(other)
        elif isinstance(parent, list) and what == "repeat":
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif isinstance(parent, list) and what == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict) and what in ("remove", "rename"):
            old = parent.pop(path[-1])
            if what == "rename":
                parent[str(value)] = old
        else:
            parent[path[-1]] = value
    return tree


def spoilt_text(text: str, chance: random.Random) -> bytes:
    """Text cut short, with words put into it, bytes changed or lines repeated."""
    raw = bytearray(text.encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw))
        kind = chance.randrange(4)
        if kind == 0:
            raw[at] = chance.randrange(256)
        elif kind == 1:
            raw[at:at] = chance.choice(WORDS).encode()
        elif kind == 2:
            del raw[at : at + chance.randint(1, 200)]
        else:
            raw[at:at] = raw[max(at - 80, 0) : at]
        if not raw:
            break
    return bytes(raw[: chance.randrange(len(raw))] if raw and chance.random() < 0.1 else raw)


def write_tree(file: Path, tree: object) -> None:
    try:
        file.write_text(json.dumps(tree), encoding="utf-8")
    except (ValueError, UnicodeEncodeError):
        file.write_text("[]")


def try_result(file: Path) -> None:
    """Every command on a result file, without its cells."""
    held = only_data_errors(read_scored, file)
    if held is not None:
        labels = list(held)
        only_data_errors(compare, held[labels[0]], held[labels[-1]])
        only_data_errors(aggregate.aggregate, [held, held])
    result = only_data_errors(read_result, file, ("rows",))
    if result is not None:
        only_data_errors(report.table_of, result)
        json.dumps(only_data_errors(report.table_of, result))
    for kind, words in (("table", {}), ("about", {}), ("number", {"system": "good"}), ("claims", {})):
        only_data_errors(document.block, kind, file.name, words, file, file.parent)


@pytest.mark.parametrize("seed", range(4))
def test_600_spoilt_result_files(run, tmp_path, seed):
    chance, file = random.Random(seed), tmp_path / "results.json"
    text = (run / "results.json").read_text()
    tree = json.loads(text)
    for _ in range(100):
        write_tree(file, spoilt_tree(tree, chance))
        try_result(file)
    for _ in range(50):
        file.write_bytes(spoilt_text(text, chance))
        try_result(file)


@pytest.mark.parametrize("seed", range(4))
def test_600_spoilt_cells(run, tmp_path, seed, ragged_store):
    chance = random.Random(seed)
    result = json.loads((run / "results.json").read_text())
    key = result["cells"]["good"][0]
    text = (run / "cells" / f"{key}.json").read_text()
    tree, file = json.loads(text), tmp_path / "cells" / f"{key}.json"
    file.parent.mkdir()
    cell = Cell("trl", 0, ragged_store, tree["data"], options={"label": "good"})
    assert cell.key == key
    for i in range(150):
        if i < 100:
            write_tree(file, spoilt_tree(tree, chance))
        else:
            file.write_bytes(spoilt_text(text, chance))
        only_data_errors(read_cell, file.parent, cell)
        only_data_errors(read_scored, file)
        found = only_data_errors(episode.cell_file, {"cells": {"good": [key]}}, file.parent, None, 0)
        if found is not None:
            only_data_errors(episode.bank_of, found[1])


@pytest.mark.parametrize("seed", range(4))
def test_800_spoilt_predictions(run, tmp_path, seed, ragged_store):
    chance, bank = random.Random(seed), features.load(ragged_store, "test")
    truth = GroundTruth.of_bank(bank)
    key = json.loads((run / "results.json").read_text())["cells"]["good"][0]
    raw, file = (run / "cells" / f"{key}{PREDICTION}").read_bytes(), tmp_path / "x.safetensors"
    tensors = load_file(run / "cells" / f"{key}{PREDICTION}")
    for i in range(200):
        if i % 2:
            spoilt = bytearray(raw)
            for _ in range(chance.randint(1, 4)):
                # The header is where most can go wrong.
                spoilt[chance.randrange(600 if chance.random() < 0.7 else len(spoilt))] = chance.randrange(256)
            file.write_bytes(spoilt[: chance.randrange(len(spoilt))] if chance.random() < 0.2 else spoilt)
        else:
            spoil_tensors(tensors, chance, file)
        found = only_data_errors(read_prediction, file, bank, bank)
        if found is not None:
            only_data_errors(score, found[0], truth, (0.5,))
            for prediction in (found[0], *(stage for _, stage in found[1])):
                assert tuple(prediction.spans.shape) == (len(bank), 2)


def spoil_tensors(tensors: dict, chance: random.Random, file: Path) -> None:
    tensors = {name: value.clone() for name, value in tensors.items()}
    name = chance.choice(list(tensors))
    kind = chance.randrange(6)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name] = tensors[name][:-1].contiguous()
    elif kind == 2:
        tensors[name] = tensors[name][None].contiguous()
    elif kind == 3:
        types = [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
        tensors[name] = tensors[name].to(chance.choice(types))
    else:
        flat = tensors[name].view(-1)
        value = chance.choice([float("nan"), float("inf"), -1e30, 1e30, -1.0, 0.0])
        if flat.is_floating_point():
            flat[chance.randrange(len(flat))] = value
        else:
            flat[chance.randrange(len(flat))] = chance.choice([-1, 2**31 - 1, 0])
    stages = chance.choice(['["one", "two"]', "[]", "{", '["one"]', "[1]", '["a", "b", "c"]', '"x"'])
    save_file(tensors, file, {"stages": stages})


@pytest.mark.slow
def test_spoilt_runs_as_whole_pages(run, tmp_path, monkeypatch):
    """The report reads all files of a run and draws them; 60 of them, drawings not rendered."""
    import matplotlib.pyplot as plt

    def save(figure, path):
        path.write_bytes(b"<svg/>")
        plt.close(figure)

    monkeypatch.setattr(figures, "save", save)
    chance = random.Random(0)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    files = [
        run / "results.json",
        *sorted((run / "cells").glob("*.json")),
        *sorted((run / "cells").glob(f"*{PREDICTION}")),
    ]
    drawn = 0
    for _ in range(60):
        file = chance.choice(files[:1] * 3 + files)
        target = folder / file.relative_to(run)
        if file.suffix == ".json":
            write_tree(target, spoilt_tree(json.loads(file.read_text()), chance))
        else:
            spoil_tensors(load_file(file), chance, target)
        page = only_data_errors(report.page, folder, 2)
        drawn += page is not None
        shutil.copy(file, target)
    assert drawn > 3  # some changes do no harm
    assert only_data_errors(report.page, folder, 2) is not None


def test_a_cell_of_another_store_or_key_is_named(run, ragged_store, tmp_path):
    result = json.loads((run / "results.json").read_text())
    key = result["cells"]["good"][0]
    stored = json.loads((run / "cells" / f"{key}.json").read_text())
    cell = Cell("trl", 0, ragged_store, stored["data"], options={"label": "good"})
    for change, words in (
        ({"key": "other"}, "belongs to the cell 'other'"),
        ({"key": "../../etc/passwd"}, "regex"),
        ({"data": "0" * 64}, "result of another cell"),
        ({"system": "strong"}, "result of another cell"),
        ({"seconds": -1.0}, "seconds"),
        ({"scores": {}}, "no IoU"),
        ({"spans": stored["spans"][:-1]}, "4 queries and 3 spans"),
        ({"protocol": {"name": 1}}, "not a protocol of this release"),
    ):
        write_json(tmp_path / f"{key}.json", stored | change)
        with pytest.raises(DataError, match=words) as caught:
            read_cell(tmp_path, cell)
        assert f"delete {str(tmp_path / key)!r}"[:-1] in str(caught.value)


def test_a_file_names_no_code_to_run(run, tmp_path, capsys):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    result = json.loads((copied / "results.json").read_text())
    file = copied / "cells" / f"{result['cells']['good'][0]}.json"
    stored = json.loads(file.read_text())
    write_json(file, stored | {"features": "queries:x?text=dotted:os:getcwd"})
    assert main(["episode", str(copied), "--system", "good"]) == 2
    assert "names code to run" in capsys.readouterr().err


def test_numbers_that_json_does_not_have_are_written_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "x": [float("inf"), 1.5], "name": "\udcff é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "x": [None, 1.5], "name": "\\xff é"}
    assert np.isfinite(read_only(tmp_path / "a.json")["x"][1])


def read_only(file: Path) -> dict:
    from strong_envs.benchmarks.results.files import read_tree

    return read_tree(file)
