"""Small clips with known pixels, in class folders or beside a list, written without loss."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

RATE = 10.0
SIDE = 64
NAMES = ("Archery", "BrushHair", "CliffDiving", "Drumming", "EatSoup", "Fencing")
COLOURS = ((250, 40, 40), (40, 250, 40), (40, 40, 250), (250, 250, 40), (40, 250, 250), (250, 40, 250))


def frames_of(colour: tuple[int, int, int], n_frames: int, seed: int) -> np.ndarray:
    """(n, 64, 64, 3) uint8 RGB: a square of the colour that moves over noise."""
    rng = np.random.default_rng(seed)
    out = rng.integers(0, 60, (n_frames, SIDE, SIDE, 3)).astype(np.uint8)
    x, y = rng.integers(4, 36, 2)
    for k in range(n_frames):
        out[k, y : y + 20, (x + k) % 40 : (x + k) % 40 + 20] = colour
    return out


def write_clip(path: Path, frames: np.ndarray, rate: float = RATE) -> Path:
    """Write RGB frames as FFV1, which keeps every bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), rate, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def class_folders(root: Path, groups: int = 6, clips: int = 1, names: tuple[str, ...] = NAMES) -> Path:
    """``root/Archery/v_Archery_g01_c01.avi`` and so on: UCF101's names; clips of 8 to 16 frames."""
    for k, name in enumerate(names):
        for g in range(groups):
            for c in range(clips):
                seed = 1000 * k + 10 * g + c
                frames = frames_of(COLOURS[k % len(COLOURS)], 8 + 2 * (seed % 5), seed)
                write_clip(root / name / f"v_{name}_g{g + 1:02d}_c{c + 1:02d}.avi", frames)
    return root


def captioned(root: Path, count: int = 30, **extra: object) -> Path:
    """``root/clips.jsonl`` with two sentences a clip; neighbours in pairs come from one source."""
    rows = []
    for i in range(count):
        write_clip(root / "videos" / f"video{i}.avi", frames_of(COLOURS[i % 6], 8, i))
        captions = [f"thing number {i} moves", f"a square of sort {i} is seen"]
        rows.append({"clip": f"video{i}", "captions": captions, "source_id": f"src{i // 2}", **extra})
    file = root / "clips.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return file


def flat_cells(frames: np.ndarray) -> np.ndarray:
    """A backbone (B, H, W, 3) to (B, H/16, W/16, 5): mean colour and mean edges of cells of 16 pixels, at any size."""
    x = frames.astype(np.float32) / 255
    grey = x.mean(-1)
    edges = np.zeros((*grey.shape, 2), np.float32)
    edges[:, :, 1:-1, 0] = np.abs(grey[:, :, 2:] - grey[:, :, :-2])
    edges[:, 1:-1, :, 1] = np.abs(grey[:, 2:] - grey[:, :-2])
    both = np.concatenate([x, edges], -1)
    b, h, w, c = both.shape
    return both.reshape(b, h // 16, 16, w // 16, 16, c).mean((2, 4))


def wide_cells(frames: np.ndarray) -> np.ndarray:
    """`flat_cells` of frames of 128 x 128 pixels."""
    return flat_cells(frames)


flat_cells.size = (SIDE, SIDE)
wide_cells.size = (2 * SIDE, 2 * SIDE)
