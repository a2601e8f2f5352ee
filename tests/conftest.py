"""Shared fixtures: a tiny store with known numbers, and the optional folder of real data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from random_stores import random_store
from video_files import write_video

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and some tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real annotations and a real video; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STRONG_ENVS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real data is absent (set STRONG_ENVS_SHARED_DATA to use one)")
    return folder


@pytest.fixture(scope="session")
def ragged_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a store with videos from 1 to 300 rows."""
    lengths = [1, 2, 7, 20, 33, 60, 61, 300]
    return str(random_store(tmp_path_factory.mktemp("stores") / "ragged", lengths, windows=3).path)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for k, n in enumerate((50, 75, 60)):
        write_video(folder / f"v{k}.avi", n)
    return folder
