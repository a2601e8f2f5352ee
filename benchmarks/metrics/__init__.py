"""Metrics from their definitions, the table of all metrics, and statistics over runs and videos."""
