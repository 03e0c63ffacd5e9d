"""Requests as the inputs of another project's model: its own template, tokenizer and image processor.

Text that spells a control token of the model is text: a space is put behind its first character, so it
can neither end a turn nor stand for an image. Templates that know a thinking mode are told to answer at
once (`enable_thinking: false`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from PIL import Image

from infimed.core.files import sha256_json
from infimed.data.record import Message
from infimed.inference.requests import Picture, Pixels, Request

PLAIN_TEMPLATE: Final = (
    "{%- for message in messages -%}{{ message['content'] }}\n{% endfor -%}"
    "{%- if add_generation_prompt -%}Answer:{% endif -%}"
)
"""For a model without a template: the turns as lines, then ``Answer:``."""
FORMAT: Final = 1
"""Counts up when equal requests would be rendered otherwise; part of the fingerprint."""


class HubPrompts:
    """Renders requests.

    Attributes:
        tokenizer: pads on the left. template: chat template (Jinja). processor: of text and images, or
            None where no image can be shown.
        placeholder: text that stands for an image where the template takes plain strings; "" where it
            takes lists of parts. background: colour that pads an image to a square first.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        processor: Any = None,
        *,
        placeholder: str = "",
        background: tuple[int, int, int] | None = None,
    ) -> None:
        self.tokenizer, self.template, self.processor = tokenizer, template, processor
        self.placeholder, self.background = placeholder, background
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def identity(self) -> str:
        """Hex SHA-256 of what decides the rendering besides the folder's files."""
        return sha256_json([FORMAT, self.template, self.placeholder, self.background])

    @property
    def takes_images(self) -> bool:
        """Whether an image can be shown."""
        return self.processor is not None

    def inputs(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Tensors of a batch, padded on the left: all of its requests show images, or none does.

        Raises:
            DataError: an image cannot be read. Whatever template or processor raise otherwise.
        """
        texts = [self.text(request.messages) for request in requests]
        pictures = [_shown(request) for request in requests]
        # A template may open with the first token itself; one for text alone says all there is.
        bos = self.tokenizer.bos_token
        opened = bool(bos) and texts[0].startswith(bos)
        special = not opened and (self.takes_images or self.template == PLAIN_TEMPLATE)
        settings = {"return_tensors": "pt", "padding": True, "add_special_tokens": special}
        if self.processor is None:
            return dict(self.tokenizer(texts, **settings))
        images = [[self.image(one.load()) for one in shown] for shown in pictures]
        if not any(images):
            return dict(self.processor(text=texts, **settings))
        return dict(self.processor(text=texts, images=images, **settings))

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation, up to the answer."""
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": turn.role, "content": self._content(turn)} for turn in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )

    def _content(self, turn: Message) -> str | list[dict[str, str]]:
        if self.processor is None or self.placeholder:
            shown = sum(not isinstance(part, str) for part in turn.content)
            return f"{self.placeholder}\n" * shown + self.literal(turn.text).strip()
        return [
            {"type": "text", "text": self.literal(part)}
            if isinstance(part, str)
            else {"type": "image"}
            for part in turn.content
        ]

    def literal(self, text: str) -> str:
        """Text in which no control token is spelled out."""
        return self._controls.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        """Every token that is not text, longest first."""
        special = [
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special and len(token.content) > 2
        ]
        named = [getattr(self.processor, f"{kind}_token", None) for kind in ("image", "boi", "eoi")]
        words = {*special, *(word for word in named if word)}
        longest = sorted(words, key=lambda word: (-len(word), word))
        return re.compile("|".join(map(re.escape, longest)) or r"(?!)")

    def image(self, pixels: Pixels) -> Image.Image:
        """uint8 RGB [H, W, 3] as the processor takes it."""
        picture = Image.fromarray(pixels)
        width, height = picture.size
        if self.background is None or width == height:
            return picture
        side = max(width, height)
        square = Image.new("RGB", (side, side), self.background)
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        return square


def _shown(request: Request) -> list[Picture]:
    """Pictures in the order in which the turns show them."""
    return [
        request.pictures[part]
        for turn in request.messages
        for part in turn.content
        if not isinstance(part, str)
    ]
