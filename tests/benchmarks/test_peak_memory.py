"""Long commands tell how much memory they needed."""

from __future__ import annotations

import re

import numpy as np

from strong_envs.benchmarks import cli
from strong_envs.benchmarks.peak_memory import peak_memory


def gib(words):
    return float(re.match(r"peak memory ([\d.]+) GiB", words)[1])


def test_it_grows_with_what_is_held():
    before = gib(peak_memory())
    held = np.ones(1 << 27)  # a gibibyte
    assert gib(peak_memory()) >= min(before + 0.5, held.nbytes / 2**30)


def test_a_worker_that_is_no_child_counts(monkeypatch):
    from strong_envs.benchmarks import peak_memory as module

    monkeypatch.setattr(module, "_workers", [0.0])
    module.note_worker(7.25)
    module.note_worker(None)
    assert peak_memory().endswith("largest worker 7.2 GiB")


def test_a_long_command_says_it_and_a_short_one_does_not(monkeypatch, capsys):
    assert cli.main(["sizes", "shapes-v0"]) == 0
    assert "peak memory" not in capsys.readouterr().err
    monkeypatch.setattr(cli, "LONG", -1.0)
    assert cli.main(["sizes", "shapes-v0"]) == 0
    streams = capsys.readouterr()
    assert re.search(r"^peak memory [\d.]+ GiB", streams.err, re.M) and "peak memory" not in streams.out
