"""A question to *consult* is asked back for what it lacks, once."""

from __future__ import annotations

import pytest

from infimed.serving.applications.wanting import ask_back, wanting


def keys(said, answers=(), images=0):
    texts = [said] if isinstance(said, str) else said
    return [want.key for want in wanting(texts, answers, images)]


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("My knee hurts", ["side", "duration"]),
        ("My left knee hurts", ["duration"]),
        ("My left knee has hurt for two weeks, the pain is worse at night", []),
        ("It hurts", ["place", "duration"]),
        ("I have a cough", ["duration"]),
        ("I have had a cough since Monday", []),
        ("What does this X-ray show?", ["image"]),
        ("Look at my chest CT", ["image"]),
        ("Is there a pleural effusion?", []),
        ("What is a pleural effusion?", []),
        ("膝盖疼", ["side", "duration"]),
        ("右膝疼了三天", []),
        ("咳嗽", ["duration"]),
        ("请看看这张片子", ["image"]),
        ("手术后伤口痛", ["place", "duration"]),
        ("什么是胸腔积液？", []),
    ],
)
def test_what_is_lacking(text, lacking):
    assert keys(text) == lacking


def test_an_attached_image_is_not_asked_for():
    assert keys("What does this X-ray show?", images=1) == []


def test_what_was_said_before_counts():
    assert keys(["It began two days ago", "My ear hurts, the right one"]) == []


def test_nothing_is_asked_twice():
    first = wanting(["My knee hurts"], [], 0)
    asked = ask_back(first, "en")
    assert asked.count("\n- ") == 2
    assert keys(["My knee hurts", "I said my knee hurts"], [asked]) == []


def test_it_is_asked_in_the_users_language():
    assert "持续多久了" in ask_back(wanting(["咳嗽"], [], 0), "zh")
