"""Batched answers equal one-at-a-time greedy decoding of the plain model, and the chat does too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from infimed.core.errors import DataError, UsageError
from infimed.data.record import Message
from infimed.inference.cache import CACHED
from infimed.inference.chat import Chat, stream
from infimed.inference.local import LocalModel, plan_batches, prepare
from infimed.inference.option_scoring import OptionScorer, confidences
from infimed.inference.requests import ChoiceScores, OptionScore, Picture, Request, blank_picture
from infimed.inference.responses import ask, read_responses
from infimed.model.modeling import LeakingCallError
from infimed.model.processing import Processor
from tests.conftest import tiny_tokenizer_json

WORDS = ["yes", "no", "left", "right", "lung", "mass", "image", "small", "of", "the"]


def picture(seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Picture(f"picture-{seed}", lambda: pixels)


def broken_picture() -> Picture:
    def load() -> np.ndarray:
        raise DataError("the image data is damaged", where="x.png")

    return Picture("broken", load)


def question(index: int, pictures: Sequence[Picture] = (), most: int = 12) -> Request:
    rng = np.random.default_rng(index)
    text = " ".join(rng.choice(WORDS, size=int(rng.integers(2, 9))))
    content = (*range(len(pictures)), f"{index} {text}?")
    return Request(f"q{index}", (Message("user", content),), tuple(pictures), most)


@pytest.fixture
def local(make_model) -> LocalModel:
    processor = Processor(tokenizer_json=tiny_tokenizer_json(), image_size=32, visual_tokens=4)
    torch.manual_seed(0)
    model = make_model()
    model.set_grid(4, 32)
    with torch.no_grad():  # spread the logits, so that rounding cannot flip an argmax
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return LocalModel(model, processor, "tiny")


@torch.no_grad()
def slow_greedy(local: LocalModel, request: Request) -> list[int]:
    """The plain model on the whole sequence again for every token, no cache."""
    encoded = local.processor.encode(request.messages, generation=True)
    pixels = (
        local.processor.pixels([request.pictures[i].load() for i in encoded.images])
        if encoded.images
        else None
    )
    ids, start = list(encoded.input_ids), len(encoded.input_ids)
    local.model.set_attention("sdpa")
    for _ in range(request.max_new_tokens):
        logits = local.model(
            input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False
        ).logits
        logits[0, -1, local.processor.image_token_id] = -torch.inf
        token = int(logits[0, -1].argmax())
        if token in local.processor.stop_ids:
            break
        ids.append(token)
    local.model.set_attention(CACHED)
    return ids[start:]


def ask_all(local: LocalModel, requests: list[Request]) -> dict[str, str]:
    out = {}
    for batch in local.batches(requests):
        for response in local.respond([requests[i] for i in batch]):
            out[response.id] = response.text
    return out


def mixed_requests() -> list[Request]:
    a, b, c = picture(1), picture(2), picture(3)
    return [
        *(question(i, [a]) for i in range(5)),
        *(question(i, [b]) for i in range(5, 7)),
        *(question(i, [a, c]) for i in range(7, 9)),
        *(question(i) for i in range(9, 12)),
        *(question(i, [c], most=3) for i in range(12, 14)),
    ]


def test_batched_answers_equal_one_question_at_a_time(local):
    requests = mixed_requests()
    answers = ask_all(local, requests)
    assert answers == {r.id: local.processor.decode(slow_greedy(local, r)) for r in requests}
    assert len(set(answers.values())) > len(requests) // 2


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_answers_do_not_depend_on_the_batch_size(local, batch_size):
    requests = mixed_requests()
    other = LocalModel(local.model, local.processor, "tiny", batch_size=batch_size)
    assert ask_all(other, requests) == ask_all(local, requests)


def test_the_answer_depends_on_the_image(local):
    requests = [
        Request(f"q{i}", (Message("user", (0, "yes?")),), (picture(i),), 12) for i in range(4)
    ]
    assert len(set(ask_all(local, requests).values())) > 1


def test_rows_that_finish_early_leave_the_batch_without_changing_the_rest(local):
    requests = [question(i, [picture(i)], most=24) for i in range(10)]
    expected = {r.id: local.processor.decode(slow_greedy(local, r)) for r in requests}
    assert ask_all(local, requests) == expected


def test_an_answer_cut_by_the_limit_is_marked_truncated(local):
    request = question(0, [picture(1)], most=1)
    (response,) = local.respond([request])
    assert (response.status, response.new_tokens) == ("truncated", 1)


def test_an_unreadable_image_costs_only_its_own_questions(local):
    requests = [
        question(0, [picture(1)]),
        question(1, [broken_picture()]),
        question(2, [picture(1)]),
    ]
    responses = list(local.respond(requests))
    assert [r.status == "error" for r in responses] == [False, True, False]
    assert "damaged" in responses[1].error


def test_a_question_longer_than_the_model_is_an_error_that_says_so(local):
    long = Request("long", (Message("user", ("yes " * 5000,)),), (), 4)
    long_response, fine = local.respond([long, question(1)])
    assert long_response.status == "error" and "tokens" in long_response.error
    assert fine.status != "error"


def test_batches_cover_every_request_once_and_keep_images_together(local):
    requests = mixed_requests()
    batches = plan_batches([prepare(local.processor, r) for r in requests], 5)
    assert sorted(i for batch in batches for i in batch) == list(range(len(requests)))
    assert all(len(batch) <= 5 for batch in batches)
    assert [0, 1, 2, 3, 4] in batches


def test_the_fingerprint_names_the_grid(local):
    low = LocalModel(local.model, local.processor.with_grid(32, 1), "tiny")
    assert low.fingerprint != local.fingerprint


def test_another_grid_of_the_same_weights_can_be_asked(local):
    low = LocalModel(local.model, local.processor.with_grid(16, 1), "tiny")
    request = question(0, [picture(1)])
    assert prepare(low.processor, request).trunk != prepare(local.processor, request).trunk
    (response,) = low.respond([request])
    assert response.status != "error"


@torch.no_grad()
def slow_score(local: LocalModel, request: Request, option: str) -> float:
    """Summed log-probability of an option, from one forward pass of the plain model."""
    prompt = local.processor.encode(request.messages, generation=True).input_ids
    pixels = [picture.load() for picture in request.pictures]
    answer = local.processor.text_ids(option)
    local.model.set_attention("sdpa")
    logits = local.model(
        input_ids=torch.tensor([prompt + answer]),
        pixel_values=local.processor.pixels(pixels) if pixels else None,
        use_cache=False,
    ).logits
    local.model.set_attention(CACHED)
    rows = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(sum(row[token] for row, token in zip(rows, answer, strict=True)))


def test_option_scores_equal_those_of_the_plain_model(local):
    requests = [
        replace(request, choices=("A", "left lung", "no")[: 2 + at % 2])
        for at, request in enumerate(mixed_requests())
    ]
    for request, found in zip(requests, local.score_choices(requests), strict=True):
        assert found.id == request.id and len(found.options) == len(request.choices)
        for choice, score in zip(request.choices, found.options, strict=True):
            assert score.tokens == len(local.processor.text_ids(choice))
            assert score.logprob == pytest.approx(slow_score(local, request, choice), abs=2e-4)


def test_the_best_option_is_the_likeliest_by_token_or_as_a_whole():
    scores = ChoiceScores("q", (OptionScore(-3.0, 1), OptionScore(-4.0, 4), OptionScore(-4.0, 4)))
    assert (scores.best(), scores.best(per_token=False)) == (1, 0)


@pytest.mark.parametrize("choices", [(), ("A", "")])
def test_a_question_without_options_or_with_an_empty_one_is_refused(local, choices):
    with pytest.raises(DataError, match="option is empty"):
        local.score_choices([replace(question(3), choices=choices)])


def test_an_unreadable_image_costs_only_its_own_scores(local):
    requests = [replace(question(0, [broken_picture()]), choices=("A", "B"))]
    requests.append(replace(question(1, [picture(1)]), choices=("A", "B")))
    broken, fine = local.score_choices(requests)
    assert "damaged" in broken.error and not broken.options
    assert len(fine.options) == 2 and not fine.error


def test_a_streamed_answer_equals_the_batched_one(local):
    request = question(0, [picture(1)])
    (batched,) = local.respond([request])
    assert (
        "".join(stream(local, request.messages[0].text, [picture(1)], 12)).strip() == batched.text
    )


def test_later_turns_of_a_chat_equal_a_fresh_model_given_the_whole_chat(local):
    chat = Chat(local, max_new_tokens=6)
    for text, shown in [("yes?", [picture(1)]), ("left mass?", []), ("small lung?", [picture(2)])]:
        said = "".join(chat.ask(text, shown))
        fresh = Request("all", tuple(chat.messages[:-1]), tuple(chat.pictures), 6)
        assert said.strip() == local.processor.decode(slow_greedy(local, fresh))


def test_a_turn_that_fails_leaves_the_chat_as_it_was(local):
    chat = Chat(local, max_new_tokens=4)
    first = "".join(chat.ask("yes?", [picture(1)]))
    with pytest.raises(DataError, match="cannot be read"):
        list(chat.ask("and this?", [broken_picture()]))
    assert [turn.text for turn in chat.messages] == ["yes?", first]
    second = "".join(chat.ask("left?"))
    fresh = Request("all", tuple(chat.messages[:-1]), (picture(1),), 4)
    assert second.strip() == local.processor.decode(slow_greedy(local, fresh))


def test_the_blank_picture_is_grey_at_every_size(local):
    pixels = local.processor.pixels([blank_picture().load()])
    assert pixels.unique().numel() == 1


def test_a_model_whose_attention_was_changed_refuses_to_answer(local):
    local.model.set_attention("sdpa")
    with pytest.raises(LeakingCallError, match="set_attention"):
        list(local.respond([Request("a", (Message("user", ("left?",)),))]))


def test_nothing_to_score_is_no_error(local):
    assert local.score_choices([]) == []


def test_an_answer_of_no_tokens_is_refused():
    with pytest.raises(UsageError, match="at least one token"):
        Request("a", (Message("user", ("left?",)),), max_new_tokens=0)


def test_option_scoring_answers_with_the_likeliest_choice_and_keeps_all_scores(local, tmp_path):
    requests = [
        replace(request, choices=("left lung", "no", "A"), scored=True)
        for request in mixed_requests()
    ]
    slow = local.score_choices(requests)
    answers = ask(OptionScorer(local), requests, tmp_path / "scores.jsonl")
    for request, expected in zip(requests, slow, strict=True):
        found = answers[request.key(local.fingerprint)]
        assert found.text == request.choices[expected.best()]
        assert [o.tokens for o in found.options] == [o.tokens for o in expected.options]
        assert [o.logprob for o in found.options] == pytest.approx(
            [o.logprob for o in expected.options], abs=2e-4
        )
    stored = read_responses(tmp_path / "scores.jsonl")[0]
    assert stored == answers


def test_confidences_of_options_are_their_softmax_by_token():
    options = (OptionScore(-3.0, 3), OptionScore(-2.0, 1), OptionScore(-40.0, 10))
    odds = [math.exp(-1), math.exp(-2), math.exp(-4)]
    assert confidences(options) == pytest.approx([one / sum(odds) for one in odds])
