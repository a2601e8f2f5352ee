"""`TemporalLook-v0`: find a moment while looking at a few frames only."""
