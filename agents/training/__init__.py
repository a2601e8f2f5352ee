"""Parts that every training shares: loop, checkpoints, replay, networks, log, checks."""
