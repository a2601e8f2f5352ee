"""Weights on disk: a safetensors file and a JSON file beside it, each written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.features.bank.bank import FeatureBank

FORMAT = "strong-envs agent"


def save_weights(path: str | os.PathLike, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """Write ``path`` (safetensors); ``about`` (JSON-ready) goes into its header, so that one file is one agent."""
    from safetensors.torch import save_file

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.part{os.getpid()}")
    header = {"format": FORMAT, "about": json.dumps(about)}
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, str(staging), header)
        os.chmod(staging, 0o644)
        with open(staging, "rb+") as written:
            # A rename may reach the disk before the bytes do, and a power cut between them would leave an empty file.
            os.fsync(written.fileno())
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)
    return target


def load_weights(
    path: str | os.PathLike, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote: the tensors and ``about``. Never unpickles. Raises `DataError`."""
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise DataError(f"no agent at {str(file)!r}")
    try:
        with safe_open(str(file), framework="pt", device=str(device)) as handle:
            header = handle.metadata() or {}
            if header.get("format") != FORMAT:
                raise DataError(f"{str(file)!r} is a safetensors file but not a saved agent")
            return {name: handle.get_tensor(name) for name in handle.keys()}, json.loads(header["about"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{str(file)!r} is not a saved agent: {error}") from None


def inputs_of(bank: FeatureBank) -> dict[str, Any]:
    """What a prediction has to know of the features, JSON-ready: sizes, rate, and what made them."""
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
