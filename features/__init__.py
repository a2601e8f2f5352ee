"""Features of videos and sentences: readers, extraction, stores on disk, banks on a device, and the default world."""

from strong_envs.features import search_windows
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.datasets.types import Annotations, Query, Report, Video
from strong_envs.features.errors import DataError
from strong_envs.features.registry import join, keys, load, open_store, register
from strong_envs.features.store.store import FeatureStore, StoredVideo, write_store

__all__ = [
    "Annotations",
    "DataError",
    "FeatureBank",
    "FeatureStore",
    "Query",
    "Report",
    "StoredVideo",
    "Video",
    "join",
    "keys",
    "load",
    "open_store",
    "register",
    "search_windows",
    "write_store",
]
