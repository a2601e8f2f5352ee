"""Features of videos and sentences: annotation readers, extraction, stores on disk, banks on a device.

Rooms: ``datasets`` (annotations), ``encoders``, ``extraction``, ``importing``, ``store``, ``bank``, ``shapes`` (the
default world), ``commands``. `load` gives the bank of a key or a path.
"""

from strong_envs.features import search_windows
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.datasets.types import Annotations, Query, Report, Video
from strong_envs.features.errors import DataError
from strong_envs.features.registry import join, keys, load, open_store, register, split_validation
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, write_store

__all__ = [
    "Annotations",
    "DataError",
    "FeatureBank",
    "FeatureStore",
    "Query",
    "Report",
    "StoreContents",
    "StoredVideo",
    "Video",
    "join",
    "keys",
    "load",
    "open_store",
    "register",
    "search_windows",
    "split_validation",
    "write_store",
]
