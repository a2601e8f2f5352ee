"""Untrimmed videos composed from trimmed clips, with exact truth in time and space.

Each clip is decoded and encoded once; a composed video is an arrangement of the clips' feature rows. See
``docs/footage.md`` for what composing is and is not, and ``strong-envs compose --help``.
"""

from strong_envs.features.composing.sources import describe

__all__ = ["describe"]
