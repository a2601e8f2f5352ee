"""One video through the backbone, and many videos through several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.encoders import backbones
from strong_envs.features.encoders.backbones import Backbone
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.ahead import ahead
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pca import PCA
from strong_envs.features.extraction.work_folder import Job, write_shard
from strong_envs.features.importing.detections import Detector
from strong_envs.features.video_io import Decoder, row_centres

# A file that holds less than this share of its annotated duration counts as broken.
ENOUGH = 0.9


@dataclass(frozen=True)
class Setup:
    """What a process needs to extract: the options, the work folder, and the reduction of channels, if any."""

    options: ExtractOptions
    folder: Path
    pca: PCA | None


def extract_video(
    job: Job, setup: Setup, backbone: Backbone, on_rows: Callable[[int], object], detector: Detector | None = None
) -> tuple[dict[str, np.ndarray | None], dict[str, Any]]:
    """Decode and compute one video, its next frames while those before are encoded.

    ``on_rows`` is called with the number of rows added.

    Returns:
        The tensors by name, those that are not wanted None; and facts of the file.

    Raises:
        DataError: the file cannot be decoded or is much shorter than annotated, or its features are not finite.
    """
    reducer = setup.pca if job.reduce else None
    dim = backbone.dim if reducer is None else reducer.dim
    frames = np.empty((job.n_rows, dim), setup.options.dtype)
    grid = np.empty((job.n_rows, *backbone.grid, dim), setup.options.dtype) if setup.options.grid else None
    objects = None if detector is None else np.empty((job.n_rows, *detector.shape), setup.options.dtype)
    decoder = Decoder(job.path)
    facts: dict[str, Any] = {"width": decoder.width, "height": decoder.height, "source_fps": round(decoder.fps, 6)}
    row, images, whole, shown = 0, [], [], []
    centres = row_centres(job.duration, job.n_rows)

    def decoded() -> Iterator[tuple[np.ndarray, int | None, np.ndarray] | None]:
        """The image of each row as the backbone takes it, its frame, and the whole image where a detector wants it.

        None where the file ends.
        """
        for centre in centres:
            image = decoder.at(float(centre))
            if image is None:
                yield None
                return
            resized = backbone.resize(image)
            yield resized, decoder.frame, resized if detector is None else image

    batch = setup.options.batch
    with closing(ahead(decoded(), 2 * batch)) as rows:
        for number, found in enumerate(rows):
            if found is not None:
                images.append(found[0])
                shown.append(found[1])
                if detector is not None:
                    whole.append(found[2])
            if images and (found is None or len(images) == batch or number == len(centres) - 1):
                cells, pooled = (x.cpu().numpy() for x in backbone(np.stack(images)))
                part = slice(row, row + len(images))
                frames[part] = _narrow(pooled if reducer is None else reducer.apply(pooled), setup.options.dtype)
                if grid is not None:
                    grid[part] = _narrow(cells if reducer is None else reducer.apply(cells), setup.options.dtype)
                if objects is not None and detector is not None:
                    objects[part] = _narrow(detector(whole), setup.options.dtype, "the detector")
                on_rows(len(images))
                row, images, whole = row + len(images), [], []
    if row < job.n_rows:
        facts["missing_seconds"] = round(_missing(job, decoder, row), 3)
        for tensor in (frames, grid, objects):
            if tensor is not None:
                tensor[row:] = tensor[row - 1]
        on_rows(job.n_rows - row)
    elif decoder.listed_seconds > 1.02 * job.duration + 1.0:
        facts["unused_seconds"] = round(decoder.listed_seconds - job.duration, 3)
    if decoder.uneven:
        # Boxes are given by source frame, and these do not follow the mean rate.
        facts["frame_of_row"] = shown + shown[-1:] * (job.n_rows - len(shown))
    decoder.close()
    return {"frames": frames, "grid": grid, "objects": objects}, facts


def _missing(job: Job, decoder: Decoder, rows: int) -> float:
    """Seconds that the file is short of its annotated duration."""
    if not rows or decoder.seconds < ENOUGH * job.duration:
        raise DataError(f"it decodes to {max(decoder.seconds, 0.0):.2f} s of the annotated {job.duration:.2f} s")
    return job.duration - decoder.seconds


def _narrow(x: np.ndarray, dtype: str, source: str = "the backbone") -> np.ndarray:
    if not np.isfinite(x).all():
        raise DataError(f"{source} gave values that are not finite")
    largest = float(np.abs(x).max())
    if largest > np.finfo(dtype).max:
        raise DataError(f"features reach {largest:.3g}, which {dtype} cannot hold; use float32")
    return x.astype(dtype)


def run(
    jobs: list[Job], setup: Setup, backbone: Backbone, on_rows: Callable[[int], object]
) -> Iterator[tuple[Job, str | None]]:
    """Extract videos, in this process or in several; gives each job with None, or with why it failed."""
    # More processes than two a core only take memory.
    workers = min(setup.options.workers, len(jobs), 2 * (os.cpu_count() or 1))
    if workers <= 1:
        detector = None if setup.options.objects is None or not jobs else Detector(setup.options.objects)
        for job in jobs:
            yield job, _attempt(job, setup, backbone, on_rows, detector)
        return
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    # Spawned, not forked: a forked child of a process that has used threads or a device may hang.
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, context, _start, (setup, threads))
    waiting = {}
    try:
        waiting = {pool.submit(_work, job): job for job in jobs}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                job = waiting.pop(future)
                reason = future.result()
                on_rows(job.n_rows)
                yield job, reason
    except BrokenProcessPool:
        raise DataError(
            "a worker process died, perhaps for lack of memory or over a damaged file; finished videos are kept: "
            "run the same command again, with --workers 1 to see which video it is"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _attempt(
    job: Job, setup: Setup, backbone: Backbone, on_rows: Callable[[int], object], detector: Detector | None
) -> str | None:
    import cv2

    try:
        tensors, facts = extract_video(job, setup, backbone, on_rows, detector)
    except (DataError, cv2.error) as error:
        return " ".join(str(error).split())
    # Outside of the above: a disk that is full is no fault of the video.
    write_shard(setup.folder, job, tensors, facts)
    return None


_STATE: dict = {}


def _start(setup: Setup, threads: int) -> None:
    import multiprocessing
    import signal
    import threading

    import torch

    # Ctrl-C reaches every process of the terminal: a worker ends at once instead of taking up its next video.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Without it a worker whose parent was killed would wait for ever.
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    detector = None if setup.options.objects is None else Detector(setup.options.objects)
    network = backbones.load(setup.options.backbone, setup.options.device, setup.options.weights)
    _STATE.update(setup=setup, backbone=network, detector=detector)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _work(job: Job) -> str | None:
    return _attempt(job, _STATE["setup"], _STATE["backbone"], lambda rows: None, _STATE["detector"])
