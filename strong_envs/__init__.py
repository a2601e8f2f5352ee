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

# In a checkout the folders of the other subpackages lie beside this one; an installation has them inside it.
_CHECKOUT = Path(__file__).resolve().parents[1]
if (_CHECKOUT / "setup.cfg").is_file() and (_CHECKOUT / "features" / "__init__.py").is_file():
    __path__.append(str(_CHECKOUT))

register_all()

__all__ = ["FLAT_IDS", "IDS", "SpatioTemporalCoupling", "__version__"]


def __getattr__(name: str) -> Any:
    # The coupling needs torch, which takes longer to import than all the rest.
    if name == "SpatioTemporalCoupling":
        from strong_envs.coupling import SpatioTemporalCoupling

        return SpatioTemporalCoupling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
