"""Floor 5: signals, rules, verdicts and the ledger.

``curate(shards, out)`` judges every record; ``kept_rows(out)`` is what the pack plan reads.
"""

from infimed.curation.engine import RecordSource, curate, read_summary
from infimed.curation.findings import DIMENSIONS, Finding, Verdict
from infimed.curation.ledger import Explanation, explain, kept_rows, read_verdicts
from infimed.curation.rubric import Rubric, default_rubric
from infimed.curation.summary import CurationSummary, RuleCount

__all__ = [
    "DIMENSIONS",
    "CurationSummary",
    "Explanation",
    "Finding",
    "RecordSource",
    "Rubric",
    "RuleCount",
    "Verdict",
    "curate",
    "default_rubric",
    "explain",
    "kept_rows",
    "read_summary",
    "read_verdicts",
]
