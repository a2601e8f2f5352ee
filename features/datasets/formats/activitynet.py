"""ActivityNet Captions (Krishna et al. 2017): open-domain videos of two minutes, several sentences each."""

from __future__ import annotations

from pathlib import Path

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.formats.dense import read_dense
from strong_envs.features.datasets.parsing import PathOrPaths, list_files
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations, Video
from strong_envs.features.errors import DataError, nearest

# Which file plays which part. val_1 and val_2 are two annotations of largely the same videos.
CONVENTIONS = {
    "test=val_2": {"val_1": "val", "val_2": "test"},
    "test=val_1": {"val_1": "test", "val_2": "val"},
    "test=both": {"val_1": "test", "val_2": "test"},
}


@annotation_format("activitynet_captions", keys={"timestamps", "duration"}, rank=-2)
def read_activitynet_captions(
    path: PathOrPaths, *, convention: str = "test=val_2", split: str | None = None
) -> Annotations:
    """Read ``train.json``, ``val_1.json`` and ``val_2.json``: ``{"v_ID": {"duration", "timestamps", "sentences"}}``.

    Papers use the two validation files in three ways, and their numbers do not compare; the one used here is part
    of the returned name:

    - ``"test=val_2"``: val_1 is val and val_2 is test (2D-TAN and most since; 37,421 / 17,505 / 17,031 rows);
    - ``"test=val_1"``: the other way round;
    - ``"test=both"``: both are merged into test and there is no val (TSP-PRL, LGI and others).

    Files named val.json and test.json are val_1 and val_2 under the names 2D-TAN gave them. Query ids are
    ``{file}:{video}_{index}``. Inverted and zero-length rows are dropped, which is why fewer remain than above.

    Raises:
        DataError: files that cannot be read, an unknown convention, or nothing usable.
    """
    if convention not in CONVENTIONS:
        raise DataError(
            f"convention must be one of {sorted(CONVENTIONS)}, got {convention!r}{nearest(convention, CONVENTIONS)}"
        )
    files = list_files(path, lambda p: sniff_file(p) == "activitynet_captions", "ActivityNet Captions json")
    out = Collector(f"ActivityNet Captions ({convention})", path)
    for file in files:
        part = _part(file)
        name = split or CONVENTIONS[convention].get(part or "") or out.split(file)
        read_dense(out, file, name, lambda *a: _video(out, *a), prefix=f"{part or file.stem}:")
    return out.finish()


def _part(file: Path) -> str | None:
    stem = file.stem.lower()
    for number, renamed in (("1", "val"), ("2", "test")):
        if stem.endswith((f"val_{number}", f"val{number}")) or stem == renamed or stem.endswith(f"_{renamed}"):
            return f"val_{number}"
    return None


def _video(out: Collector, source_id: object, record: dict, where: str, rows: int) -> tuple[Video, float] | None:
    video = out.video(source_id, record.get("duration"), where, rows=rows)
    return None if video is None else (video, 1.0)
