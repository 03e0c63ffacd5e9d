"""The one path from a record or a chat to token ids and pixels.

Training, evaluation and serving call the same functions, so they cannot disagree on template,
option letters or image geometry. Everything between two control tokens is tokenised with special
tokens disabled: ``<|im_end|>`` or ``<image>`` typed by a user is plain text.

A chat is `trunk` + `branch`: the trunk ends with the last image placeholder, so all questions about
the same images share its tokens exactly.

With `tiles` a large image has several views (see `tiling`): the placeholders of the whole image, and for
every row of tiles a newline and the placeholders of the row. The newlines tell 2 x 2 tiles from 1 x 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_json, write_json, write_text
from infimed.data.imaging import squash
from infimed.data.record import Message, Record
from infimed.data.shards import Measure
from infimed.model.tiling import NO_TILES, Grid, Size, cut, tile_grid, view_count
from infimed.model.weight_files import real_file

START, END, IMAGE = "<|im_start|>", "<|im_end|>", "<image>"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHOICE_INSTRUCTION = "Answer with one of the options."
IGNORE = -100
MAX_SIDE = 16_384
"""Pixels of a side, and tokens of an image, that a stored processor may ask for."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<image>{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a chat.

    Attributes:
        input_ids: every view of an image already expanded to `visual_tokens` placeholders.
        targets: the id to predict after each position, or -100; shifted, so it ends inside the chat.
        images: index of every image shown, in order.
        trunk: how many leading tokens come up to and including the last image (0 without images).
        views: of each image shown, 1 where it has no tiles.
    """

    input_ids: list[int]
    targets: list[int]
    images: tuple[int, ...]
    trunk: int
    views: tuple[int, ...] = ()


def part_of(messages: Sequence[Message], first: int, last: int) -> tuple[Message, ...]:
    """Turns `first` to `last` - 1 as a chat of their own.

    A leading system turn stands before them and every image that came before is shown again at their
    beginning.
    """
    if first == 0:
        return tuple(messages[:last])
    system = tuple(takewhile(lambda turn: turn.role == "system", messages))
    shown = [
        part for turn in messages[:first] for part in turn.content if not isinstance(part, str)
    ]
    opening, rest = messages[first], messages[first + 1 : last]
    if shown and opening.role == "user":
        opening = Message("user", (*shown, *opening.content))
    elif shown:
        return (*system, Message("user", tuple(shown)), opening, *rest)
    return (*system, opening, *rest)


def _learned(encoded: Encoded) -> int:
    return sum(target != IGNORE for target in encoded.targets)


@dataclass(frozen=True)
class Processor:
    """Tokenizer, template and image geometry of a model.

    Attributes:
        tokenizer_json: the fast tokenizer, serialised; part of the template hash.
        image_size: side in pixels of the square every image is squashed to.
        visual_tokens: placeholders per view of an image.
        mean, std: per-channel normalisation of pixels in 0..1.
        tiles: most tiles of an image beside the view of all of it; 0 shows that view only.
    """

    tokenizer_json: str
    image_size: int
    visual_tokens: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_token: str = IMAGE
    tiles: int = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer with special tokens disabled for text."""
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _id(self, token: str) -> int:
        index = self.tokenizer.token_to_id(token)
        if index is None:
            raise DataError(f"the tokenizer has no token {token!r}", fix="use a ChatML tokenizer")
        return int(index)

    @cached_property
    def start_id(self) -> int:
        """Id that opens a turn."""
        return self._id(START)

    @cached_property
    def end_id(self) -> int:
        """Id that closes a turn."""
        return self._id(END)

    @cached_property
    def image_token_id(self) -> int:
        """Id of the image placeholder."""
        return self._id(self.image_token)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids at which an answer ends."""
        return (self.end_id,)

    @cached_property
    def template_hash(self) -> str:
        """16 hex digits naming tokenizer + template + instructions; keys every cached length."""
        return sha256_json([self.tokenizer_json, CHAT_TEMPLATE, CHOICE_INSTRUCTION])[:16]

    def with_grid(self, image_size: int, visual_tokens: int, tiles: int = 0) -> Processor:
        """The same processor at another resolution."""
        made = replace(self, image_size=image_size, visual_tokens=visual_tokens, tiles=tiles)
        made.__dict__.update({k: v for k, v in self.__dict__.items() if k == "tokenizer"})
        return made

    def tiles_of(self, size: Size) -> Grid:
        """Rows and columns of tiles of an image of this size.

        Raises:
            DataError: images may have tiles, and this one's size is not known.
        """
        if not self.tiles:
            return NO_TILES
        if min(size) < 1:
            raise DataError(
                "the size of an image is not known, so neither is how many tiles it has",
                fix="import the data first: shards know the size of every image",
            )
        return tile_grid(size, self.image_size, self.tiles)

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; control tokens in it stay text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def raw_text(self, ids: Sequence[int]) -> str:
        """Text of ids as it stands, control tokens skipped."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without white space around it, control tokens skipped."""
        return self.raw_text(ids).strip()

    def conversation(
        self, record: Record, *, option_order: Sequence[int] | None = None, answer: bool = False
    ) -> tuple[Message, ...]:
        """The turns of a record as the model sees them.

        A choice question gets its options, lettered in `option_order`, and a one-line instruction;
        its answer is the option's text, which can be said from what is seen before any letter is
        looked up. Without `answer` the last assistant turn is left off.
        """
        messages = list(record.messages)
        if record.task == "choice":
            order = (
                list(option_order) if option_order is not None else list(range(len(record.choices)))
            )
            lines = "\n".join(
                f"{LETTERS[at]}. {record.choices[index]}" for at, index in enumerate(order)
            )
            last_user = max(i for i, turn in enumerate(messages) if turn.role == "user")
            turn = messages[last_user]
            messages[last_user] = Message(
                "user", (*turn.content, f"\n{lines}\n{CHOICE_INSTRUCTION}")
            )
            if record.answer is not None:
                messages = [*messages[: last_user + 1], Message("assistant", (record.answer,))]
        if not answer and messages[-1].role == "assistant":
            messages.pop()
        return tuple(messages)

    def encode(
        self,
        messages: Sequence[Message],
        sizes: Mapping[int, Size] | Sequence[Size] = (),
        *,
        generation: bool = False,
    ) -> Encoded:
        """Ids, shifted targets and image order of a chat.

        Targets are the tokens of assistant turns and the end token that closes each. With
        `generation` the chat ends by opening an assistant turn and has no targets.

        Args:
            sizes: of the images, by their index; looked at only where images may have tiles.
        """
        ids: list[int] = []
        learned: list[bool] = []
        images: list[int] = []
        views: list[int] = []
        trunk = 0

        def put(tokens: Sequence[int], learn: bool = False) -> None:
            ids.extend(tokens)
            learned.extend([learn] * len(tokens))

        between = ""
        for turn in messages:
            if between:
                put(self.text_ids(between))
            put([self.start_id])
            text = f"{turn.role}\n"
            if turn.role == "assistant":
                # All between two control tokens is tokenised at once, as the stock template does: an
                # answer that begins with line breaks may share a token with the one before it.
                opening, whole = self.text_ids(text), self.text_ids(text + turn.text)
                given = sum(
                    1
                    for _ in takewhile(
                        lambda pair: pair[0] == pair[1], zip(opening, whole, strict=False)
                    )
                )
                joined = given < len(opening)
                put(whole[: given + joined])
                put(whole[given + joined :], learn=True)
                put([self.end_id], learn=True)
            else:
                for part in turn.content:
                    if isinstance(part, str):
                        text += part
                        continue
                    if text:
                        put(self.text_ids(text))
                        text = ""
                    rows, columns = self.tiles_of(sizes[part]) if self.tiles else NO_TILES
                    images.append(part)
                    views.append(view_count((rows, columns)))
                    put([self.image_token_id] * self.visual_tokens)
                    for _ in range(rows):
                        put(self.text_ids("\n"))
                        put([self.image_token_id] * (columns * self.visual_tokens))
                    trunk = len(ids)
                if text:
                    put(self.text_ids(text))
                put([self.end_id])
            between = "\n"
        if generation:
            put(self.text_ids("\n"))
            put([self.start_id])
            put(self.text_ids("assistant\n"))
        targets = [ids[i + 1] if learned[i + 1] else IGNORE for i in range(len(ids) - 1)] + [IGNORE]
        if generation:
            targets = [IGNORE] * len(ids)
        return Encoded(ids, targets, tuple(images), trunk, tuple(views))

    def measure(self, record: Record) -> Measure:
        """Token counts of a record as it is trained on, visual tokens apart; every view is an image."""
        messages = self.conversation(record, answer=True)
        sizes = [image.size for image in record.images]
        encoded = self.encode(messages, sizes)
        views = sum(encoded.views)
        return Measure(
            text_tokens=self._text_tokens(encoded),
            target_tokens=_learned(encoded),
            images=views,
            trunk_tokens=max(0, encoded.trunk - self.visual_tokens * views),
            exchanges=tuple(self._exchanges(messages, sizes)),
        )

    def _exchanges(
        self, messages: Sequence[Message], sizes: Sequence[Size]
    ) -> Iterator[tuple[int, int, int, int, int]]:
        """See `Measure.exchanges`. Turns are tokenised one by one, so their counts add up."""
        ends = [at for at, turn in enumerate(messages, 1) if turn.role == "assistant"]
        if len(ends) < 2:
            return
        between = len(self.text_ids("\n"))
        for first, last in pairwise([0, *ends]):
            begun = self.encode(part_of(messages, first, last), sizes)
            alone = [self.encode([turn], sizes) for turn in messages[first:last]]
            later = sum(self._text_tokens(turn) + between for turn in alone)
            images = sum(sum(turn.views) for turn in alone)
            yield last - first, images, self._text_tokens(begun), later, _learned(begun)

    def _text_tokens(self, encoded: Encoded) -> int:
        return len(encoded.input_ids) - self.visual_tokens * sum(encoded.views)

    def views(self, image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """The views uint8 [n, S, S, 3] of an image [H, W, 3], as many as `encode` gives this size."""
        return cut(image, self.image_size, self.tiles_of(size))

    def pixels(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Normalised float32 [n, 3, S, S] of uint8 [H, W, 3] images, squashed to the square."""
        squares = np.stack(
            [
                image
                if image.shape[:2] == (self.image_size,) * 2
                else squash(image, self.image_size)
                for image in images
            ]
        )
        planes = torch.from_numpy(squares).permute(0, 3, 1, 2).float().div_(255.0)
        mean = torch.tensor(self.mean).view(1, 3, 1, 1)
        std = torch.tensor(self.std).view(1, 3, 1, 1)
        return planes.sub_(mean).div_(std)

    def save(self, folder: Path) -> None:
        """Write tokenizer, template and geometry in the stock LLaVA processor's files."""
        size = {"height": self.image_size, "width": self.image_size}
        write_text(folder / "tokenizer.json", self.tokenizer_json)
        write_text(folder / "chat_template.jinja", CHAT_TEMPLATE.replace(IMAGE, self.image_token))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": END,
                "pad_token": END,
                "image_token": self.image_token,
                "extra_special_tokens": {"image_token": self.image_token},
                "clean_up_tokenization_spaces": False,
            },
        )
        write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "SiglipImageProcessor",
                "do_resize": True,
                "do_rescale": True,
                "do_normalize": True,
                "rescale_factor": 1 / 255,
                "image_mean": list(self.mean),
                "image_std": list(self.std),
                "size": size,
                "crop_size": size,
            },
        )
        write_json(
            folder / "infimed_processor.json",
            {
                "image_size": self.image_size,
                "visual_tokens": self.visual_tokens,
                "mean": list(self.mean),
                "std": list(self.std),
                "image_token": self.image_token,
                "template_hash": self.template_hash,
                **({"tiles": self.tiles} if self.tiles else {}),
            },
        )

    @staticmethod
    def load(folder: Path) -> Processor:
        """Inverse of `save`.

        Raises:
            DataError: a file is missing, malformed, or the template differs from this version's.
        """
        file = real_file(folder, "infimed_processor.json")
        stored: dict[str, Any] = read_json(file)
        tokenizer = real_file(folder, "tokenizer.json")
        try:
            processor = Processor(
                tokenizer_json=tokenizer.read_text(encoding="utf-8"),
                image_size=int(stored["image_size"]),
                visual_tokens=int(stored["visual_tokens"]),
                mean=tuple(float(level) for level in stored["mean"]),  # type: ignore[arg-type]
                std=tuple(float(level) for level in stored["std"]),  # type: ignore[arg-type]
                image_token=str(stored["image_token"]),
                tiles=int(stored.get("tiles", 0)),
            )
            expected = str(stored["template_hash"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"is not a processor ({error!r})", where=str(file)) from error
        sane = 0 < processor.image_size <= MAX_SIDE and 0 < processor.visual_tokens <= MAX_SIDE
        if not sane or set(processor.image_token) & set("{}"):
            raise DataError(
                "is not a processor of images",
                where=str(file),
                seen=f"{processor.image_size} px, {processor.visual_tokens} tokens, {processor.image_token!r}",
            )
        try:
            Tokenizer.from_str(processor.tokenizer_json)
        except Exception as error:  # the library raises bare exceptions
            raise DataError(f"is not a tokenizer ({error})", where=str(tokenizer)) from error
        if processor.template_hash != expected:
            raise DataError(
                "the checkpoint was made with another tokenizer or chat template",
                where=str(folder),
                seen=expected,
                accepted=processor.template_hash,
                fix="use the InfiMed version named in the checkpoint's manifest.json",
            )
        return processor
