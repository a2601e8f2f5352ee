"""Every reader on thousands of spoilt files: sound data or one `DataError`, bounded memory, nothing imported.

``STRONG_ENVS_FUZZ=100000`` sets the number of files for each reader (2,000 by default).
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_stores import random_store
from video_files import write_uneven_mp4

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.commands.check import check
from strong_envs.features.datasets import READERS, read, read_boxes
from strong_envs.features.datasets.types import Report
from strong_envs.features.encoders import text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.pca import PCA
from strong_envs.features.files.untrusted_json import read_json
from strong_envs.features.importing.detections import ObjectFiles
from strong_envs.features.importing.feature_files import load_features, load_query_features
from strong_envs.features.importing.grids import GridFiles
from strong_envs.features.importing.strong_release import read_authors_file
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.video_io import Decoder

COUNT = int(os.environ.get("STRONG_ENVS_FUZZ", "2000"))
GROWTH = 1.5e9
"""Most bytes by which the memory of the process may grow over all files of a reader."""
TOKENS = [
    *(b"9" * 6000, b"-1", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b'""', b"[]", b"{}", b"0.0", b"1" * 25),
    *(
        b"[" * 200,
        b'{"a":' * 100,
        b'"\\ud800"',
        b"\xff\xfe",
        b"\x00",
        b'"../../etc/passwd"',
        b"1e-320",
        b"\n",
        b"\xef\xbb\xbf",
    ),
    *(b'"BF16"', b'"F8_E4M3"', b'"float128"', b'"object"', b"cos\nsystem\n", b"|O", b"<f16", b"18446744073709551616"),
]


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """A copy with some bytes, runs or tokens changed, moved, doubled or cut away."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 1, 2, 4, 8, 32, 200)))
        match rng.randrange(8):
            case 0:
                out[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case 1:
                out[at:end] = b""
            case 2:
                out[at:at] = out[at:end]
            case 3:
                out[at:end] = rng.choice(TOKENS)
            case 4:
                out[at:at] = rng.choice(TOKENS)
            case 5:
                del out[at:]
            case 6:
                if at < len(out):
                    out[at] ^= 1 << rng.randrange(8)
            case 7:
                digits = [i for i, byte in enumerate(out) if 48 <= byte <= 57]
                if digits:
                    place = rng.choice(digits)
                    out[place : place + 1] = rng.choice(TOKENS)
        if not out:
            break
    return bytes(out)


def numbers(kind: str, shape: tuple[int, ...]) -> bytes:
    array, buffer = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1, io.BytesIO()
    if kind == "npy":
        np.save(buffer, array)
    elif kind == "npz":
        np.savez_compressed(buffer, features=array)
    elif kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(buffer, "w") as file:
            file["v"], file["w/features"], file["s"] = array, array, h5py.SoftLink("/v")
    return buffer.getvalue()


QV = {"qid": 1, "query": "a dog", "duration": 9.5, "vid": "v", "relevant_windows": [[1, 5], [6.5, 9]], "split": "test"}
TEXTS: dict[str, tuple[str, object, dict]] = {
    "activitynet_captions": ("json", {"v_1": {"duration": 9.5, "timestamps": [[0, 3.5]], "sentences": ["a dog"]}}, {}),
    "charades_cd": ("json", {"A1": {"video_duration": 9.5, "timestamps": [[0, 3.5]], "sentences": ["a dog"]}}, {}),
    "tacos": ("json", {"s.avi": {"fps": 29.4, "num_frames": 900, "timestamps": [[3, 90]], "sentences": ["x"]}}, {}),
    "didemo": ("json", [{"description": "a dog", "video": "v.mov", "times": [[0, 1]] * 4, "num_segments": 6,
                         "annotation_id": 3}], {}),
    "hc_stvg": ("json", {"c.mp4": {"bbox": [[1, 2, 30, 40]] * 3, "st_frame": 5, "st_time": 1.5, "ed_time": 9.0,
                                   "img_num": 500, "caption": "a man", "width": 640, "height": 360}}, {}),
    "vidstg": ("json", [{"vid": "1", "fps": 25.0, "frame_count": 500, "temporal_gt": {"begin_fid": 10, "end_fid": 90},
                         "used_segment": {"begin_fid": 0, "end_fid": 200}, "questions": [],
                         "captions": [{"description": "a dog", "target_id": 0}]}], {}),
    "qvhighlights": ("jsonl", "\n".join(json.dumps({**QV, "qid": k}) for k in range(3)), {}),
    "charades_sta": ("txt", "AAAAA 0.0 6.9##a dog\nAAAAA 2 9##a cat\n", {"durations": {"AAAAA": 8.5}}),
    "tacos text": ("txt", "s1.avi_252_452:a dog#a cat\ns1.avi_1_99:a cow\n", {"info": {"s1": (29.4, 900)}}),
}  # fmt: skip


def annotations(name: str) -> tuple[bytes, str, Callable[[Path], object]]:
    suffix, tree, options = TEXTS[name]
    data = (tree if isinstance(tree, str) else json.dumps(tree)).encode()

    def use(file: Path) -> None:
        found = READERS[name.split(" ")[0]](file, **options)
        assert found.queries and found.report.kept == len(found.queries)
        for query in found.queries:
            duration = found.videos[query.video].duration
            assert all(0 <= start < end <= duration for start, end in query.windows)
        json.dumps(found.report.as_dict()).encode()

    return data, f"train.{suffix}", use


def boxes() -> tuple[bytes, str, Callable[[Path], object]]:
    data = {"vid": "v", "num_frames": 20, "box_format": "xyxy normalised", "frames": {"3": [0.1, 0.2, 0.5, 0.9]}}
    return json.dumps([data]).encode(), "boxes.json", lambda file: read_boxes(file, Report("boxes"))


def arrays(kind: str, shape: tuple[int, ...], use: Callable[[Path], object]) -> tuple[bytes, str, Callable]:
    return numbers(kind, shape), f"v.{kind}", use


def opened(kind: type, *args: object) -> Callable[[Path], object]:
    def use(file: Path) -> None:
        files = kind(file)
        try:
            assert np.isfinite(files.read("v", *args)).all()
        finally:
            files.close()

    return use


def frames(file: Path) -> None:
    decoder = Decoder(file, seek_seconds=1.0)
    try:
        for second in (0.0, 1.5, 0.2, 9.0):
            decoder.at(second)
    finally:
        decoder.close()


def words(file: Path) -> None:
    assert np.isfinite(text.load(f"glove:{file}").encode(["a dog", "a cat"])).all()


def reduction() -> tuple[bytes, str, Callable[[Path], object]]:
    made = PCA(np.ones(4, np.float32), np.eye(4, dtype=np.float32)[:2], 0.9, 10)
    return json.dumps(made.as_json()).encode(), "pca.json", lambda file: PCA.from_json(read_json(file))


def released() -> tuple[bytes, str, Callable[[Path], object]]:
    record = {"video_info": "v-0-99", "w_vec": np.ones(4), "v_feature": np.ones((2, 3)), "w_start": 1.0, "w_end": 2.0,
              "fps": 25.0}  # fmt: skip
    buffer = io.BytesIO()
    np.save(buffer, np.array([record, record], dtype=object), allow_pickle=True)
    return buffer.getvalue(), "feature_all_train.npy", lambda file: read_authors_file(file, allow_pickle=True)


TABLE = b"id,subject,length,actions\nAAAAA,X,30.5,c1 0 9\nBBBBB,Y,12,\n"
GLOVE = b"dog 0.1 0.2 -0.3\ncat 1 2 3\na 0.5 0.5 0.5\n"


def table(file: Path) -> None:
    (file.parent / "charades_sta_train.txt").write_text("AAAAA 0.0 6.9##a dog\nBBBBB 2 9##a cat\n")
    read(file.parent / "charades_sta_train.txt")


def picture(folder: Path) -> tuple[bytes, str, Callable[[Path], object]]:
    file = write_uneven_mp4(folder / "sample.mp4", [("red", 0.0), ("blue", 1.0), ("green", 1.2)], 2.0)
    return file.read_bytes(), "v.mp4", frames


READERS_OF_FILES: dict[str, Callable[[Path], tuple[bytes, str, Callable[[Path], object]]]] = {
    **{name: lambda _, name=name: annotations(name) for name in TEXTS},
    "boxes": lambda _: boxes(),
    "durations": lambda _: (TABLE, "Charades_v1_train.csv", table),
    "check": lambda _: (json.dumps([QV]).encode(), "train.json", check),
    **{f"features {k}": lambda _, k=k: arrays(k, (6, 4), load_features) for k in ("npy", "npz", "h5")},
    "text features": lambda _: arrays("npz", (6, 4), lambda f: load_query_features(f, ["v"], key="features")),
    **{f"grid {k}": lambda _, k=k: arrays(k, (6, 2, 2, 3), opened(GridFiles, 4, Report("g"))) for k in ("npy", "h5")},
    **{f"objects {k}": lambda _, k=k: arrays(k, (6, 2, 3), opened(ObjectFiles, 4, Report("o"))) for k in ("npz", "h5")},
    "video": picture,
    "word vectors": lambda _: (GLOVE, "glove.txt", words),
    "reduction": lambda _: reduction(),
    "released features": lambda _: released(),
}


def survive(data: bytes, file: Path, use: Callable[[Path], object], name: str) -> tuple[int, int]:
    """Spoil, write and use a file `COUNT` times; gives how often it was read and how often it was refused."""
    modules, read_, refused = set(sys.modules), 0, 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(COUNT):
        broken = spoilt(data, random.Random(f"{name} {seed}"))
        file.write_bytes(broken)
        try:
            use(file)
            read_ += 1
        except DataError as error:
            refused += 1
            assert str(error).encode() and len(str(error)) < 4000
        except Exception as error:
            error.add_note(f"{name}, seed {seed}: {broken[:300]!r}")
            raise
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    new = {
        m for m in set(sys.modules) - modules if not m.startswith(("strong_envs", "numpy", "h5py", "cv2", "zipfile"))
    }
    assert grown < GROWTH, f"{name} took {grown / 1e6:.0f} MB"
    assert not {m for m in new if m.split(".")[0] not in sys.stdlib_module_names}, new
    return read_, refused


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS_OF_FILES)
def test_a_reader_survives_spoilt_files(name, tmp_path, capfd):
    data, file, use = READERS_OF_FILES[name](tmp_path)
    (tmp_path / file).write_bytes(data)
    use(tmp_path / file)
    read_, refused = survive(data, tmp_path / file, use, name)
    capfd.readouterr()
    # The command of checks reports errors and raises none.
    assert read_ and bool(refused) == (use is not check) and read_ + refused == COUNT
    with capfd.disabled():
        if "STRONG_ENVS_FUZZ" in os.environ:
            print(f"\n{name}: {COUNT} files, {read_} read, {refused} refused, 0 other errors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", "frames.safetensors", "boxes.safetensors", "grid.safetensors"])
def test_a_store_survives_spoilt_files(name, tmp_path, capfd):
    store = random_store(tmp_path / "s", [3, 1, 5]).path

    def use(file: Path) -> None:
        bank = FeatureBank(FeatureStore.open(file.parent), None)
        assert len(bank.query) == len(bank) and int(bank.offsets[-1]) == len(bank.frames)
        assert bank.grid.shape[0] == len(bank.frames) and bank.true_boxes.shape[1] == 4 if bank.has_boxes else True

    read_, refused = survive((store / name).read_bytes(), store / name, use, name)
    assert read_ and refused and read_ + refused == COUNT
    with capfd.disabled():
        if "STRONG_ENVS_FUZZ" in os.environ:
            print(f"\n{name}: {COUNT} files, {read_} read, {refused} refused, 0 other errors")
