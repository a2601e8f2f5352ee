"""Features of single videos: what a file names is imported only on demand."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from strong_envs.features.encoders.backbones import load as load_backbone
from strong_envs.features.encoders.text import load as load_text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.single_video import VideoFeatures, encoder_of

MODULE = """
import pathlib, numpy as np
pathlib.Path(__file__).with_name("imported").touch()
def net(frames): return np.ones((len(frames), 2, 2, 3), np.float32)
def encode(texts): return np.ones((len(texts), 4), np.float32)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_users_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    sys.modules.pop("a_users_module", None)


def test_a_model_folder_that_a_file_names_is_not_loaded_unasked(tmp_path):
    """Its modules.json names classes to import."""
    name = f"sentence-transformers:{tmp_path}"
    with pytest.raises(DataError, match="allow_import=True"):
        encoder_of({"name": name})
    with pytest.raises(DataError, match="modules.json|needs a package"):
        encoder_of({"name": name}, allow_import=True)


@pytest.mark.parametrize("name", ["a_users_module:net", "dotted:a_users_module:net"])
def test_a_backbone_named_by_a_file_is_imported_only_on_demand(name, module):
    dtypes = {"frames": "float32", "grid": "float32"}
    with pytest.raises(DataError, match="allow_import=True"):
        VideoFeatures({"name": name}, 1.0, dtypes)
    assert not module.exists() and "a_users_module" not in sys.modules
    made = VideoFeatures({"name": name}, 1.0, dtypes, allow_import=True)
    assert made.of_pixels(np.zeros((2, 8, 8, 3), np.uint8))[0].shape == (2, 3)


def test_a_text_encoder_named_by_a_file_is_imported_only_on_demand(module):
    with pytest.raises(DataError, match="allow_import=True"):
        encoder_of({"name": "dotted:a_users_module:encode"})
    assert not module.exists()
    assert encoder_of({"name": "dotted:a_users_module:encode"}, allow_import=True).encode(["x"]).shape == (1, 4)


@pytest.mark.parametrize("name", [3, ["a:b"], {"a": 1}, True])
def test_a_name_that_is_none_is_one_sentence(name):
    with pytest.raises(DataError):
        VideoFeatures({"name": name}, 1.0, {})
    with pytest.raises(DataError):
        encoder_of({"name": name})


@pytest.mark.parametrize(
    "body", ["raise SystemExit(3)", "raise RuntimeError('no')", "1 / 0", "import nowhere_at_all", "def"]
)
def test_a_module_that_fails_on_import_is_one_sentence(body, tmp_path, monkeypatch):
    (tmp_path / "a_failing_module.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    for load, name in ((load_backbone, "a_failing_module:net"), (load_text, "dotted:a_failing_module:encode")):
        with pytest.raises(DataError, match="a_failing_module"):
            load(name)
    sys.modules.pop("a_failing_module", None)
