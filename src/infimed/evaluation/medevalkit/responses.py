"""How MedEvalKit finds the answer in a response, before any question type has its say."""

from __future__ import annotations

import re

_MARKERS = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
)


def extract(text: str, tag: str) -> str:
    """Contents of all ``<tag>`` elements, joined by spaces; the text itself where there is none."""
    inside = re.findall(f"<{tag}>(.*?)</{tag}>", text or "", re.DOTALL)
    joined = "".join(part + " " for part in inside).strip()
    return joined or text or ""


def extract_boxed_content(text: str) -> str:
    """Content of the last ``\\boxed{}``; the word "None" where braces are missing or open."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return "None"
    depth = 0
    begin = start + len("\\boxed{")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth < 0:
            return text[begin:at].strip()
    return "None"


def parse_response(response: str) -> str:
    """Lower case, the box or the answer tags, then what follows each marker in turn.

    A response that only says "boxed" becomes the word "None".
    """
    response = response.lower()
    if "boxed" in response:
        response = extract_boxed_content(response)
    elif "<answer>" in response:
        response = extract(response, "answer")
    for marker in _MARKERS:
        response = response.rpartition(marker)[2]
    return response
