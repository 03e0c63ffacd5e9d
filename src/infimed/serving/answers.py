"""One answer while the engine writes it: how likely its tokens are, and JSON that follows a schema.

With a schema the next token is the likeliest (or a fair draw) among those whose bytes the automaton of
`schema` takes, so an answer that ends is always a value of the schema; one that is cut by `max_tokens` may be
the beginning of one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from infimed.inference.decoding import Writer
from infimed.serving.asking import TokenScore
from infimed.serving.schema import DEAD, Automaton

TRIES = 64
"""Draws before all tokens of a state are looked up."""
MOST_SETS = 256
"""Sets of next bytes whose tokens are remembered."""


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
        self._begun: dict[bytes, Tensor] = {}
        for number, text in self.bytes.items():
            if text:
                self.by_first.setdefault(text[0], []).append(number)
        single = {text[0] for text in self.bytes.values() if len(text) == 1}
        if not single.issuperset((*range(0x20, 0x7F), *range(0x80, 0xC0))):
            raise ValueError(
                "the tokenizer has no token for some bytes"
            )  # an answer could get stuck

    def begun(self, following: Sequence[int]) -> Tensor:
        """Tokens whose first byte is one of these."""
        key = bytes(following)
        if key not in self._begun:
            found = sorted(n for byte in following for n in self.by_first.get(byte, ()))
            if len(self._begun) >= MOST_SETS:
                self._begun.clear()
            self._begun[key] = torch.tensor(found, dtype=torch.int64)
        return self._begun[key]


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


@dataclass(frozen=True)
class Form:
    """The automaton of a request beside the vocabulary."""

    automaton: Automaton
    vocabulary: Vocabulary

    def takes(self, state: int, token: int) -> bool:
        """Whether a token may follow in a state."""
        text = self.vocabulary.bytes.get(token)
        return text is not None and self.automaton.walk(state, text) != DEAD

    def masked(self, logits: Tensor, state: int, ends: Sequence[int]) -> Tensor:
        """The logits of tokens whose first byte may follow, and of those in `ends`; -inf for all others."""
        begun = self.vocabulary.begun(self.automaton.next_bytes(state)).to(logits.device)
        made = torch.full_like(logits, -torch.inf).index_copy(0, begun, logits[begun])
        for end in ends:
            made[end] = logits[end]
        return made


@dataclass
class Answer(Writer):
    """A `Writer` that remembers how likely its tokens were, and keeps to a form.

    Attributes:
        top: how many of the likeliest first tokens are remembered.
        form: what the answer must look like; None for text.
        first: the first token and the likeliest, once it is written.
        logprob: of what is written in nats, before temperature and form; the closing token is not counted.
    """

    top: int = 0
    form: Form | None = None
    first: tuple[TokenScore, ...] = ()
    logprob: float = 0.0
    state: int = Automaton.START

    def choose(self, logits: Tensor, likeliest: int) -> int:
        """The next token, as in `Writer`, among those that the form takes."""
        chosen = super().choose(logits, likeliest) if self.form is None else self._fitting(logits)
        scores = logits.log_softmax(dim=-1)
        if chosen not in self.stop_ids:
            self.logprob += float(scores[chosen])
        if not self.first:
            best = scores.topk(min(self.top, len(scores))).indices.tolist() if self.top else []
            self.first = tuple(
                TokenScore(self.decode([token]), float(scores[token])) for token in (chosen, *best)
            )
        return chosen

    def _fitting(self, logits: Tensor) -> int:
        """The likeliest token that the form takes, or a fair draw among all of them."""
        form = self.form
        assert form is not None
        ends = list(self.stop_ids) if form.automaton.accepts(self.state) else []
        masked = form.masked(logits, self.state, ends)

        def right(token: int) -> bool:
            return token in ends or form.takes(self.state, token)

        if self.sampling.greedy:
            best = int(masked.argmax())
            if right(best):
                return best
            return next(filter(right, masked.argsort(descending=True).tolist()))
        for _ in range(TRIES):  # a draw that is refused and drawn anew keeps the others' shares
            token = super().choose(masked, 0)
            if right(token):
                return token
            masked[token] = -torch.inf
            if not bool(torch.isfinite(masked).any()):
                break
        masked = form.masked(logits, self.state, ends)
        wrong = [n for n in torch.isfinite(masked).nonzero()[:, 0].tolist() if not right(n)]
        masked[wrong] = -torch.inf
        return super().choose(masked, 0)

    def put(self, token: int) -> None:
        """Write a token; a value that nothing can follow ends the answer."""
        super().put(token)
        if self.form is None or token in self.stop_ids:
            return
        automaton = self.form.automaton
        self.state = automaton.walk(self.state, self.form.vocabulary.bytes[token])
        if automaton.accepts(self.state) and not automaton.next_bytes(self.state):
            self.stopped = True
