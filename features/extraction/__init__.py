"""From videos to a store: decode, compute, keep finished videos, assemble; and features of a single video."""
