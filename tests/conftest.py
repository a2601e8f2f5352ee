"""Shared fixtures: a tiny store with known numbers, and the optional folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real annotations and a real video; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STRONG_ENVS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real data is absent (set STRONG_ENVS_SHARED_DATA to use one)")
    return folder
