"""MedEvalKit's closed questions: yes/no as substrings, anything else as an unstripped equality."""

from __future__ import annotations

from infimed.evaluation.medevalkit.responses import parse_response


def _plain(response: str) -> str:
    return parse_response(response).replace("\n", "").replace(".", "")


def judge_judgement(answer: str, response: str) -> bool:
    """Whether exactly one of the letters "yes" and "no" occurs, and the gold answer does."""
    said = _plain(response)
    return (("yes" in said) != ("no" in said)) and answer.lower() in said


def judge_close_end_vqa(answer: str, response: str) -> bool:
    """Whether the parsed response equals the gold answer, spaces and all."""
    return _plain(response) == answer.lower()
