"""Features of videos and sentences: readers, extraction, stores on disk, banks on a device, and the default world."""

from features import protocols
from features.bank import FeatureBank
from features.records import Annotations, DataError, Query, Report, Video
from features.registry import join, keys, load, open_store, register
from features.store import FeatureStore, StoredVideo, write_store

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
    "protocols",
    "register",
    "write_store",
]
