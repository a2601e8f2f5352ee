"""Streams are as long as the clips of every part allow, and the report says where they are shorter than usual."""

from __future__ import annotations

from strong_envs.benchmarks.cli import main
from strong_envs.features import open_store


def test_a_mosaic_of_the_drawn_world_needs_no_option(tmp_path, capsys):
    arguments = ["compose", "shapes", "--layout", "mosaic", "--out", str(tmp_path / "m"), "--text", "hashed-words"]
    assert main([*arguments, "--videos", "6", "2", "2"]) == 0
    assert "instead of 5 clips a stream" in capsys.readouterr().out
    assert len(open_store(tmp_path / "m").videos) == 10


def test_a_number_that_is_asked_for_is_never_lowered(tmp_path, capsys):
    arguments = ["compose", "shapes", "--layout", "mosaic", "--out", str(tmp_path / "m"), "--text", "hashed-words"]
    assert main([*arguments, "--videos", "6", "2", "2", "--clips-per-stream", "9"]) == 2
    assert "--clips-per-stream" in capsys.readouterr().err and not (tmp_path / "m").exists()
