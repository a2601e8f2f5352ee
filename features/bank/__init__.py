"""Features of one split on a device: packed tensors, memory maps, and pooling over windows and boxes."""

from strong_envs.features.bank import masked as masked
