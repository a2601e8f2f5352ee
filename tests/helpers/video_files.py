"""Small video files with annotations."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from strong_envs.features.datasets.types import Annotations, Query, Report, Video

FPS = 12.5


STEP = 3  # grey levels between neighbouring frames


SMALL = {"backbone": "colour-cells", "text": "hashed-words", "progress": False}


def write_video(path: Path, n_frames: int, fps: float = FPS) -> Path:
    """Frame k is a uniform grey of level k * STEP."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    for k in range(n_frames):
        writer.write(np.full((48, 64, 3), k * STEP, np.uint8))
    writer.release()
    return path


def annotate(durations: dict[str, float], split: str = "train") -> Annotations:
    videos = {name: Video(name, seconds) for name, seconds in durations.items()}
    queries = [
        Query(f"{name}-{k}", name, f"query {k} of {name}", ((0.5, 1.5 + k),), split, {"event": "grey"})
        for name in videos
        for k in range(2)
    ]
    report = Report("made up")
    report.kept = len(queries)
    return Annotations("made up", videos, queries, report)


COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "white": (255, 255, 255)}


def colour_of(image: np.ndarray) -> str:
    """The name in `COLOURS` that is nearest to an RGB picture."""
    mean = image.reshape(-1, 3).mean(0)[::-1]
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


def write_uneven_mp4(path: Path, frames: list[tuple[str, float]], end: float) -> Path:
    """An mp4 whose frames, named by their colour, begin at the given seconds; the last one is shown until ``end``.

    OpenCV writes steady rates only: the table of durations (``stts``) of its file is exchanged.
    """
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for name, _ in frames:
        writer.write(np.full((48, 64, 3), COLOURS[name], np.uint8))
    writer.release()
    data = path.read_bytes()
    scale = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    stamps = [round(second * scale) for _, second in frames] + [round(end * scale)]
    steps = np.diff(stamps).tolist()

    def rebuilt(part: bytes) -> bytes:
        out, at = b"", 0
        while at < len(part):
            size = int.from_bytes(part[at : at + 4], "big") or len(part) - at
            kind, body = part[at + 4 : at + 8], part[at + 8 : at + size]
            at += size
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                body = rebuilt(body)
            elif kind == b"stts":
                table = b"".join((1).to_bytes(4, "big") + step.to_bytes(4, "big") for step in steps)
                body = bytes(4) + len(steps).to_bytes(4, "big") + table
            elif kind == b"mdhd":
                body = body[:16] + (stamps[-1] - stamps[0]).to_bytes(4, "big") + body[20:]
            elif kind in (b"mvhd", b"tkhd"):
                place = 16 if kind == b"mvhd" else 20
                body = body[:place] + round((end - frames[0][1]) * 1000).to_bytes(4, "big") + body[place + 4 :]
            elif kind == b"edts":
                continue
            out += (8 + len(body)).to_bytes(4, "big") + kind + body
        return out

    path.write_bytes(rebuilt(data))
    return path
