"""The version of the package, which setup.cfg reads without importing anything else."""

__version__ = "0.1.0"
