"""Only a store is replaced, whole or not at all; what cannot be written is one sentence before the work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from import_inputs import annotations, features, npy_folder
from random_stores import random_store
from video_files import SMALL, annotate

from strong_envs.benchmarks.cli import main
from strong_envs.features.commands import show
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.files import atomic
from strong_envs.features.importing import importer
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.store import store as stores
from strong_envs.features.store.store import FeatureStore

ROOT = Path(__file__).parents[3]
DURATIONS = {"v0": 4.0}
root_writes_everything = pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind this user")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def occupy(kind: str, tmp_path: Path) -> Path:
    """Something that is not a store, at the path that is returned."""
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("thesis")
        return out
    if kind == "link to a store":
        out.symlink_to(random_store(tmp_path / "elsewhere", [3]).path)
        return out
    if kind in ("store with more in it", "store with a folder in it"):
        random_store(out, [3])
        if kind == "store with more in it":
            (out / "notes.txt").write_text("mine")
        else:
            (out / "figures").mkdir()
        return out
    out.mkdir()
    if kind == "folder":
        (out / "thesis.tex").write_text("mine")
    elif kind == "some manifest":
        (out / "manifest.json").write_text('{"name": "a browser extension", "version": 3}')
        (out / "icon.png").write_bytes(b"x")
    elif kind == "only a foreign manifest":
        (out / "manifest.json").write_text('{"name": "a browser extension", "version": 3}')
    elif kind == "broken manifest":
        (out / "manifest.json").write_text('{"format": "strong-envs feature store"')
    return out


KINDS = (
    "file",
    "link to a store",
    "store with more in it",
    "store with a folder in it",
    "folder",
    "empty folder",
    "some manifest",
    "only a foreign manifest",
    "broken manifest",
)


@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_replaces_nothing_but_a_store(kind, tmp_path, clips, monkeypatch):
    folder = npy_folder(tmp_path / "f", features())
    out = occupy(kind, tmp_path)
    before = files_of(tmp_path)
    monkeypatch.setattr(importer, "iter_features", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(DataError, match="precious"):
        import_store(out, annotations(), folder, ImportOptions(overwrite=True))
    monkeypatch.setattr(
        "strong_envs.features.extraction.pipeline.load_backbone", lambda *_: pytest.fail("work was begun")
    )
    with pytest.raises(DataError, match="precious"):
        extract([clips], annotate(DURATIONS), out, ExtractOptions(overwrite=True, **SMALL))
    assert files_of(tmp_path) == before and out.is_symlink() == (kind == "link to a store")


@pytest.mark.parametrize(
    ("kind", "named"), [("store with more in it", "notes.txt"), ("store with a folder in it", "figures")]
)
def test_what_else_a_store_holds_is_named(kind, named, tmp_path, clips):
    out = occupy(kind, tmp_path)
    with pytest.raises(DataError, match=f"precious' also holds '{named}'.*move that away"):
        import_store(out, annotations(), npy_folder(tmp_path / "f", features()), ImportOptions(overwrite=True))
    with pytest.raises(DataError, match=f"also holds '{named}'"):
        extract([clips], annotate(DURATIONS), out, ExtractOptions(overwrite=True, **SMALL))


def test_empty_paths_are_not_the_current_folder(tmp_path, monkeypatch, clips, capsys):
    monkeypatch.chdir(random_store(tmp_path / "s", [3]).path)
    folder = npy_folder(tmp_path / "f", features())
    for command in (["check", ""], ["import", "", "--features", "x", "--out", "y"], ["compose", "", "--out", "y"]):
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert "is empty" in out + err, command
    for overwrite in (False, True):
        with pytest.raises(DataError, match="--out.* is empty"):
            import_store("", annotations(), folder, ImportOptions(overwrite=overwrite))
        with pytest.raises(DataError, match="--out.* is empty"):
            extract([clips], annotate(DURATIONS), "", ExtractOptions(overwrite=overwrite, **SMALL))
    with pytest.raises(DataError, match="the path of the videos is empty"):
        extract([""], annotate(DURATIONS), tmp_path / "t", ExtractOptions(**SMALL))
    with pytest.raises(DataError, match="the path of the features is empty"):
        import_store(tmp_path / "t", annotations(), "")


@pytest.mark.parametrize("option", ["name", "pca", "text", "boxes", "objects", "grid"])
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_options_of_an_import_are_refused(option, value):
    with pytest.raises(DataError, match=f"{option} .--{option}. is empty"):
        ImportOptions(**{option: value})


def test_the_features_themselves_and_the_home_folder_are_not_replaced(tmp_path, monkeypatch, clips):
    folder = npy_folder(tmp_path / "f", features())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    before = files_of(tmp_path)
    for out in (folder, tmp_path, Path.home(), Path("."), Path(".."), clips):
        with pytest.raises(DataError):
            import_store(out, annotations(), folder, ImportOptions(overwrite=True))
        with pytest.raises(DataError):
            extract([clips], annotate(DURATIONS), out, ExtractOptions(overwrite=True, **SMALL))
    assert files_of(tmp_path) == before and list(clips.glob("*.avi"))


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_work_folder_of_somebody_else_is_neither_used_nor_removed(kind, clips, tmp_path):
    work = tmp_path / "s.work"
    if kind == "file":
        work.write_text("mine")
    else:
        real = work if kind == "folder" else tmp_path / "elsewhere"
        real.mkdir()
        (real / "thesis.tex").write_text("mine")
        if kind == "link":
            work.symlink_to(real)
    before = files_of(tmp_path)
    with pytest.raises(DataError, match="s.work"):
        extract([clips], annotate(DURATIONS), tmp_path / "s", ExtractOptions(**SMALL))
    assert files_of(tmp_path) == before


def test_a_picture_replaces_a_picture_only(ragged_store, tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    for path in (tmp_path / "a.png", tmp_path / "a.png"):
        show.write_png(picture, path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="not a PNG"):
        show.write_png(picture, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


OUTS = {
    "a file above": ("file/s", "file"),
    "a file far above": ("file/a/b/s", "file"),
    "a name that is too long": ("x" * 300, "too long"),
    "a null character": ("a\0b", "null"),
}


@pytest.mark.parametrize("place", OUTS)
def test_what_cannot_be_written_is_one_sentence_before_the_work(place, tmp_path, clips, capsys):
    (tmp_path / "file").write_text("mine")
    name, words = OUTS[place]
    folder = npy_folder(tmp_path / "f", features())
    (tmp_path / "a.jsonl").write_text(
        '{"qid": 1, "query": "x", "duration": 40, "vid": "a", "relevant_windows": [[1, 5]]}'
    )
    (tmp_path / "v0.jsonl").write_text(
        '{"qid": 1, "query": "x", "duration": 4, "vid": "v0", "relevant_windows": [[1, 3]]}'
    )
    out = os.path.join(tmp_path, name)
    assert main(["import", str(tmp_path / "a.jsonl"), "--features", str(folder), "--out", out]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1 and "Errno" not in error
    small = ["--backbone", "colour-cells", "--text", "hashed-words"]
    assert main(["extract", str(clips), "--annotations", str(tmp_path / "v0.jsonl"), "--out", out, *small]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "f", "file", "v0.jsonl"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["tensor", "manifest", "spool"])
def test_errors_while_writing_are_one_sentence_and_leave_the_old_store(number, where, tmp_path, monkeypatch):
    folder, out = npy_folder(tmp_path / "f", features()), tmp_path / "s"
    import_store(out, annotations(), folder)
    before = files_of(out)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if where == "tensor":
        monkeypatch.setattr(stores, "write_tensor", fail)
    elif where == "manifest":
        monkeypatch.setattr(stores, "manifest_text", fail)
    else:
        monkeypatch.setattr(importer._Spool, "add", fail)
    with pytest.raises(DataError, match=os.strerror(number)):
        import_store(out, annotations(), folder, ImportOptions(overwrite=True))
    assert files_of(out) == before and sorted(p.name for p in tmp_path.iterdir()) == ["f", "s"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_ends_an_extraction_and_blames_no_video(workers, clips, tmp_path, monkeypatch):
    found = annotate({"v0": 4.0, "v1": 6.0})
    out = tmp_path / "out" / "s"
    first, _ = extract([clips], found, out, ExtractOptions(**SMALL))
    before = files_of(out)
    if workers == 1:
        monkeypatch.setattr("safetensors.numpy.save_file", lambda *_, **__: fill_up())
    else:
        (tmp_path / "sitecustomize.py").write_text(
            "import safetensors.numpy as s, errno\n"
            "def fail(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')\n"
            "s.save_file = fail\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DataError, match="No space left"):
        extract([clips], found, out, ExtractOptions(workers=workers, fps=3.0, overwrite=True, **SMALL))
    assert files_of(out) == before and first.content_hash


def fill_up() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_too_little_space_is_said_before_the_store_is_written(tmp_path, monkeypatch):
    folder = npy_folder(tmp_path / "f", features())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    monkeypatch.setattr(importer, "write_store", lambda *_: pytest.fail("the store was begun"))
    monkeypatch.setattr(importer, "_pack", lambda *_: pytest.fail("features were read"))
    with pytest.raises(DataError, match="are needed.*100 B are free"):
        import_store(tmp_path / "s", annotations(), folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]


@root_writes_everything
def test_a_folder_without_permission(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(DataError, match="Permission denied"):
        import_store(closed / "s", annotations(), npy_folder(tmp_path / "f", features()))


def test_a_kill_between_two_renames_loses_no_store(tmp_path, monkeypatch):
    out = random_store(tmp_path / "s", [3, 2]).path
    before = files_of(out)
    os.rename(out, tmp_path / ".s.replaced")  # where a replacement leaves the old store for a moment
    assert files_of(FeatureStore.open(out).path) == before


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from import_inputs import annotations
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.store import store as stores
made = stores.write_tensor
def write_tensor(file, name, values):
    if name == sys.argv[5]:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(file, name, values)
stores.write_tensor = write_tensor
import_store(Path(sys.argv[3]), annotations(), sys.argv[4], ImportOptions(overwrite=True))
"""


@pytest.mark.parametrize("tensor", ["frames", "queries"])
def test_what_a_killed_import_leaves_is_swept_by_the_next(tensor, tmp_path, monkeypatch):
    folder, out = npy_folder(tmp_path / "f", features()), tmp_path / "s"
    import_store(out, annotations(), folder)
    before = files_of(out)
    words = [str(ROOT), str(ROOT / "tests" / "helpers"), str(out), str(folder), tensor]
    assert subprocess.run([sys.executable, "-c", KILLED, *words], timeout=120).returncode == -9
    assert files_of(out) == before and len(list(tmp_path.iterdir())) > 2
    monkeypatch.setattr(atomic, "STALE_SECONDS", 0.0)
    import_store(out, annotations(), folder, ImportOptions(overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "s"] and files_of(out) == before
