"""Files and folders are replaced whole or not at all, at whatever moment a process is killed or a disk is full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strong_envs.features.errors import DataError
from strong_envs.features.files import atomic
from strong_envs.features.files.atomic import recover, refuse_replacing, replaced_file, replaced_folder, write_text

ROOT = Path(__file__).parents[3]
needs_kill = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def ours(folder: Path) -> bool:
    return (folder / "manifest").is_file()


def write_version(target: Path, number: int) -> None:
    """A folder whose two files hold the same number."""
    with replaced_folder(target, ours) as staging:
        for name in ("manifest", "data"):
            (staging / name).write_text(f"{number} " * 2000)


def version(target: Path) -> set[str]:
    texts = [(target / name).read_text() for name in ("manifest", "data")]
    assert all(len(text.split()) == 2000 for text in texts)
    return set(" ".join(texts).split())


def killed_writer(target: Path, kind: str, seconds: float) -> None:
    """Fork a process that writes version after version, and kill it."""
    child = os.fork()
    if child == 0:
        try:
            for number in range(10**6):
                if kind == "file":
                    write_text(target, f"{number} " * 5000)
                else:
                    write_version(target, number)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@needs_kill
@pytest.mark.parametrize("kind", ["folder", "renames", "file"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(kind, tmp_path, monkeypatch):
    target, rng = tmp_path / "target", random.Random(0)
    if kind == "renames":
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    if kind == "file":
        write_text(target, "-1 " * 5000)
    else:
        write_version(target, -1)
    for _ in range(50):
        killed_writer(target, kind, rng.uniform(0, 0.05))
        recover(target)
        words = set(target.read_text().split()) if kind == "file" else version(target)
        assert len(words) == 1
    monkeypatch.setattr(atomic, "STALE_SECONDS", 0.0)
    if kind == "file":
        write_text(target, "done")
    else:
        write_version(target, 7)
    assert [p.name for p in tmp_path.iterdir()] == ["target"], "leftovers of the killed are gone"


def test_without_an_exchange_a_kill_between_the_renames_is_recovered(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "target"
    write_version(target, 1)
    write_version(target, 2)
    assert version(target) == {"2"} and len(list(tmp_path.iterdir())) == 1

    real = os.rename

    def killed(source, goal):
        if Path(goal) == target:
            raise KeyboardInterrupt
        real(source, goal)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_version(target, 3)
    monkeypatch.setattr(os, "rename", real)
    assert not target.exists()
    recover(target)
    assert version(target) == {"2"}


@pytest.mark.parametrize("there", ["file", "folder", "link", "broken link", "empty folder"])
def test_what_is_of_another_kind_is_never_replaced(there, tmp_path):
    target, other = tmp_path / "precious", tmp_path / "other"
    if there == "file":
        target.write_text("mine")
    elif there == "folder":
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    elif there == "empty folder":
        target.mkdir()
    else:
        if there == "link":
            write_version(other, 1)
        target.symlink_to(other)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(DataError, match="precious"), replaced_folder(target, ours, "a store"):
        pytest.fail("nothing is asked for before the refusal")
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_nothing_is_replaced_without_being_asked(tmp_path):
    write_version(tmp_path / "s", 1)
    with pytest.raises(DataError, match="exists; choose another path or pass overwrite=True"):
        refuse_replacing(tmp_path / "s", None, "a store")


def test_a_failure_leaves_the_old_and_no_leftover(tmp_path):
    target = tmp_path / "target"
    write_version(target, 1)
    with pytest.raises(RuntimeError, match="boom"), replaced_folder(target, ours) as staging:
        (staging / "manifest").write_text("half")
        raise RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"), replaced_file(target / "data") as one:
        one.write_text("half")
        raise RuntimeError("boom")
    assert version(target) == {"1"} and [p.name for p in tmp_path.iterdir()] == ["target"]


def test_modes_and_suffixes_are_kept(tmp_path):
    file = tmp_path / "a.png"
    with replaced_file(file) as staging:
        assert staging.suffix == ".png"
        staging.write_bytes(b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask
    file.chmod(0o600)
    write_text(file, "2")
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == "2"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    target = tmp_path / "target"
    write_version(target, 1)
    write_text(tmp_path / "file", "old")
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from strong_envs.features.errors import DataError\n"
        "from strong_envs.features.files.atomic import replaced_folder, write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "folder = Path(sys.argv[1])\n"
        "for action in range(2):\n"
        "    try:\n"
        "        if action:\n"
        "            write_text(folder / 'file', 'new ' * 5000)\n"
        "        else:\n"
        "            with replaced_folder(folder / 'target', lambda _: True) as staging:\n"
        "                (staging / 'manifest').write_text('new ' * 5000)\n"
        "    except DataError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line[:12] for line in done.stdout.splitlines()] == ["cannot write"] * 2
    assert version(target) == {"1"} and (tmp_path / "file").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "target"]
