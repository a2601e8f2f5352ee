"""Gymnasium environments for video moment localisation: ``TemporalMoment-v0`` and ``SpatialTrack-v0``.

Importing this package registers the ids and loads nothing else. Its parts are subpackages: `strong_envs.features`,
`strong_envs.agents`, `strong_envs.benchmarks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from strong_envs.registration import FLAT_IDS, IDS, register_all
from strong_envs.version import __version__

if TYPE_CHECKING:
    from strong_envs.coupling import SpatioTemporalCoupling

# An installation has the folders of the other subpackages inside this one; in a checkout they lie beside it.
_PACKAGE = Path(__file__).resolve().parent
if not (_PACKAGE / "features").is_dir():
    __path__.append(str(_PACKAGE.parent))

register_all()

__all__ = ["FLAT_IDS", "IDS", "SpatioTemporalCoupling", "__version__"]


def __getattr__(name: str) -> Any:
    # The coupling needs torch, which takes longer to import than all the rest.
    if name == "SpatioTemporalCoupling":
        from strong_envs.coupling import SpatioTemporalCoupling

        return SpatioTemporalCoupling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
