"""Asking about tiled images: batches, the chat and scored options see what training showed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from infimed.core.errors import DataError
from infimed.data.record import Message
from infimed.inference.cache import CACHED
from infimed.inference.chat import Chat
from infimed.inference.local import LocalModel, encode_pictures, prepare
from infimed.inference.requests import Picture, Request, blank_picture
from tests.conftest import tiny_model, tiny_processor

SIZES = ((40, 40), (70, 66), (140, 30), (33, 100), (64, 64))
VIEWS = (1, 5, 5, 4, 5)


def picture(number: int) -> Picture:
    width, height = SIZES[number]
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(f"picture-{number}", lambda: pixels, (width, height))


@pytest.fixture
def local() -> LocalModel:
    model = tiny_model()
    model.set_grid(4, 32)
    with torch.no_grad():  # spread the logits, so that rounding cannot flip an argmax
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return LocalModel(model, tiny_processor().with_grid(32, 4, 4), "tiny")


def question(number: int, *shown: int) -> Request:
    content = (*range(len(shown)), f"{number} is it left?")
    return Request(f"q{number}", (Message("user", content),), tuple(map(picture, shown)), 8)


@torch.no_grad()
def slow_logits(local: LocalModel, messages: list[Message], pictures, said: list[int]):  # type: ignore[no-untyped-def]
    """The plain model on the whole sequence: logits [tokens, words]."""
    encoded = local.processor.encode(messages, [p.size for p in pictures], generation=True)
    shown = [pictures[index] for index in encoded.images]
    views = [view for p in shown for view in local.processor.views(p.load(), p.size)]
    local.model.set_attention("sdpa")
    logits = local.model(
        input_ids=torch.tensor([[*encoded.input_ids, *said]]),
        pixel_values=local.processor.pixels(views) if views else None,
        use_cache=False,
    ).logits[0]
    local.model.set_attention(CACHED)
    return logits


def slow_answer(local: LocalModel, messages: list[Message], pictures, most: int) -> str:  # type: ignore[no-untyped-def]
    said: list[int] = []
    while len(said) < most:
        last = slow_logits(local, messages, pictures, said)[-1]
        last[local.processor.image_token_id] = -torch.inf
        token = int(last.argmax())
        if token in local.processor.stop_ids:
            break
        said.append(token)
    return local.processor.decode(said)


REQUESTS = [
    *(question(n, 1) for n in range(3)),
    question(3, 0),
    question(4, 4),
    question(5, 2, 0),
    question(6, 3, 1),
    question(7),
]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_batched_answers_about_tiled_images_equal_one_at_a_time(local, batch_size):
    asked = LocalModel(local.model, local.processor, "tiny", batch_size)
    found = {}
    for batch in asked.batches(REQUESTS):
        found |= {r.id: r.text for r in asked.respond([REQUESTS[at] for at in batch])}
    slow = {r.id: slow_answer(local, list(r.messages), r.pictures, 8) for r in REQUESTS}
    assert found == slow
    assert len(set(found.values())) > 3


def test_a_chat_that_brings_tiled_images_later_equals_asking_it_all_at_once(local):
    chat = Chat(local, max_new_tokens=8)
    messages: list[Message] = []
    pictures: list[Picture] = []
    for number, shown in enumerate(((1,), (), (2, 0), (3,))):
        new = [picture(n) for n in shown]
        places = range(len(pictures), len(pictures) + len(new))
        messages.append(Message("user", (*places, f"{number} is it right?")))
        pictures += new
        answer = "".join(chat.ask(f"{number} is it right?", new))
        assert answer == slow_answer(local, messages, pictures, 8)
        messages.append(Message("assistant", (answer,)))


def test_a_chat_begun_anew_looks_at_the_new_image(local):
    said = []
    chat = Chat(local, max_new_tokens=8)
    for number in (1, 4):  # as many views, so the tokens are the same
        chat.reset()
        said.append("".join(chat.ask("is it left?", [picture(number)])))
    fresh = "".join(Chat(local, max_new_tokens=8).ask("is it left?", [picture(4)]))
    assert said[1] == fresh != said[0]


def test_options_are_scored_with_every_view(local):
    request = replace(question(1, 1), choices=("left", "right side"))
    (found,) = local.score_choices([request])
    for score, option in zip(found.options, request.choices, strict=True):
        said = local.processor.text_ids(option)
        logits = slow_logits(local, list(request.messages), request.pictures, said)
        after = logits[-len(said) - 1 : -1].log_softmax(-1)
        slow = after.gather(1, torch.tensor(said)[:, None]).sum()
        assert score.logprob == pytest.approx(float(slow), abs=1e-4)


def test_every_picture_has_the_features_of_all_its_views_whatever_the_pass(local, monkeypatch):
    pictures = [picture(n) for n in range(len(SIZES))]
    with torch.no_grad():
        whole, failed = encode_pictures(local.model, local.processor, pictures)
        monkeypatch.setattr("infimed.inference.local.IMAGES_PER_PASS", 3)
        apart, _ = encode_pictures(local.model, local.processor, pictures)
    assert not failed
    assert [len(whole[p.sha256]) for p in pictures] == [4 * views for views in VIEWS]
    for p in pictures:
        torch.testing.assert_close(whole[p.sha256], apart[p.sha256], atol=1e-4, rtol=1e-4)


def test_the_blank_picture_has_no_tiles_whatever_it_stands_for(local):
    request = Request("q", (Message("user", (0, "?")),), (blank_picture(),))
    assert prepare(local.processor, request).trunk.count(local.processor.image_token_id) == 4


def test_a_tiled_model_refuses_a_picture_of_unknown_size(local):
    unknown = Picture("a", picture(1).load)
    with pytest.raises(DataError, match="size of an image is not known"):
        prepare(local.processor, Request("q", (Message("user", (0, "?")),), (unknown,)))


def test_tiles_are_part_of_the_models_name_only_where_there_are_any(local):
    plain = LocalModel(local.model, local.processor.with_grid(32, 4), "tiny")
    assert plain.fingerprint != local.fingerprint
