"""Locks that name their holder, and the operating system's errors as one sentence."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import check_output, os_errors, sentence, shown
from strong_envs.features.files.locks import LOCK_NAME, file_lock, folder_lock

ROOT = Path(__file__).parents[3]
HOLD = (
    "import sys, time\n"
    "from strong_envs.features.files.locks import folder_lock\n"
    "with folder_lock(sys.argv[1], 'training'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        pattern = rf"in use: process {child.pid} on \S+ .* since \d{{4}}-.* for training; wait"
        for _ in range(2):
            with pytest.raises(DataError, match=pattern), folder_lock(tmp_path):
                pass
        child.send_signal(signal.SIGKILL)
    with folder_lock(tmp_path) as held:
        assert held == tmp_path
        with pytest.raises(DataError, match=str(os.getpid())), folder_lock(tmp_path):
            pass
    with folder_lock(tmp_path):
        pass


HOLD_FILE = HOLD.replace("folder_lock", "file_lock").replace(
    "with file_lock(sys.argv[1], 'training'):", "held = file_lock(sys.argv[1], 'training')\nif held:"
)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_the_lock_of_a_file_is_shared_in_a_process_and_refused_to_others(tmp_path):
    file = tmp_path / "new" / "checkpoint.safetensors"
    with subprocess.Popen([sys.executable, "-c", HOLD_FILE, str(file)], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        pattern = rf"checkpoint.safetensors' is in use: process {child.pid} on .* for training; wait"
        with pytest.raises(DataError, match=pattern):
            file_lock(file)
        file_lock(file.with_name("another.safetensors")).release()
        child.send_signal(signal.SIGKILL)
    first, second = file_lock(file), file_lock(file.parent / ".." / "new" / file.name)
    assert first is second and first.file.exists()
    del first
    gc.collect()
    assert second.file.exists()
    text = f"from strong_envs.features.files.locks import file_lock; file_lock({str(file)!r})"
    other = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert f"process {os.getpid()} on" in other.stderr
    del second
    gc.collect()
    assert not any(file.parent.iterdir())  # neither a killed process nor this one leaves a file
    assert not subprocess.run([sys.executable, "-c", text], cwd=ROOT).returncode


def test_the_lock_of_a_file_follows_no_link(tmp_path):
    (tmp_path / "precious").write_text("thesis")
    (tmp_path / ".c.safetensors.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="no regular file"):
        file_lock(tmp_path / "c.safetensors")
    assert (tmp_path / "precious").read_text() == "thesis"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot lock"):
        file_lock(tmp_path / "file" / "c.safetensors")


def test_a_spoilt_lock_file_is_no_obstacle(tmp_path):
    for text in ("", "{", "[]", '{"pid": 1}', "\x00" * 5000):
        (tmp_path / LOCK_NAME).write_text(text)
        with folder_lock(tmp_path, "x"):
            assert '"work": "x"' in (tmp_path / LOCK_NAME).read_text()


def test_locks_create_the_folder_or_say_why_not(tmp_path):
    with folder_lock(tmp_path / "a" / "b"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot create"), folder_lock(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "/x/y"), "cannot save: No space left on device: '/x/y'"),
        (PermissionError(13, "Permission denied"), "cannot save: Permission denied"),
        (FileNotFoundError("gone"), "cannot save: gone"),
        (ValueError("embedded null byte"), "cannot save: the name holds a null character"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "cannot save: "),
    ],
)
def test_errors_become_one_sentence(error, text):
    with pytest.raises(DataError) as caught, os_errors("save"):
        raise error
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_other_errors_pass():
    for error in (KeyError("x"), ValueError("x"), DataError("x"), BrokenPipeError()):
        with pytest.raises(type(error)) as caught, os_errors("save"):
            raise error
        assert caught.value is error
    assert sentence(RuntimeError()) == "RuntimeError"


def test_paths_that_cannot_be_printed_are_shown():
    assert shown(b"caf\xe9".decode("utf-8", "surrogateescape")) == repr("caf\\xe9")
    assert len(shown("x" * 5000)) < 210


def test_an_output_is_checked_before_the_work(tmp_path, monkeypatch):
    assert check_output(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    assert check_output(tmp_path / "c" / "x.json", "file").parent.is_dir()
    (tmp_path / "file").write_text("mine")
    for path, kind, pattern in (
        (tmp_path / "file", "folder", "is a file; a folder is needed"),
        (tmp_path / "a", "file", "is a folder; a file is needed"),
        (tmp_path / "file" / "below", "folder", "lies below .* which is a file"),
        (tmp_path / ("n" * 300), "folder", "cannot write to --out .*too long"),
        (tmp_path / "nul\0l", "folder", "cannot write to --out"),
    ):
        with pytest.raises(DataError, match=pattern):
            check_output(path, kind)
    assert (tmp_path / "file").read_text() == "mine"

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(DataError, match="Read-only file system"):
        check_output(tmp_path / "a")


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_a_lock_that_leads_elsewhere_is_refused_and_followed_nowhere(kind, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "precious.txt"
    folder.mkdir()
    if kind == "pipe":
        os.mkfifo(folder / LOCK_NAME)
    else:
        os.symlink(other, folder / LOCK_NAME)
    if kind == "link":
        other.write_text("mine")
    with pytest.raises(DataError, match="no regular file"), folder_lock(folder):
        pass
    assert (other.read_text() if other.exists() else None) == ("mine" if kind == "link" else None)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_a_pipe_or_a_device_is_never_replaced(tmp_path):
    from strong_envs.features.files.atomic import write_text

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="a device or a pipe"):
        write_text(pipe, "text")
    with pytest.raises(DataError, match="a device or a pipe"):
        check_output(pipe, "file")
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]
