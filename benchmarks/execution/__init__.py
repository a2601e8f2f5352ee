"""Training runs: planned as cells, run on this machine or on Ray, stored with their predictions."""
