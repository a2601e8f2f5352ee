"""Gymnasium environments for video moment localisation: ``TemporalMoment-v0`` and ``SpatialTrack-v0``."""

from strong_envs.coupling import SpatioTemporalCoupling
from strong_envs.registration import IDS, register_all
from strong_envs.version import __version__

register_all()

__all__ = ["IDS", "SpatioTemporalCoupling", "__version__"]
