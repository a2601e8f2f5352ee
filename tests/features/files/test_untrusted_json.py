"""JSON and headers of unknown origin: what is refused, in one sentence, and within bounds."""

from __future__ import annotations

import json
import random
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from strong_envs.features.errors import DataError
from strong_envs.features.files.untrusted_json import as_type, parse_json, read_header, read_json


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[1,]", "is not valid JSON"),
        ("9" * 6000, "6,000 digits"),
        ("-" + "9" * 6000, "6,001 digits"),
        ("9" * 310, "beyond 64-bit"),
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "deeper than 64"),
        ("[" * 100_000, "is not valid JSON"),
        ("[" * 100_000 + "]" * 100_000, "is not valid JSON|deeper"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' twice"),
        ('["\\ud800"]', "not Unicode"),
        ('{"x": {"\\udfff": 1}}', "not Unicode"),
    ],
)
def test_what_is_refused(text, pattern):
    with pytest.raises(DataError, match=pattern) as caught:
        parse_json(text, "'file'")
    assert str(caught.value).startswith("'file'") and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_is_read():
    text = '{"a": [1, 2.5, -3e5, null, true, "\\u00e9\\ud83d\\ude00"], "n": NaN}'
    assert parse_json(text, "x")["a"] == [1, 2.5, -3e5, None, True, "é😀"]
    with pytest.raises(DataError, match="holds NaN"):
        parse_json(text, "x", finite=True)
    assert parse_json("[" * 64 + "]" * 64, "x") and parse_json("1" + "0" * 307, "x") == 10**307


def test_repeated_keys_are_found_in_linear_time():
    pairs = ",".join(f'"k{i}":0' for i in range(100_000))
    text, seen = "{" + pairs + "," + pairs + "}", []
    assert len(parse_json(text, "x", repeated_key=seen.append)) == 100_000
    assert seen == ["k0"]  # a quadratic search takes minutes here


def test_files_are_bounded(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("[" + "1," * 500 + "1]")
    assert len(read_json(file)) == 501
    with pytest.raises(DataError, match="more than 100 bytes"):
        read_json(file, limit=100)
    file.write_bytes(b"[\xff]")
    with pytest.raises(DataError, match="not UTF-8: byte 1 is 0xff"):
        read_json(file)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_json(file)
    for path in (tmp_path, tmp_path / "absent", "a\0b"):
        with pytest.raises(DataError):
            read_json(path)


class Part(msgspec.Struct):
    name: str
    rows: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    extra: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("tree", "pattern"),
    [
        ({"name": "a"}, "missing required field `rows`"),
        ({"name": 1, "rows": 2}, r"\$\.name"),
        ({"name": "a", "rows": 0}, r"\$\.rows"),
        ({"name": "a", "rows": 10**300}, r"\$\.rows"),
        ({"name": "a", "rows": True}, r"\$\.rows"),
        ({"name": "a", "rows": 2.5}, r"\$\.rows"),
        ([], "Expected `object`"),
        (None, "Expected `object`"),
    ],
)
def test_a_schema_names_the_field(tree, pattern):
    with pytest.raises(DataError, match=f"'file': .*{pattern}"):
        as_type(tree, Part, "'file'")


def test_headers_are_read_and_checked(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"x": np.ones((2, 3), np.float32)}, str(file), {"about": "{}"})
    header = read_header(file)
    assert header["x"]["shape"] == [2, 3] and header["__metadata__"] == {"about": "{}"}
    good = file.read_bytes()
    length = int.from_bytes(good[:8], "little")

    def with_header(change: dict) -> bytes:
        text = json.dumps({**json.loads(good[8 : 8 + length]), **change}).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    bad: list[bytes] = [b"", b"1234567", b"\xff" * 8 + good[8:], good[:20], (2**40).to_bytes(8, "little") + good[8:]]
    for entry in (
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 10**6]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]},
        {"dtype": "F32", "shape": [-2, 3], "data_offsets": [0, 24]},
        {"dtype": 5, "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 24]},
        [],
        None,
    ):
        bad.append(with_header({"x": entry}))
    bad += [with_header({"__metadata__": x}) for x in ({"a": 1}, [], None, "x")]
    for content in bad:
        file.write_bytes(content)
        with pytest.raises(DataError):
            read_header(file)


def test_mutations_give_a_tree_or_one_sentence(tmp_path):
    file, rng = tmp_path / "a.safetensors", random.Random(0)
    save_file({"x": np.ones((2, 3), np.float32), "y": np.zeros(4, np.float16)}, str(file), {"about": '{"a": [1, 2]}'})
    good, refused = file.read_bytes(), 0
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            match rng.randrange(3):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    del content[at : at + rng.randint(1, 9)]
                case 2:
                    content[at:at] = rng.choice([b"9" * 400, b"[" * 300, b"\xff", b"null", b"-", b'"', b"\\ud800"])
            content = content or bytearray(b"x")
        file.write_bytes(bytes(content))
        try:
            read_header(file)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 1000
