"""A benign chat has exactly the ids that the stock template gives on the whole string.

Text is tokenised apart from the control tokens here, so that nobody can type one; transformers tokenises
the rendered chat at once, with special tokens on. For chats without control tokens in their text both are the
same, with the tokenizers that are shipped and fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.conftest import tiny_tokenizer_json
from transformers import PreTrainedTokenizerFast

from infimed.core.errors import DataError
from infimed.data.record import Message
from infimed.model.presets import preset
from infimed.model.processing import CHAT_TEMPLATE, IGNORE, Processor
from infimed.model.weights import ensure_weights

VISUAL_TOKENS = 4


@lru_cache
def processor(name: str) -> Processor:
    """A processor with the tokenizer of a preset, or of the tests."""
    if name == "tiny":
        return Processor(tiny_tokenizer_json(), 32, VISUAL_TOKENS)
    try:
        folder = ensure_weights(name, offline=True).language
    except DataError as error:
        pytest.skip(f"{name}'s tokenizer is not here: {error}")
    text = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
    return Processor(text, 32, VISUAL_TOKENS, image_token=preset(name).image_token)


@lru_cache
def stock(name: str) -> PreTrainedTokenizerFast:
    """The same tokenizer as transformers loads it."""
    from tokenizers import Tokenizer

    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(processor(name).tokenizer_json)
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def stock_ids(name: str, messages: Sequence[Message], generation: bool) -> list[int]:
    """Ids of the whole rendered chat, every placeholder repeated as the stock processor does."""
    text = stock(name).apply_chat_template(
        [turn.to_dict() for turn in messages], add_generation_prompt=generation, tokenize=False
    )
    token = processor(name).image_token
    whole = text.replace(token, token * VISUAL_TOKENS)
    return stock(name)(whole, add_special_tokens=False)["input_ids"]


spaces = st.text(st.sampled_from(" \n\t"), max_size=4)
words = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.from_regex(r"[0-9]{1,7}([.,][0-9]{1,3})?( mm| HU)?", fullmatch=True),
    st.sampled_from(["Pleuraerguß", "右肺", "🫁", "e\u0301", "à.", "It's", "..", "\r\n", "\u00a0"]),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Words of any script with any white space between and around them, and no control token."""
    parts = draw(st.lists(st.tuples(spaces, words), max_size=5))
    text = "".join(space + word for space, word in parts) + draw(spaces)
    return text.replace("<", "(")


@st.composite
def chats(draw: st.DrawFn) -> tuple[Message, ...]:
    """A system turn or none, then exchanges; images stand anywhere in the user's turns."""
    turns = [Message("system", (draw(texts()),))] if draw(st.booleans()) else []
    images = 0
    for _ in range(draw(st.integers(1, 3))):
        parts: list[str | int] = []
        for part in draw(st.lists(st.one_of(st.none(), texts()), min_size=1, max_size=3)):
            images += part is None
            parts.append(images - 1 if part is None else part)
        turns += [Message("user", tuple(parts)), Message("assistant", (draw(texts()),))]
    return tuple(turns)


@pytest.mark.parametrize("name", ["tiny", "nano", "mini"])
@settings(max_examples=80, deadline=None)
@given(chat=chats())
@example(chat=(Message("user", ("Hi",)), Message("assistant", ("\n\n\nYes",))))
@example(chat=(Message("user", (0, "\n\n Is it 12.5 mm? ")), Message("assistant", ("  yes\n\n",))))
def test_ids_equal_the_stock_template_on_the_whole_string(name, chat):
    learned = processor(name).encode(chat).input_ids
    # Training ends with the last turn; the template adds a line break after it.
    assert learned == stock_ids(name, chat, False)[: len(learned)]
    assert len(stock_ids(name, chat, False)) == len(learned) + len(processor(name).text_ids("\n"))
    asked = chat[:-1]
    encoded = processor(name).encode(asked, generation=True)
    assert encoded.input_ids == stock_ids(name, asked, True)


@pytest.mark.parametrize("name", ["tiny", "nano", "mini"])
@pytest.mark.parametrize("text", ["yes", " yes", "\nyes", "\n\n\nyes", "12 mm", ""])
def test_what_is_learned_decodes_to_the_answer_and_the_end_of_its_turn(name, text):
    own = processor(name)
    encoded = own.encode([Message("user", ("Is it?",)), Message("assistant", (text,))])
    learned = [target for target in encoded.targets if target != IGNORE]
    assert learned[-1] == own.end_id
    assert own.decode(learned) == text.strip()
