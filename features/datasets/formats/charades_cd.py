"""Charades-CD (Yuan et al. 2021): Charades-STA re-split so that a learned prior of moments does not help."""

from __future__ import annotations

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.formats.dense import read_dense
from strong_envs.features.datasets.parsing import PathOrPaths, list_files
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations, Video
from strong_envs.features.errors import DataError

TEST_SETS = ("ood", "iid")


@annotation_format("charades_cd", keys={"timestamps", "video_duration"}, rank=-1)
def read_charades_cd(path: PathOrPaths, *, test: str = "ood") -> Annotations:
    """Read ``charades_{train,val,test_iid,test_ood}.json``; boundaries are in seconds, as ``video_duration`` is.

    Args:
        path: a folder with the files, one file, or several.
        test: which test set becomes the split ``test``: ``"ood"`` (moments distributed differently from training)
            or ``"iid"``. The other one is kept under its own name, ``test_iid`` or ``test_ood``.

    Raises:
        DataError: files that cannot be read, an unknown ``test``, or nothing usable.
    """
    if test not in TEST_SETS:
        raise DataError(f"test must be one of {TEST_SETS}, got {test!r}")
    files = list_files(path, lambda p: sniff_file(p) == "charades_cd", "Charades-CD json")
    out = Collector(f"Charades-CD (test = {test})", path)
    for file in files:
        named = next((t for t in TEST_SETS if t in file.stem.lower()), None)
        split = out.split(file) if named is None else "test" if named == test else f"test_{named}"
        read_dense(out, file, split, lambda *a: _video(out, *a), prefix=f"{file.stem}:")
    return out.finish()


def _video(out: Collector, source_id: object, record: dict, where: str, rows: int) -> tuple[Video, float] | None:
    # In the published files decode_fps counts decoded frames and video_fps is -1: neither is used.
    video = out.video(source_id, record.get("video_duration"), where, rows=rows)
    return None if video is None else (video, 1.0)
