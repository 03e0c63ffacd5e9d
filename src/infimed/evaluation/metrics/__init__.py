"""Metrics: pure functions of an extracted answer and the gold one. Empty answers score 0, never fail.

A value has a weight: a mean over samples is sum(weight*value)/sum(weight), which makes a
micro-averaged F1 of per-sample counts an ordinary weighted mean that can be bootstrapped.
"""
