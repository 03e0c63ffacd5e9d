"""How an answer is written: sampling, seeds, stop strings and streaming."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from infimed.core.errors import UsageError
from infimed.inference.chat import Chat
from infimed.inference.decoding import Writer, sample
from infimed.inference.local import LocalModel
from infimed.inference.requests import GREEDY, Request, Sampling
from tests.inference.test_local import ask_all, local, mixed_requests, picture, question

assert local  # the fixture of a tiny model

LOGITS = torch.tensor([2.0, 0.5, 1.0, -1.0, 1.5])


def drawn(sampling: Sampling) -> Counter[int]:
    """Tokens at evenly spaced draws: shares without chance."""
    return Counter(sample(LOGITS, sampling, (at + 0.5) / 1000) for at in range(1000))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability(temperature):
    shares = (LOGITS / temperature).softmax(0)
    found = drawn(Sampling(temperature))
    for token, share in enumerate(shares.tolist()):
        assert found[token] == pytest.approx(1000 * share, abs=1.5)


def test_top_k_keeps_the_likeliest():
    assert set(drawn(Sampling(1.0, top_k=2))) == {0, 4}


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, {0}), (0.5, {0, 4}), (0.8, {0, 2, 4})])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
    assert set(drawn(Sampling(1.0, top_p=top_p))) == kept


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": np.nan}, {"top_p": 0.0}, {"top_k": -1}]
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(UsageError) as refused:
        Sampling(**{"temperature": 1.0, **wrong})
    assert next(iter(wrong)) in str(refused.value)


def test_keys_of_greedy_requests_name_nothing_new():
    request = Request("q", (), max_new_tokens=7)
    assert request.settings() == {"max_new_tokens": 7, "sampling": "greedy"}
    keys = {
        replace(request, sampling=one, stop=stop).key("m")
        for one in (GREEDY, Sampling(1.0), Sampling(1.0, seed=1), Sampling(1.0, top_p=0.5))
        for stop in ((), ("\n",))
    }
    assert len(keys) == 8


def test_a_seed_gives_the_same_answer_whatever_is_asked_beside_it(local):
    requests = [
        replace(request, sampling=Sampling(1.0, 0.9, seed=at)) if at % 3 else request
        for at, request in enumerate(mixed_requests())
    ]
    together = ask_all(local, requests)
    alone = LocalModel(local.model, local.processor, "tiny", batch_size=1)
    assert ask_all(alone, requests[::-1]) == together
    other = [replace(r, sampling=replace(r.sampling, seed=99)) for r in requests]
    changed = ask_all(local, other)
    differ = [r.id for r in requests if changed[r.id] != together[r.id]]
    assert differ and all(int(name[1:]) % 3 for name in differ)


def test_an_answer_ends_before_a_stop_string(local):
    request = question(0, [picture(1)], most=24)
    (whole,) = local.respond([request])
    word = whole.text[len(whole.text) // 2 :][:2]
    (cut,) = local.respond([replace(request, stop=(word, "never said"))])
    assert cut.text == whole.text[: whole.text.index(word)].strip()
    assert cut.status == "ok" and cut.new_tokens < 24
    with pytest.raises(UsageError, match="stop string is empty"):
        replace(request, stop=("",))


def test_a_streamed_answer_with_sampling_and_stop_equals_the_batched_one(local):
    request = question(0, [picture(1)], most=24)
    (whole,) = local.respond([replace(request, sampling=Sampling(1.0, seed=3))])
    asked = replace(request, sampling=Sampling(1.0, seed=3), stop=(whole.text[4:7],))
    (batched,) = local.respond([asked])
    chat = Chat(local, 24, asked.sampling, asked.stop)
    assert "".join(chat.ask(request.messages[0].text, [picture(1)])) == batched.text


def test_pieces_never_show_half_a_character_or_the_beginning_of_a_stop_string():
    said = "Größe: 5 mm \n\nEND of it".encode()
    writer = Writer(0, 0, 0, lambda ids: bytes(ids).decode("utf-8", "replace"), (), 99, GREEDY, ("\nEND",))  # fmt: skip
    pieces = []
    for byte in said:
        writer.put(byte)
        pieces.append(writer.piece())
        if not writer.open:
            break
    assert "".join(pieces) == writer.text == "Größe: 5 mm"
    assert all("\ufffd" not in piece and "E" not in piece for piece in pieces)


@pytest.mark.parametrize("temperature", [1e-310, 1e-300, 1e-9])
def test_a_tiny_temperature_is_greedy(temperature):
    for draw in (0.0, 0.5, 1 - 2**-53):
        for more in ({}, {"top_k": 2}, {"top_p": 0.5}):
            sampling = Sampling(temperature=temperature, **more)
            assert sample(LOGITS, sampling, draw) == int(LOGITS.argmax())
