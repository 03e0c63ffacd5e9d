"""One answer while the engine writes it: the first token's probabilities, and JSON that follows a schema.

With a schema the next token is the likeliest (or a fair draw) among those whose bytes the automaton of
`schema` takes, so an answer that ends is always a value of the schema; one that is cut by `max_tokens` may be
the beginning of one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infimed.inference.decoding import Writer
from infimed.serving.asking import TokenScore
from infimed.serving.schema import DEAD, Automaton

TRIES = 16
"""Tokens that are tried one by one before all of a state are looked up."""


class Vocabulary:
    """Bytes of the tokens of a byte-level tokenizer, and which of them a state of an automaton takes.

    Raises:
        ValueError: the tokenizer does not work on bytes, or lacks some of them.
    """

    def __init__(self, tokenizer_json: str) -> None:
        value = json.loads(tokenizer_json)
        if not _byte_level(value.get("decoder")):
            raise ValueError("the tokenizer is not byte-level")
        special = {token["id"] for token in value.get("added_tokens", ())}
        own = {char: byte for byte, char in _alphabet().items()}
        self.bytes: dict[int, bytes] = {}
        for text, number in value["model"]["vocab"].items():
            if number not in special and all(char in own for char in text):
                self.bytes[number] = bytes(own[char] for char in text)
        self.by_first: dict[int, list[int]] = {}
        for number, text in self.bytes.items():
            if text:
                self.by_first.setdefault(text[0], []).append(number)
        single = {text[0] for text in self.bytes.values() if len(text) == 1}
        if not single.issuperset((*range(0x20, 0x7F), *range(0x80, 0xC0))):
            raise ValueError("the tokenizer has no token for some bytes")  # an answer could get stuck

    def begun(self, automaton: Automaton, state: int) -> NDArray[np.int64]:
        """Tokens of which the automaton takes the first byte."""
        found = [
            number for byte in automaton.next_bytes(state) for number in self.by_first.get(byte, ())
        ]
        return np.array(sorted(found), np.int64)

    def taken(self, automaton: Automaton, state: int) -> NDArray[np.int64]:
        """Tokens of which the automaton takes all bytes."""
        begun = self.begun(automaton, state).tolist()
        whole = [n for n in begun if automaton.walk(state, self.bytes[n]) != DEAD]
        return np.array(whole, np.int64)


@lru_cache(maxsize=1)
def _alphabet() -> dict[int, str]:
    """The printable character of every byte in byte-level vocabularies (GPT-2, Radford et al. 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    made = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in made]
    return made | {byte: chr(256 + number) for number, byte in enumerate(others)}


def _byte_level(decoder: object) -> bool:
    if not isinstance(decoder, dict):
        return False
    if decoder.get("type") == "ByteLevel":
        return True
    inner = decoder.get("decoders")
    return isinstance(inner, list) and any(_byte_level(each) for each in inner)


@dataclass
class Form:
    """The automaton of a request beside the vocabulary; `tokens` and `whole` remember its states."""

    automaton: Automaton
    vocabulary: Vocabulary
    begun: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)

    def tokens(self, state: int) -> NDArray[np.int64]:
        """Candidates in a state."""
        if state not in self.begun:
            self.begun[state] = self.vocabulary.begun(self.automaton, state)
        return self.begun[state]

    def narrow(self, state: int) -> NDArray[np.int64]:
        """Candidates in a state, all of them right."""
        if state not in self.whole:
            self.whole.add(state)
            self.begun[state] = self.vocabulary.taken(self.automaton, state)
        return self.begun[state]


@dataclass
class Answer(Writer):
    """A `Writer` that remembers how likely its first token was, and keeps to a form.

    Attributes:
        top: how many of the likeliest first tokens are remembered.
        form: what the answer must look like; None for text.
        first: the first token and the likeliest, once it is written.
    """

    top: int = 0
    form: Form | None = None
    first: tuple[TokenScore, ...] = ()
    state: int = Automaton.START

    def choose(self, logits: Tensor, likeliest: int) -> int:
        """The next token, as in `Writer`, among those that the form takes."""
        chosen = (
            super().choose(logits, likeliest) if self.form is None else self._fitting(logits)
        )
        if not self.first:
            scores = logits.log_softmax(dim=-1)
            best = scores.topk(min(self.top, len(scores))).indices.tolist() if self.top else []
            self.first = tuple(
                TokenScore(self.decode([token]), float(scores[token]))
                for token in (chosen, *best)
            )
        return chosen

    def _fitting(self, logits: Tensor) -> int:
        form = self.form
        assert form is not None
        ends = list(self.stop_ids) if form.automaton.accepts(self.state) else []
        masked = _only(logits, [*form.tokens(self.state).tolist(), *ends])
        for _ in range(TRIES):
            token = super().choose(masked, int(masked.argmax()))
            if token in ends:
                return token
            if form.automaton.walk(self.state, form.vocabulary.bytes[token]) != DEAD:
                return token
            masked[token] = -torch.inf
            if not bool(torch.isfinite(masked).any()):
                break
        masked = _only(logits, [*form.narrow(self.state).tolist(), *ends])
        return super().choose(masked, int(masked.argmax()))

    def put(self, token: int) -> None:
        """Write a token; a value that nothing can follow ends the answer."""
        super().put(token)
        if self.form is None or token in self.stop_ids:
            return
        automaton = self.form.automaton
        self.state = automaton.walk(self.state, self.form.vocabulary.bytes[token])
        if automaton.accepts(self.state) and not automaton.next_bytes(self.state):
            self.stopped = True
