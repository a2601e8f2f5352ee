"""Readers of trimmed clips: class folders, lists with captions or labels, stores, and published files of parts."""
