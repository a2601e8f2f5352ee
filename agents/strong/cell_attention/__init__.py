"""Attention over the cells of every frame, inside the temporal critic: `attention`, and its `training`."""
