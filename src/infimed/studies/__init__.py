"""Controlled experiments: arms are data, one runner, one table, one page."""
