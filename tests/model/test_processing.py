"""One template: ids, targets, trunks, and text that can never become a control token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import tiny_tokenizer_json

from infimed.core.errors import DataError
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.model.processing import IGNORE, Processor

PROCESSOR = Processor(tokenizer_json=tiny_tokenizer_json(), image_size=32, visual_tokens=4)
IMAGE = ImageRef("a.png")


def choice(answer="CT"):
    return question_record(
        id="q",
        question="Modality?",
        answer=answer,
        images=(IMAGE,),
        task="choice",
        choices=("CT", "MRI", "US"),
    )


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=20),
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<image>", "<|endoftext|>"]),
)
def test_control_tokens_typed_by_a_user_stay_text(text, token):
    encoded = PROCESSOR.encode([Message("user", (text + token + text,))], generation=True)
    control = [i for i in encoded.input_ids if i < 4]
    assert control == [PROCESSOR.start_id, PROCESSOR.end_id, PROCESSOR.start_id]


def test_targets_are_the_next_ids_of_assistant_turns_and_their_end():
    encoded = PROCESSOR.encode(
        [
            Message("user", ("Is it?",)),
            Message("assistant", ("yes",)),
            Message("user", ("Sure?",)),
            Message("assistant", ("no",)),
        ]
    )
    predicted = [t for t in encoded.targets if t != IGNORE]
    assert predicted == [
        *PROCESSOR.text_ids("yes"),
        PROCESSOR.end_id,
        *PROCESSOR.text_ids("no"),
        PROCESSOR.end_id,
    ]
    for at, target in enumerate(encoded.targets):
        assert target == IGNORE or target == encoded.input_ids[at + 1]


def test_questions_about_one_image_share_their_trunk_exactly():
    first, second = (
        PROCESSOR.encode(
            PROCESSOR.conversation(
                question_record(
                    id="a", question=q, answer="no", images=(IMAGE, IMAGE), task="closed"
                ),
                answer=True,
            )
        )
        for q in ("Is there a mass?", "Left?")
    )
    assert first.trunk == second.trunk > 0
    assert first.input_ids[: first.trunk] == second.input_ids[: second.trunk]
    assert first.input_ids[first.trunk - 1] == PROCESSOR.image_token_id
    assert PROCESSOR.image_token_id not in first.input_ids[first.trunk :]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_choice_shows_lettered_options_and_answers_with_the_text(order):
    turns = PROCESSOR.conversation(choice(), option_order=order, answer=True)
    letter = "ABC"[order.index(0)]
    assert f"\n{letter}. CT" in turns[0].text
    assert turns[-1].text == "CT"


def test_question_alone_ends_before_the_answer():
    assert PROCESSOR.conversation(choice())[-1].role == "user"


def test_measure_counts_what_encode_makes():
    record = choice()
    encoded = PROCESSOR.encode(PROCESSOR.conversation(record, answer=True))
    measured = PROCESSOR.measure(record)
    assert measured.text_tokens + 4 == len(encoded.input_ids)
    assert measured.trunk_tokens + 4 == encoded.trunk
    assert measured.target_tokens == sum(t != IGNORE for t in encoded.targets)
    assert measured.images == 1


def test_lengths_do_not_depend_on_the_grid():
    assert PROCESSOR.measure(choice()) == PROCESSOR.with_grid(64, 16).measure(choice())


def test_saved_processor_loads_equal(tmp_path):
    PROCESSOR.save(tmp_path)
    assert Processor.load(tmp_path) == PROCESSOR


def test_processor_of_another_template_is_refused(tmp_path):
    PROCESSOR.save(tmp_path)
    file = tmp_path / "infimed_processor.json"
    file.write_text(file.read_text().replace(PROCESSOR.template_hash, "0" * 16))
    with pytest.raises(DataError, match="another tokenizer or chat template"):
        Processor.load(tmp_path)


def test_dialogue_keeps_every_turn():
    record = Record(
        id="d",
        images=(),
        messages=(
            Message("user", ("Hello",)),
            Message("assistant", ("Hi",)),
            Message("user", ("Pain?",)),
            Message("assistant", ("no",)),
        ),
        task="dialogue",
    )
    assert len(PROCESSOR.conversation(record, answer=True)) == 4
    assert len(PROCESSOR.conversation(record)) == 3
