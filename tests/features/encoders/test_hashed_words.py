"""The sentence encoder that needs no download."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from strong_envs.features import DataError
from strong_envs.features.encoders.hashed_words import encode


def test_rows_have_length_one_and_the_asked_size() -> None:
    for dim in (8, 100, 128, 300):
        rows = encode(["the red circle moves left", "a blue square blinks"], dim)
        assert rows.shape == (2, dim) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_case_punctuation_and_order_do_not_matter_and_words_do() -> None:
    rows = encode(["The red circle moves left.", "left moves: CIRCLE red, the", "the red circle moves right"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert 0.6 < rows[0] @ rows[2] < 0.95


def test_different_words_are_nearly_orthogonal() -> None:
    rows = encode([f"word{i}" for i in range(200)], 128)
    cosines = (rows @ rows.T)[np.triu_indices(200, 1)]
    assert abs(cosines.mean()) < 0.01 and cosines.std() < 1.2 / np.sqrt(128)


def test_the_vectors_are_the_same_in_every_process() -> None:
    text = "the red circle moves left"
    code = f"from strong_envs.features.encoders.hashed_words import encode; print(encode([{text!r}]).tobytes().hex())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bytes.fromhex(other.stdout.strip()) == encode([text]).tobytes()
    signs = np.packbits(encode(["red"], 64) > 0).tobytes()
    assert signs == hashlib.shake_256(b"red").digest(8)


def test_words_of_any_script_count() -> None:
    rows = encode(["красный круг", "红色 圆"])
    assert np.isfinite(rows).all() and abs(rows[0] @ rows[1]) < 0.5


@pytest.mark.parametrize(
    ("texts", "dim", "said"),
    [(["fine", " ... "], 128, "sentence 1 has no words"), ("one string", 128, "sequence"), (["a"], 0, "at least 1")],
)
def test_unusable_input_is_refused_with_the_reason(texts: list[str], dim: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        encode(texts, dim)
