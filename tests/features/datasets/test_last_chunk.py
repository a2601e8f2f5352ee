"""DiDeMo counts whole chunks of five seconds; the last one of a real video may be shorter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from video_files import SMALL, write_video

from strong_envs.features.datasets import read
from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.importing.importer import import_store


def annotations(folder: Path, chunks: int = 6, moment: tuple[int, int] = (5, 5), **options: object) -> Annotations:
    row = {"description": "a dog runs", "video": "v.mov", "times": [list(moment)] * 4, "num_segments": chunks}
    (folder / "train_data.json").write_text(json.dumps([{**row, "annotation_id": 1}]))
    return read(folder / "train_data.json", **options)


def clip(folder: Path, seconds: float) -> Path:
    """A grey video of 2 frames a second."""
    return write_video(folder / "v.avi", round(2 * seconds), 2.0)


@pytest.mark.parametrize(("seconds", "moment", "window"), [
    (26.5, (5, 5), (25.0, 26.5)),
    (26.5, (0, 5), (0.0, 26.5)),
    (25.5, (5, 5), (25.0, 25.5)),
    (26.5, (0, 1), (0.0, 10.0)),
    (30.0, (5, 5), (25.0, 30.0)),
])  # fmt: skip
def test_the_duration_is_that_of_the_file(seconds, moment, window, tmp_path):
    found = annotations(tmp_path, moment=moment)
    options = ExtractOptions(fps=2.0, **SMALL)
    store, report = extract([clip(tmp_path, seconds)], found, tmp_path / "s", options)
    assert store.videos[0].duration == seconds and store.videos[0].n_frames == round(2 * seconds)
    assert store.queries[0].windows == (window,) and report.count("dropped") == 0
    assert ("a last chunk is shorter than the others", "clipped") in report.findings or seconds == 30.0
    red = store.tensor("frames")[:, 0]
    assert np.all(np.diff(red) > 0), "no row is a repetition of the last one"


def test_a_file_that_lacks_more_than_a_chunk_is_still_broken(tmp_path):
    with pytest.raises(DataError, match=r"decodes to 20.00 s of the annotated 30.00 s"):
        extract([clip(tmp_path, 20.0)], annotations(tmp_path), tmp_path / "s", ExtractOptions(**SMALL))


def test_durations_that_are_given_are_exact(tmp_path):
    found = annotations(tmp_path, durations={"v.mov": 26.5})
    assert next(iter(found.videos.values())).slack == 0.0 and found.queries[0].windows == ((25.0, 26.5),)


def test_features_of_a_short_last_chunk_fit(tmp_path):
    rows = []
    for k, chunks in enumerate((6, 6, 6, 4)):
        rows.append({"description": f"dog {k}", "video": f"v{k}", "times": [[0, 1]] * 4, "num_segments": chunks})
    (tmp_path / "train_data.json").write_text(json.dumps(rows))
    (tmp_path / "f").mkdir()
    for k, n in enumerate((60, 60, 52, 40)):  # v2 lasts 26 seconds
        np.save(tmp_path / "f" / f"v{k}.npy", np.full((n, 2), k + 1, np.float32))
    store, report = import_store(tmp_path / "s", read(tmp_path / "train_data.json"), tmp_path / "f")
    assert store.manifest["fps"] == 2.0 and not report.findings
