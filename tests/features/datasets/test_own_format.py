"""A format is one file: a module with a decorated reader is all that `read`, `check` and `import` need."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from strong_envs.features import datasets
from strong_envs.features.commands import check, import_features
from strong_envs.features.datasets import FORMATS, READERS, annotation_format, find_format, formats, read
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore

MODULE = """
from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.parsing import list_files, read_json
from strong_envs.features.datasets.sniff import sniff_file


@annotation_format(
    "clips_of_a_user", keys={"clip", "sentence", "from", "to"}, advice={"a clip is cut": "Ask for the whole clip."}
)
def read_clips(path, *, split=None):
    files = list_files(path, lambda p: sniff_file(p) == "clips_of_a_user", "json of clips")
    out = Collector("Clips of a user", path)
    for file in files:
        for i, row in enumerate(read_json(file, out.report)):
            where = f"{file.name}:{i}"
            video = out.video(row["clip"], row["seconds"], where)
            if row.get("cut"):
                out.report.add("a clip is cut", "doubtful", where)
            out.query(i, video, row["sentence"], [[row["from"], row["to"]]], out.split(file, split), where)
    return out.finish()
"""
ROWS = [
    {"clip": "a", "seconds": 20, "sentence": "a dog runs", "from": 2, "to": 9, "cut": True},
    {"clip": "b", "seconds": 10, "sentence": "a cat sits", "from": 1, "to": 4},
]


@pytest.fixture
def own_format(tmp_path: Path) -> Iterator[Path]:
    """A folder of formats with one module, found like those of the package."""
    folder = tmp_path / "formats"
    folder.mkdir()
    (folder / "clips_of_a_user.py").write_text(MODULE)
    formats.__path__.append(str(folder))
    try:
        datasets.import_formats()
        yield folder
    finally:
        formats.__path__.remove(str(folder))
        FORMATS.pop("clips_of_a_user", None)
        READERS.pop("clips_of_a_user", None)
        sys.modules.pop(f"{formats.__name__}.clips_of_a_user", None)


def command(module: object, *words: object) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args([*map(str, words)])
    return args.run(args)


def test_one_file_adds_a_format_to_every_command(own_format, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.json").write_text(json.dumps(ROWS))
    found = read(data)
    assert find_format(data) == "clips_of_a_user" and found.name == "Clips of a user"
    assert [(q.video, q.windows, q.split) for q in found.queries] == [
        ("a", ((2.0, 9.0),), "train"),
        ("b", ((1.0, 4.0),), "train"),
    ]

    assert command(check, "check", data) == 0
    out = capsys.readouterr().out
    assert "annotations, Clips of a user" in out and "-> Ask for the whole clip." in out
    assert command(check, "check", data, "--format", "clips_of_a_user") == 0

    (tmp_path / "features").mkdir()
    for clip, rows in (("a", 20), ("b", 10)):
        np.save(tmp_path / "features" / f"{clip}.npy", np.ones((rows, 3), np.float32))
    store = tmp_path / "store"
    words = ("import", data, "--format", "clips_of_a_user", "--features", tmp_path / "features", "--out", store)
    assert command(import_features, *words) == 0
    assert [q.text for q in FeatureStore.open(store).queries] == ["a dog runs", "a cat sits"]


def test_a_format_without_signs_or_with_a_taken_name_is_refused():
    with pytest.raises(DataError, match="needs keys= .* or text="):
        annotation_format("nothing")
    with pytest.raises(DataError, match="'tacos' is registered already"):
        annotation_format("tacos", keys={"x"})(lambda path: None)
    assert READERS["tacos"].__name__ == "read_tacos"


def test_reading_annotations_needs_no_torch():
    import subprocess

    code = "import sys, strong_envs.features.datasets.parsing as p; print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    # As the workers of the default world do it: the packages above are stand-ins that import nothing.
    stand_in = (
        "import sys, types\n"
        "for name in ('strong_envs', 'strong_envs.features'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        f"    sys.modules[name].__path__ = [{str(root / 'features')!r}] if name.endswith('features') else []\n"
    )
    done = subprocess.run([sys.executable, "-c", stand_in + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
