"""The judgement of skipped tests at the end of ``.ci/run``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "skip_list.py"


@pytest.mark.parametrize(
    ("reasons", "status", "line"),
    [
        (["gradio is not installed", "no Chromium here", "gradio is not installed"], 0, "skipped: t: no Chromium here"),
        (["gradio is not installed"] * 3, 1, "SKIPPED, NOT ALLOWED: t: gradio is not installed"),
        (["gradio is not installed", "no Chromium here"], 0, None),  # it ran in the last environment
    ],
)
def test_a_skip_is_accepted_for_the_reason_of_any_environment(tmp_path, reasons, status, line):
    (tmp_path / "allowed.txt").write_text("no Chromium*  # a system package\n")
    files = []
    for i, reason in enumerate([*reasons, None][:3]):
        files.append(tmp_path / f"{i}.json")
        counts = dict.fromkeys(("passed", "failed", "error", "xfailed", "xpassed"), 0) | {"passed": 1}
        skipped = {} if reason is None else {"t": reason}
        files[-1].write_text(json.dumps({"counts": counts, "skipped": skipped, "seconds": 1.0}))
    call = [sys.executable, str(SCRIPT), "judge", str(tmp_path / "allowed.txt"), *map(str, files)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert (line in done.stdout.splitlines()) if line else ("t:" not in done.stdout)
