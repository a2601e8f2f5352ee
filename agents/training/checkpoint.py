"""Weights on disk: one safetensors file with a JSON header, written whole or not at all, and read without trust."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import replaced_file
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.untrusted_json import as_type, parse_json, read_header

if TYPE_CHECKING:
    from strong_envs.features.bank.bank import FeatureBank

FORMAT = "strong-envs agent"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""Types of tensors that are read."""
FLOATS = ("float16", "float32", "float64")
"""Types of features."""
MAX_GRID = 10**7
"""Most numbers in the grid of one frame."""
T = TypeVar("T")
Length = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Side = Annotated[int, msgspec.Meta(ge=1, le=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Numbers in headers."""


class Inputs(msgspec.Struct, kw_only=True):
    """The features that a system takes: sizes, rate, and what made them; see `inputs_of`."""

    store: str
    query_dim: Length
    frame_dim: Length | None = None
    grid: tuple[Side, Side, Length] | None = None
    dtypes: dict[str, str]
    fps: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None
    backbone: dict[str, Any]
    text: dict[str, Any]
    pca: dict[str, Any] | None = None


def save_weights(path: str | os.PathLike, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """Write one safetensors file.

    Args:
        path: the file; its folder is created.
        tensors: by name.
        about: JSON-ready, for the header. A checksum of both is stored, so that damage is noticed.

    Raises:
        DataError: the file cannot be written; an old one is untouched.
    """
    from safetensors.torch import save_file

    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(about)
    header = {"format": FORMAT, "about": text, "checksum": _checksum(held, text)}
    with replaced_file(path) as staging, os_errors(f"write {shown(path)}"):
        save_file(held, str(staging), header)
    return Path(path)


def load_weights(
    path: str | os.PathLike, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote: the tensors and ``about``. Nothing is unpickled or imported.

    Raises:
        DataError: no such file, another format, or damage.
    """
    from safetensors import SafetensorError, safe_open

    file, where = Path(path), shown(path)
    with os_errors(f"read {where}"):
        if not file.is_file():
            raise DataError(f"no agent at {where}")
    try:
        header = read_header(file)
    except DataError as error:
        raise DataError(f"{where} is not a saved agent: {error}") from None
    metadata = header.pop("__metadata__", {})
    if metadata.get("format") != FORMAT or "about" not in metadata:
        raise DataError(f"{where} is a safetensors file but not a saved agent")
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise DataError(f"{where} holds {name[:80]!r} of type {entry['dtype'][:20]}; read are {DTYPES}")
    about = parse_json(metadata["about"], f"the header of {where}")
    if not isinstance(about, dict):
        raise DataError(f"the header of {where} must be an object, got {type(about).__name__}")
    try:
        with safe_open(str(file), framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in header}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} is not a saved agent: {str(error).partition(chr(10))[0]}") from None
    known = metadata.keys() <= {"format", "about", "checksum"}
    if not known or ("checksum" in metadata and metadata["checksum"] != _checksum(tensors, metadata["about"])):
        raise DataError(f"{where} is damaged: its checksum does not match its content")
    return {name: value.to(device) for name, value in tensors.items()}, about


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode("utf-8", "surrogatepass"))
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def header_of(about: Any, kind: type[T], path: str | os.PathLike) -> T:
    """The header of a file by a schema. Raises `DataError` that names the field."""
    return as_type(about, kind, f"the header of {shown(path)}")


def load_module(module: nn.Module, tensors: dict[str, Tensor], path: str | os.PathLike, features: str) -> None:
    """Load weights into a network of the same architecture.

    Args:
        module: loaded in place, after all checks.
        tensors: by name.
        path: their file, for messages.
        features: name of the bank that gave the sizes, for messages.

    Raises:
        DataError: a tensor that is missing, not expected, of another shape or type, or with NaN or infinite values.
    """
    where, wanted = shown(path), module.state_dict()
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing or extra:
        what = f"lacks {len(missing)} tensors" if missing else f"holds {len(extra)} unknown tensors"
        raise DataError(f"{where} {what}, such as {min(missing or extra)[:80]!r}: it is damaged or of another release")
    for name, value in wanted.items():
        given = tensors[name]
        if given.shape != value.shape:
            raise DataError(
                f"{where} was trained on other features than {features!r}: {name} is {tuple(given.shape)} in the file "
                f"and {tuple(value.shape)} here"
            )
        if given.dtype != value.dtype:
            raise DataError(f"{where} holds {name} as {given.dtype}, which must be {value.dtype}")
    check_finite(tensors, path)
    module.load_state_dict(tensors)


def check_finite(tensors: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Raise `DataError` where a tensor has NaN or infinite values."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise DataError(f"{shown(path)} has {bad} NaN or infinite values in {name}: its training diverged")


def check_widths(widths: dict[str, int], tensors: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Raise `DataError` where the header names a size that no tensor of the file has, before memory is taken for it."""
    known = {size for value in tensors.values() for size in value.shape}
    for name, width in widths.items():
        if width not in known:
            raise DataError(f"the header of {shown(path)} has {name}={width}, a size that none of its tensors has")


def check_inputs(about: dict[str, Any], path: str | os.PathLike) -> Inputs:
    """The ``inputs`` of the header of a saved system.

    Raises:
        DataError: the header holds no values, a field is of another type, or a size is out of bounds.
    """
    if "inputs" not in about:
        raise DataError(f"{shown(path)} does not name the features it takes: it was saved by another release")
    inputs = header_of(about["inputs"], Inputs, path)
    if inputs.grid is not None and math.prod(inputs.grid) > MAX_GRID:
        raise DataError(
            f"the header of {shown(path)} has a grid of {inputs.grid}; at most {MAX_GRID:,} numbers are read"
        )
    dim = inputs.text.get("dim", inputs.query_dim)
    if dim != inputs.query_dim:
        raise DataError(
            f"the header of {shown(path)} has a text encoder of {dim!r} numbers and query_dim={inputs.query_dim}"
        )
    for tensor, dtype in inputs.dtypes.items():
        if tensor in ("frames", "grid") and dtype not in FLOATS:
            raise DataError(f"the header of {shown(path)} has dtype {dtype[:20]!r} of {tensor}; valid are {FLOATS}")
    return inputs


def inputs_of(bank: FeatureBank) -> dict[str, Any]:
    """The features that a system takes, JSON-ready: sizes, rate, and what made them."""
    manifest = bank.store.manifest
    extra = manifest.get("extra") or {}
    return {
        "store": bank.store.name,
        "frame_dim": bank.frame_dim if bank.has_frames else None,
        "query_dim": bank.query_dim,
        "grid": list(bank.grid_shape) if bank.has_grid else None,
        "dtypes": {name: entry["dtype"] for name, entry in manifest["tensors"].items()},
        "fps": manifest.get("fps"),
        "backbone": manifest.get("backbone") or {},
        "text": manifest.get("text") or {},
        **({"pca": extra["pca"]} if "pca" in extra else {}),
    }
