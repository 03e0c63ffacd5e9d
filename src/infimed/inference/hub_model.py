"""Models of other projects as a `Model`: any image-text-to-text or causal model that transformers opens.

Requests of similar length go together, padded on the left; those with images and those without never
share a batch. Invariants: greedy whatever the folder's generation_config says; in fp32 the answers
equal those of asking one at a time (tests, per architecture); one request that cannot be rendered
does not harm the others. Cost: an image is encoded once for every question about it, and once for every
option in `score_choices`; our own checkpoints do better (`local`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationConfig

from infimed.core.errors import DataError, UsageError
from infimed.data.record import Message, Record
from infimed.inference.decoding import Writer
from infimed.inference.hub_prompts import HubPrompts
from infimed.inference.local import memory_named
from infimed.inference.prompting import PromptRecipe
from infimed.inference.requests import ChoiceScores, OptionScore, Request, Response

SEQUENCES: Final = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs with a value per token; others are of images."""


@dataclass
class HubModel:
    """A model in this process that we did not train.

    Attributes:
        model: in eval mode, on its device. prompts: how requests become its inputs.
        recipe: the sentences it is asked with.
        fingerprint: names weights, settings, template and number type. batch_size: most questions
            answered together.
    """

    model: Any
    prompts: HubPrompts
    recipe: PromptRecipe
    fingerprint: str
    batch_size: int = 32
    stop_ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        stored, tokenizer = self.model.generation_config, self.prompts.tokenizer
        ends = stored.eos_token_id if stored is not None else None
        found = {*(ends if isinstance(ends, (list, tuple)) else [ends]), tokenizer.eos_token_id}
        self.stop_ids = tuple(sorted(index for index in found if index is not None))
        # Whatever stands there (sampling, penalties) would be merged into every call.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=list(self.stop_ids),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """The turns of a record with lettered options, as the recipe words them.

        Raises:
            UsageError: the record shows an image and the model takes none.
        """
        if record.images and not self.prompts.takes_images:
            raise UsageError(
                "this model takes no images, and the questions show some",
                where=record.id,
                fix="ask it without: add --text-only (a control, no score of the benchmark)",
            )
        return self.recipe.conversation(record, option_order)

    def instruction(self, kind: str, messages: Sequence[Message]) -> str:
        """See `PromptRecipe.instruction`."""
        return self.recipe.instruction(kind, messages)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Requests with images and without apart, those of similar length together."""

        def size(index: int) -> tuple[int, int]:
            request = requests[index]
            return len(request.pictures), sum(len(turn.text) for turn in request.messages)

        planned: list[list[int]] = []
        for shows in (False, True):
            members = [i for i, request in enumerate(requests) if _shows(request) == shows]
            members.sort(key=size)
            planned += [
                members[start : start + self.batch_size]
                for start in range(0, len(members), self.batch_size)
            ]
        return planned

    @torch.no_grad()
    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer one batch; what cannot be rendered, or is too long, becomes an error.

        Raises:
            UsageError: a request samples. MemoryBudgetError: the batch does not fit in memory.
        """
        for request in requests:
            if not request.sampling.greedy:
                raise UsageError("models of other projects answer greedily here", where=request.id)
        with memory_named(len(requests)):
            for part in self._parts(requests):
                yield from self._answer(part)

    def _parts(self, requests: Sequence[Request]) -> list[list[Request]]:
        """What is asked in one call: all, unless images and none of them meet."""
        parts = [[r for r in requests if _shows(r) == shows] for shows in (False, True)]
        return [part for part in parts if part]

    def _answer(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answers to requests of one kind; where they cannot go together, one after another."""
        try:
            inputs = self._inputs(requests)
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            wrong = [
                self._too_long(n + r.max_new_tokens) for n, r in zip(lengths, requests, strict=True)
            ]
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # templates, processors and decoders raise classes of their own
            wrong = [_said(error)] * len(requests)
        if any(wrong):
            if len(requests) == 1:
                yield Response(requests[0].id, "", "error", error=wrong[0])
                return
            for request in requests:
                yield from self._answer([request])
            return
        most = max(request.max_new_tokens for request in requests)
        made = self.model.generate(**inputs, max_new_tokens=most)
        new = made[:, inputs["input_ids"].shape[1] :].tolist()
        for request, ids in zip(requests, new, strict=True):
            yield self._written(request, ids)

    def _written(self, request: Request, ids: Sequence[int]) -> Response:
        """The answer that generated tokens hold, up to its own end."""
        writer = Writer(
            0,
            0,
            0,
            self._decode,
            self.stop_ids,
            request.max_new_tokens,
            request.sampling,
            request.stop,
        )
        for token in ids:
            if not writer.open:
                break
            writer.put(token)
        return Response(
            request.id,
            writer.text,
            "ok" if writer.stopped else "truncated",
            new_tokens=len(writer.ids),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.prompts.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _inputs(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Tensors on the model's device, images in its number type."""
        made = self.prompts.inputs(requests)
        if "token_type_ids" not in self._parameters:  # a tokenizer may make what nobody reads
            made.pop("token_type_ids", None)
        parameter = next(self.model.parameters())
        return {
            name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            if isinstance(value, Tensor)
            else value
            for name, value in made.items()
        }

    @cached_property
    def _parameters(self) -> frozenset[str]:
        """What the model's forward pass takes by name."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    def _too_long(self, tokens: int) -> str:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            return f"{tokens} tokens are more than the model's {limit}"
        return ""

    @torch.no_grad()
    def score_choices(self, requests: Sequence[Request]) -> list[ChoiceScores]:
        """How likely each of a request's choices is as its answer, instead of writing one.

        The options of a request are one batch, padded on the right. `max_new_tokens`, `sampling` and
        `stop` have no effect.

        Raises:
            DataError: a request has no choices, or an empty one.
            MemoryBudgetError: the options of a request do not fit in memory.
        """
        found = []
        for request in requests:
            tokenizer = self.prompts.tokenizer
            options = [tokenizer(c, add_special_tokens=False)["input_ids"] for c in request.choices]
            if not options or not all(options):
                raise DataError(
                    "an option is empty, or there is none",
                    where=request.id,
                    seen=list(request.choices),
                )
            with memory_named(1):
                found.append(self._scored(request, options))
        return found

    def _scored(self, request: Request, options: Sequence[Sequence[int]]) -> ChoiceScores:
        most = max(map(len, options))
        try:
            inputs = self._inputs([request])
            error = self._too_long(int(inputs["attention_mask"].sum()) + most)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as raised:
            error = _said(raised)
        if error:
            return ChoiceScores(request.id, error=error)
        rows = _continued(inputs, options, self.prompts.tokenizer.pad_token_id)
        # The prompt ends at the same place in every row, so an option's predictions are the last ones.
        fewer = {"logits_to_keep": most} if "logits_to_keep" in self._parameters else {}
        logits = self.model(**rows, use_cache=False, **fewer).logits
        logprobs = logits[:, -most:].float().log_softmax(dim=-1)
        return ChoiceScores(
            request.id,
            tuple(
                OptionScore(float(own[torch.arange(len(ids)), torch.tensor(ids)].sum()), len(ids))
                for own, ids in zip(logprobs.cpu(), options, strict=True)
            ),
        )


def _continued(
    inputs: dict[str, Any], options: Sequence[Sequence[int]], pad: int
) -> dict[str, Any]:
    """The inputs of one prompt repeated for every option, with its tokens but the last behind them."""
    width = max(map(len, options)) - 1
    rows: dict[str, Any] = {}
    for name, value in inputs.items():
        if name not in SEQUENCES:
            many = value.dim() if isinstance(value, Tensor) else 0
            rows[name] = value.repeat(len(options), *[1] * (many - 1)) if many else value
            continue
        tails = {
            "input_ids": [[*ids[:-1], *[pad] * (width + 1 - len(ids))] for ids in options],
            "attention_mask": [
                [1] * (len(ids) - 1) + [0] * (width + 1 - len(ids)) for ids in options
            ],
        }.get(name, [[0] * width for _ in options])
        tail = torch.tensor(tails, dtype=value.dtype, device=value.device).reshape(
            len(options), width
        )
        rows[name] = torch.cat([value.expand(len(options), -1), tail], dim=1)
    return rows


def _shows(request: Request) -> bool:
    """Whether its turns show an image."""
    return any(not isinstance(part, str) for turn in request.messages for part in turn.content)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
