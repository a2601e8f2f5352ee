"""Stores: on disk, in memory, several joined, parts of one."""
