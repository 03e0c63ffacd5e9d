"""Metrics: pure functions of extracted answers and gold texts. Empty answers score 0, never fail.

`registry` names them all, with domain and direction; the other files hold one family each.
"""
