"""The temporal level: `TemporalMoment-v0`, `TemporalOneShot-v0`, their task and their compiled steps."""
