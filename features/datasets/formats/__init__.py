"""Formats of annotation files, one module each; `strong_envs.features.datasets` imports every module of this folder."""
