"""The rules, one file a quality dimension."""
