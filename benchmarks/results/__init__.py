"""Rows, tables, figures and files of results."""
