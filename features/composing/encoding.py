"""Each clip decoded and encoded once: files of clips become a store with one video a clip."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.composing.assemble import Blank
from strong_envs.features.composing.clips import Clip, ClipSet
from strong_envs.features.datasets.boxes import boxes_at_rows
from strong_envs.features.datasets.types import Annotations, Query, Report, Video
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.options import PCA_VIDEOS, ExtractOptions
from strong_envs.features.extraction.pca import PCA, sample_videos
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.extraction.work_folder import settings_hash
from strong_envs.features.files.atomic import write_text
from strong_envs.features.store.store import FeatureStore

PLACEHOLDER = "clip"
"""Text of the one query a clip has in the store of encoded clips; sentences are encoded when videos are composed."""


@dataclass(frozen=True)
class EncodeOptions:
    """How clips are encoded.

    Attributes:
        backbone: name of the network, see `strong_envs.features.encoders.backbones`; weights: its file.
        fps: feature rows a second of a clip.
        grid: keep the spatial map of every row, which mosaics and the spatial level need.
        dtype: ``"float16"`` or ``"float32"``.
        pca: channels after the reduction fitted on training clips, or None for all; ignored where the backbone has no
            more channels than that.
        keep_channels: encode all channels and reduce when videos are composed, so that another split or another
            number of channels needs no second encoding. Takes as many times the disk as there are channels more.
        batch, workers, device: see `strong_envs.features.extraction.pipeline.extract`.
    """

    backbone: str = "efficientnet-lite0"
    weights: str | None = None
    fps: float = 2.0
    grid: bool = True
    dtype: str = "float16"
    pca: int | None = 128
    keep_channels: bool = False
    batch: int = 32
    workers: int = 1
    device: str = "cpu"


def encode_clips(
    found: ClipSet, folder: Path, options: EncodeOptions, say: Callable[[str], object], progress: bool = True
) -> FeatureStore:
    """The store of encoded clips at ``folder``: made, continued after a kill, or opened where it is complete.

    Clips must have their parts: a reduction of channels is fitted on training clips alone.

    Raises:
        DataError: a store that was encoded otherwise, or not one usable clip.
    """
    if folder.exists():
        store = FeatureStore.open(folder)
        _same_encoding(store, found, options)
        _same_files(store, found)
        say(f"clips were encoded before: {folder}, {len(store.videos):,} clips")
        return store
    known = durations(found, folder.with_name(folder.name + ".durations.json"), options.workers, say)
    usable = [c for c in found.clips if c.id in known]
    if not usable:
        raise DataError(f"none of the {len(found.clips):,} clips can be decoded:\n{found.report}")
    videos = {c.id: Video(c.id, known[c.id], path=c.path) for c in usable}
    queries = [Query(c.id, c.id, PLACEHOLDER, ((0.0, known[c.id]),), c.part or "train") for c in usable]
    annotations = Annotations(found.name, videos, queries, Report(found.name))
    asked = ExtractOptions(
        backbone=options.backbone,
        weights=options.weights,
        text="hashed-words",
        fps=options.fps,
        grid=options.grid,
        pca=_pca(options),
        dtype=options.dtype,
        batch=options.batch,
        workers=options.workers,
        device=options.device,
        progress=progress,
    )
    store, report = extract({c.id: str(c.path) for c in usable}, annotations, folder, asked)
    for finding in report.findings.values():
        if "query" not in finding.kind:
            mine = found.report.findings.setdefault((finding.kind, finding.action), finding)
            if mine is not finding:
                mine.count += finding.count
    folder.with_name(folder.name + ".durations.json").unlink(missing_ok=True)
    return store


def doubt_encoding(encode: EncodeOptions, encoded: str | os.PathLike | None, report: Report) -> None:
    """Report options of encoding where the clips of a store are encoded already."""
    plain = EncodeOptions()
    given = [f"--{name}" for name in ("backbone", "fps") if getattr(encode, name) != getattr(plain, name)]
    given += [] if encoded is None else ["--encoded"]
    if given:
        report.add("an option of encoding is not used: the clips of a store are encoded", "doubtful", ", ".join(given))


def _pca(options: EncodeOptions) -> int | None:
    if options.pca is None or options.keep_channels:
        return None
    from strong_envs.features.encoders.backbones import load

    width = load(options.backbone, options.device, options.weights).dim
    return options.pca if options.pca < width else None


def _same_encoding(store: FeatureStore, found: ClipSet, options: EncodeOptions) -> None:
    """Refuse encoded clips that were made with other options, or whose reduction saw clips of another part."""
    made = (store.manifest.get("extra") or {}).get("extract")
    if not isinstance(made, dict):
        raise DataError(f"{str(store.path)!r} holds no encoded clips; choose another --encoded")
    wanted = {"fps": options.fps, "grid": options.grid, "dtype": options.dtype}
    differ = [f"{k} is {made.get(k)}, asked is {v}" for k, v in wanted.items() if made.get(k) != v]
    name = (made.get("backbone") or {}).get("name")
    if name != options.backbone:
        differ.append(f"backbone is {name}, asked is {options.backbone}")
    pca = made.get("pca")
    if isinstance(pca, dict):
        if options.pca != pca.get("dim"):
            differ.append(f"pca is {pca.get('dim')}, asked is {options.pca}")
        here = {v.id for v in store.videos}
        # Broken clips may have been among those chosen: then the parts cannot be compared, and the ids must be.
        train = {c.id for c in found.clips if c.part == "train"}
        if pca.get("fitted_on") not in (_fitted_on(train), _fitted_on(train & here)):
            differ.append("its channels were reduced with training clips that are others now (another split or seed)")
    hint = ", or encode once with --keep-channels, which serves every split" if isinstance(pca, dict) and differ else ""
    weights = _weights_hash(options)
    if weights is not None and (made.get("backbone") or {}).get("weights_sha256") not in (None, weights):
        differ.append(f"the weights of {name} are others than those it was encoded with")
    if differ:
        reasons = "; ".join(differ)
        raise DataError(
            f"the clips at {str(store.path)!r} were encoded otherwise: {reasons}. Name another --encoded{hint}"
        )


def _weights_hash(options: EncodeOptions) -> str | None:
    """Hash of the weights that would encode; None where the backbone has none, or is not installed here."""
    from strong_envs.features.encoders.backbones import file_hash, load, may_run_code

    if options.weights is not None:
        return file_hash(Path(options.weights))
    if options.backbone == "colour-cells" or may_run_code(options.backbone):
        return None
    try:
        return load(options.backbone).describe().get("weights_sha256")
    except DataError:
        return None


def _same_files(store: FeatureStore, found: ClipSet) -> None:
    """Refuse encoded clips that were made from other files: those of another folder, or of before an edit."""
    made = {v.id: v for v in store.videos}
    others = []
    for clip in found.clips:
        video = made.get(clip.id)
        if video is None or clip.path is None:
            continue
        then = video.extra.get("bytes")
        try:
            now = os.path.getsize(clip.path)
            if then is None and video.path is not None and os.path.realpath(video.path) != os.path.realpath(clip.path):
                then = os.path.getsize(video.path)
        except OSError:
            continue
        if then is not None and then != now:
            others.append(f"{clip.id} ({then:,} bytes then, {now:,} now)")
    if others:
        raise DataError(
            f"{len(others):,} of the clips at {str(store.path)!r} were encoded from other files: "
            f"{', '.join(others[:3])}. Name another --encoded, or delete that folder"
        )


def _as_long_as_said(clip: Clip, seconds: float, found: ClipSet) -> bool:
    """Whether a file is the stretch that its row gives, and not the longer video which that was to be cut from."""
    if clip.stretch is None:
        return True
    start, end = clip.stretch
    slack = max(0.5, 0.2 * (end - start))
    if abs(seconds - (end - start)) <= slack:
        return True
    example = f"{clip.id}: {start:g} to {end:g} s, the file has {seconds:.1f} s"
    if seconds > end - start and end <= seconds + slack:
        kind = "a file is longer than the stretch of time that its row gives; cut it to that stretch"
        found.report.add(kind, "dropped", example)
        return False
    found.report.add("a file is not as long as the times of its row say; it is taken whole", "doubtful", example)
    return True


def _fitted_on(train: set[str]) -> str:
    """What an extraction says about the training clips that its reduction was fitted on."""
    return settings_hash({"videos": sorted(sample_videos(train, PCA_VIDEOS))})


def with_rows(found: ClipSet, store: FeatureStore) -> list[Clip]:
    """The clips that the store holds, with their rows, their boxes at rows, and where their pixels are."""
    first, rows, facts = 0, {}, {}
    for video in store.videos:
        rows[video.id] = (first, first + video.n_frames)
        facts[video.id] = video
        first += video.n_frames
    out = []
    for clip in found.clips:
        if clip.id not in rows:
            kind = "a clip is not among the encoded ones (broken when they were encoded, or added since)"
            if not any(k in ("a broken video", "a clip cannot be decoded") for k, _ in found.report.findings):
                found.report.add(kind, "dropped", clip.id)
            continue
        a, b = rows[clip.id]
        video = facts[clip.id]
        if not _as_long_as_said(clip, video.duration, found):
            continue
        row_boxes = None if clip.boxes is None else boxes_at_rows(clip.boxes, b - a)
        if clip.boxes is not None and video.extra.get("source_fps"):
            frames = video.duration * video.extra["source_fps"]
            if abs(frames - len(clip.boxes)) > max(2.0, 0.1 * frames):
                kind = "a clip has boxes for another number of frames than its file; they are spread evenly"
                found.report.add(kind, "doubtful", f"{clip.id}: {len(clip.boxes)} boxes, {frames:.0f} frames")
        pixels: dict[str, Any] = {"path": clip.path, "duration": video.duration, "n_frames": video.n_frames}
        size = [video.extra.get("height"), video.extra.get("width")]
        if all(isinstance(x, int) for x in size):
            pixels["size"] = size
        out.append(replace(clip, rows=(a, b), duration=video.duration, row_boxes=row_boxes, pixels=pixels))
    return out


def durations(found: ClipSet, cache: Path, workers: int, say: Callable[[str], object]) -> dict[str, float]:
    """Seconds of every clip that can be opened, by id; the others are counted as dropped.

    A clip's own length counts where the list gives one. Else the file is opened: number of frames by frame rate,
    counted by decoding where the container does not tell. Lengths of opened files are kept in ``cache`` for a next try.
    """
    import cv2

    kept = _read_cache(cache)
    todo = [c for c in found.clips if c.duration is None]
    out = {c.id: c.duration for c in found.clips if c.duration is not None}
    fresh: dict[str, float] = {}

    def one(clip: Clip) -> tuple[Clip, float | str, str]:
        stamp = _stamp(str(clip.path))
        if stamp in kept:
            return clip, kept[stamp], stamp
        try:
            return clip, _seconds(str(clip.path)), stamp
        except (DataError, OSError, cv2.error) as error:
            return clip, " ".join(str(error).split()), stamp

    if len(todo) > 2000:
        say(f"reading the lengths of {len(todo):,} files")
    with ThreadPoolExecutor(max(1, min(workers, 32))) as pool:
        for clip, seconds, stamp in pool.map(one, todo):
            if isinstance(seconds, str):
                found.report.add("a clip cannot be decoded", "dropped", f"{clip.id}: {seconds}")
            else:
                out[clip.id] = seconds
                fresh[stamp] = seconds
    if len(todo) > 2000 and fresh:
        write_text(cache, json.dumps(fresh))
    order = {c.id: i for i, c in enumerate(found.clips)}
    return dict(sorted(out.items(), key=lambda item: order[item[0]]))


def _stamp(path: str) -> str:
    try:
        stat = os.stat(path)
        return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
    except OSError:
        return path


def _read_cache(cache: Path) -> dict[str, float]:
    try:
        tree = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: float(v) for k, v in tree.items() if isinstance(v, (int, float)) and 0 < v < 1e7}


def _seconds(path: str) -> float:
    from strong_envs.features.video_io import Decoder

    decoder = Decoder(path)
    try:
        if np.isfinite(decoder.listed_seconds) and decoder.listed_seconds > 0:
            return max(decoder.listed_seconds, 1.0 / decoder.fps)
        while decoder.at(decoder.seconds + 0.5 / decoder.fps) is not None:
            pass
        return decoder.seconds
    finally:
        decoder.close()


def blank_features(store: FeatureStore, device: str = "cpu", weights: str | None = None) -> Blank:
    """Features of a black frame as the store's own backbone and reduction give them.

    Raises:
        DataError: the store does not name a backbone that can be loaded here.
    """
    name = (store.manifest.get("backbone") or {}).get("name")
    try:
        if name == "shapes cells":
            from strong_envs.features.shapes.cells import cell_features

            grid = cell_features(np.zeros((2, 64, 64, 3), np.uint8))[1]
            frame = grid.mean((0, 1))
        else:
            from strong_envs.features.encoders.backbones import load

            network = load(str(name), device, weights)
            cells, pooled = network(np.zeros((1, *(network.size or (224, 224)), 3), np.uint8))
            grid, frame = cells[0].cpu().numpy(), pooled[0].cpu().numpy()
    except DataError as error:
        raise DataError(
            f"gaps need the features of a black frame, and the backbone {name!r} of store {store.name!r} cannot give "
            f"them: {error}. Use clips without a query as gaps (--background)"
        ) from None
    saved = (store.manifest.get("extra") or {}).get("pca")
    if saved is not None:
        reducer = PCA.from_json(saved)
        grid, frame = reducer.apply(grid), reducer.apply(frame[None])[0]
    if frame.shape != store.shape("frames")[1:]:
        raise DataError(
            f"the backbone {name!r} gives {len(frame)} channels, store {store.name!r} has {store.shape('frames')[1]}"
        )
    return Blank(frame, grid if store.has("grid") else None)
