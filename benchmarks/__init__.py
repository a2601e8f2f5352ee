"""Benchmarks: systems trained and scored under one protocol, tables, figures, reports, and measurements of speed."""
