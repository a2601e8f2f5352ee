"""Detectors as a user would name them: ``module:function``."""

import numpy as np


def brightness(frames: list[np.ndarray]) -> np.ndarray:
    """Two "objects" a frame: mean level, and height and width."""
    return np.stack([[[f.mean(), 0.0], [f.shape[0], f.shape[1]]] for f in frames])


def uneven(frames: list[np.ndarray]) -> np.ndarray:
    return np.ones((len(frames), 1 if frames[0].shape[0] == 64 else 2, 3))
