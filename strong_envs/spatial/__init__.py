"""The spatial level: `SpatialTrack-v0`, its task, and the critic that ships for the default world."""
