"""HDF5 files of unknown origin: nothing outside of them is read, one odd entry does not cost the others."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from import_inputs import annotations

from strong_envs.features.commands.check import check, exit_code
from strong_envs.features.errors import DataError
from strong_envs.features.importing.detections import ObjectFiles
from strong_envs.features.importing.feature_files import FeatureFiles, load_features
from strong_envs.features.importing.grids import GridFiles
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import FileOptions, ImportOptions

h5py = pytest.importorskip("h5py")
SECRET = np.full((20, 3), 7, np.float32)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def secret(tmp_path):
    """A file that no import may read."""
    (tmp_path / "secret").mkdir()
    with h5py.File(tmp_path / "secret" / "s.h5", "w") as file:
        file["x"] = SECRET
        file["g/features"] = SECRET
    SECRET.tofile(tmp_path / "secret" / "raw.bin")
    return tmp_path / "secret" / "s.h5"


def links(file: h5py.File, secret: Path) -> dict[str, str]:
    """Every way in which an entry can point out of its file, by name, with the ``--key`` that leads there."""
    file["own"] = np.ones((20, 3), np.float32)
    file["external"] = h5py.ExternalLink(str(secret), "/x")
    file["external group"] = h5py.ExternalLink(str(secret), "/g")
    file["soft to external"] = h5py.SoftLink("/external")
    file["soft into external"] = h5py.SoftLink("/external group/features")
    file["soft to nothing"] = h5py.SoftLink("/nowhere")
    file["soft to itself"] = h5py.SoftLink("/soft to itself")
    file["group/features"] = h5py.ExternalLink(str(secret), "/x")
    file["deep/a/features"] = np.ones((20, 3), np.float32)
    file["path/a"] = h5py.ExternalLink(str(secret), "/g")
    file["path/b"] = np.ones((20, 3), np.float32)
    layout = h5py.VirtualLayout((20, 3), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "x", (20, 3))
    file.create_virtual_dataset("virtual", layout)
    raw = str(secret.with_name("raw.bin"))
    file.create_dataset("raw", (20, 3), np.float32, external=[(raw, 0, h5py.h5f.UNLIMITED)])
    file["reference"] = np.array([file["own"].ref], h5py.ref_dtype)
    return {"path": "a/features", "deep": "a/features"}


@pytest.mark.parametrize("key", ["features", "a/features", "../x", "/x", "a//features", ".", "a/../../x"])
def test_no_link_leads_out_of_the_file(key, secret, tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        links(file, secret)
        names = list(file)
    with FeatureFiles(tmp_path / "f.h5", FileOptions(key=key)) as files:
        for name in [*names, "external group/features", "path/a", "path/a/features", "../secret/s", "own/.."]:
            try:
                found = files.read(name)
            except DataError:
                continue
            assert not np.array_equal(found, SECRET), name
    assert exit_code(check(tmp_path / "f.h5")) in (0, 1)


def test_a_key_that_is_a_path_reaches_groups_of_the_file(secret, tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        links(file, secret)
    with FeatureFiles(tmp_path / "f.h5", FileOptions(key="a/features")) as files:
        assert files.read("deep").shape == (20, 3)
        with pytest.raises(DataError, match="is a link"):
            files.read("path")
    for kind in (GridFiles, ObjectFiles):
        files = kind(tmp_path / "f.h5", FileOptions(key="a/features"))
        with pytest.raises(DataError):
            files.read("path", 20, None)
        files.close()


def test_odd_entries_cost_only_themselves(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = np.ones((20, 3), np.float32)
        file["empty"] = h5py.Empty("f4")
        file["scalar"] = 3.0
        file["text"] = "words"
        file["none"] = np.ones((0, 3), np.float32)
        file["complex"] = np.ones((20, 3), np.complex64)
        file["bool"] = np.ones((20, 3), bool)
        file["records"] = np.zeros(3, [("x", "f4")])
        file.create_dataset("reserved", (2000, 3), "f4", chunks=(10, 3))
        space = h5py.h5s.create_simple((20, 3))
        h5py.h5d.create(file.id, b"v\xff\xfe", h5py.h5t.NATIVE_FLOAT, space)
        h5py.h5g.create(file.id, b"\x80")
        file["b"] = np.ones((10, 3), np.float32)
    loaded, report = load_features(tmp_path / "f.h5")
    assert sorted(loaded) == ["a", "b"]
    kinds = {f.kind: f.count for f in report.findings.values()}
    assert kinds["a name in an h5 file is not text"] == 2 and kinds["a feature file cannot be used"] == 8
    store, _ = import_store(tmp_path / "s", annotations(), tmp_path / "f.h5")
    assert [v.id for v in store.videos] == ["a", "b"]


def limited(code: str, gigabytes: float, *words: object) -> subprocess.CompletedProcess:
    """Run code in a process whose memory is bounded."""
    start = f"import resource as r, sys; r.setrlimit(r.RLIMIT_DATA, ({int(gigabytes * 2**30)},) * 2)\n"
    start += f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'helpers')!r}]\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="needs a limit of memory")
@pytest.mark.parametrize("dtype", ["i1", "f2", "f4", "f8"])
def test_a_nearly_empty_array_takes_neither_memory_nor_disk(dtype, tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        sparse = file.create_dataset("a", (2_000_000, 1000), dtype, chunks=(1000, 1000), compression="gzip")
        sparse[0] = 1
        file["b"] = np.ones((10, 1000), np.float32)
    assert (tmp_path / "f.h5").stat().st_size < 10**6
    done = limited(
        """
        from import_inputs import annotations
        from strong_envs.features.importing.importer import import_store
        store, report = import_store(sys.argv[2], annotations(), sys.argv[1])
        print([v.id for v in store.videos], report.count("dropped"))
        """,
        3.0,
        tmp_path / "f.h5",
        tmp_path / "s",
    )
    assert done.returncode == 0 and done.stdout.split() == ["['b']", "4"], done.stderr[-2000:]
    assert sum(f.stat().st_size for f in (tmp_path / "s").iterdir()) < 10**6


def test_imported_options_are_checked():
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(DataError, match="seconds_per_row"):
            ImportOptions(seconds_per_row=seconds)
