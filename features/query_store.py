"""``"queries:PATH"``, a store of annotations alone: sentences, windows and durations, and nothing of any video.

What language alone can do is the reference that every system must beat, and it needs no download of features::

    python -m benchmarks run --features queries:charades_sta/ --systems "blind one-shot,blind"

Every video has one feature row with one number, 0, because a bank has frames. ``FeatureBank.has_frames`` is False, and
systems that look at frames refuse such a store (`agents.why_not`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import numpy as np

from features.memory_store import MemoryStore
from features.records import Annotations, DataError
from features.store import StoredVideo

PREFIX = "queries:"
TEXT = "hashed-words:512"
"""The encoder where none is named: a thousand different words stay apart in 512 numbers, and nothing is downloaded."""


class QueryStore(MemoryStore):
    """A `FeatureStore` in memory over annotations.

    Args:
        annotations: what `features.datasets.read` gives. text: name of a text encoder, see `features.text`.
    """

    def __init__(self, annotations: Annotations, text: str = TEXT) -> None:
        from features.text import load

        queries = list(annotations.queries)
        if not queries:
            raise DataError(f"{annotations.name} has no queries, so there is nothing to make a store of")
        encoder = load(text)
        used = dict.fromkeys(query.video for query in queries)
        self.report = annotations.report
        videos = [StoredVideo(name, annotations.videos[name].duration, 1) for name in used]
        vectors = encoder.encode([query.text for query in queries])
        digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes())
        records = [[asdict(video) for video in videos], [asdict(query) for query in queries]]
        digest.update(json.dumps(records, sort_keys=True, default=str).encode())
        super().__init__(
            f"{annotations.name} (queries)",
            {"frames": np.zeros((len(videos), 1), np.float32), "queries": vectors},
            videos,
            queries,
            digest.hexdigest(),
            extra={"no_frames": True, "annotations": annotations.report.as_dict()},
            text=encoder.describe(),
        )

    @classmethod
    def open(cls, name: str) -> QueryStore:
        """The store of ``"queries:PATH"``, or ``"queries:PATH?text=minilm"`` with another text encoder."""
        from features.datasets import read

        path, _, option = name.removeprefix(PREFIX).partition("?")
        key, _, text = option.partition("=")
        if option and (key != "text" or not text):
            raise DataError(f"after a question mark stands text=ENCODER, such as text=minilm; got {option!r}")
        if not path:
            raise DataError(f"{name!r} names no annotations; write {PREFIX}PATH, a file or a folder")
        return cls(read(path), text or TEXT)
