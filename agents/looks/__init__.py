"""Agents of `TemporalLook-v0`: a sensor of single frames, the rule that answers, and searches."""
