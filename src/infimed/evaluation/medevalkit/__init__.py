"""MedEvalKit's scoring as it is at commit 9b12e3b, mistakes included, so that its numbers can be matched.

Pure functions with the names of the originals, written from their described behaviour and checked
against their outputs. They raise where the originals raise. Nothing here decides a corrected score:
that is `infimed.evaluation.assess`. docs/evaluation-medevalkit.md lists every difference.
"""
