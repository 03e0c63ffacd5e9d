"""What the four tabs share, without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

from infimed.serving.web.acting import STOPPED, lines_of, stopped
from infimed.serving.web.consulting import WARNED, answer, spoken


def values(*texts: object) -> list[object]:
    return [update.get("value") for update in stopped(*texts)]


def test_the_last_text_that_was_begun_says_that_it_was_stopped():
    assert values("a ", "b", "") == [None, f"b{STOPPED}", None]
    assert values("", " \n") == [None, None]
    assert values(f"a{STOPPED}") == [f"a{STOPPED}"], "once"
    assert values(None, 7) == [None, None]
    assert all(update["placeholder"] == "" for update in stopped("", "b"))


def test_lines_are_those_with_something_in_them():
    assert lines_of(" a \n\n  b\n") == ["a", "b"]
    assert lines_of(None) == lines_of(3) == []


def test_a_conversation_is_one_text():
    talk = [{"role": "user", "text": "A?"}, {"role": "assistant", "text": "B\nC"}]
    assert spoken(talk) == "You: A?\n\nModel: B\nC"


def test_what_a_rule_wrote_is_not_shown_as_the_models():
    warned = answer("Call now.\n\nB", "Call now.")
    named = f"Safety rule: {WARNED}"
    assert spoken([warned]) == f"{named}\n\nModel: B"
    assert spoken([warned, warned]) == f"{named}\n\nModel: B\n\nModel: B", "once"
    other = answer("Call them.\n\nB", "Call them.")
    assert spoken([warned, other]).count(named) == 2, "another warning is named again"
    assert spoken([answer("Call now.", "Call now.")]) == named, "the model wrote nothing"
    assert spoken([answer("Since when?", "", asked_back=True)]) == "Automatic question: Since when?"
    assert spoken([{"role": "user", "text": "Call now."}]) == "You: Call now."
