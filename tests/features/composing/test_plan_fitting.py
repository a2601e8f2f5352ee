"""Streams are as long as the clips of every part allow, and the report says where they are shorter than usual."""

from __future__ import annotations

from strong_envs.benchmarks.cli import main
from strong_envs.features import open_store, shapes

MOSAIC = ["compose", "shapes", "--layout", "mosaic", "--text", "hashed-words", "--videos", "6", "2", "2"]


def test_a_mosaic_of_the_drawn_world_needs_no_option(tmp_path, capsys):
    assert main([*MOSAIC, "--out", str(tmp_path / "m")]) == 0
    assert "instead of 5 clips a stream" not in capsys.readouterr().out
    assert len(open_store(tmp_path / "m").videos) == 10


def test_streams_are_shorter_where_a_part_has_few_clips(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(shapes.BUILDS, "few", (40, 0, 12))  # its validation part is carved from 40 videos
    few = shapes.open_store("standard", "few", cache=tmp_path / "cache", progress=False)
    assert main(["compose", str(few.path), *MOSAIC[2:], "--out", str(tmp_path / "m")]) == 0
    assert "instead of 5 clips a stream" in capsys.readouterr().out
    assert len(open_store(tmp_path / "m").videos) == 10


def test_a_number_that_is_asked_for_is_never_lowered(tmp_path, capsys):
    assert main([*MOSAIC, "--out", str(tmp_path / "m"), "--clips-per-stream", "9"]) == 2
    assert "--clips-per-stream" in capsys.readouterr().err and not (tmp_path / "m").exists()
