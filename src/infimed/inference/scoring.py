"""Score given answers instead of generating one: the log-probability of each option.

The options share the question's trunk (see `branches`), so scoring five options costs one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from infimed.core.errors import DataError
from infimed.inference.branches import Row, branch_spans, grow
from infimed.inference.local import LocalModel, encode_pictures, prepare
from infimed.inference.requests import Request


@torch.no_grad()
def option_logprobs(local: LocalModel, request: Request, options: Sequence[str]) -> list[float]:
    """Mean log-probability per token (nats) of each option as the answer to `request`.

    Dividing by the length keeps long options in the race; the closing token is not counted.

    Args:
        options: texts as the model would write them ("A", or the option's words).

    Raises:
        DataError: an image cannot be read, or an option has no token.
    """
    item = prepare(local.processor, request)
    features, failed = encode_pictures(local.model, local.processor, item.pictures)
    if failed:
        raise DataError(
            f"the image cannot be read: {next(iter(failed.values()))}", where=request.id
        )
    answers = [local.processor.text_ids(option) for option in options]
    if not answers or not all(answers):
        raise DataError("an option is empty", where=request.id, seen=list(options))
    row = Row(
        list(item.trunk),
        [[*item.branch, *answer] for answer in answers],
        torch.cat([features[p.sha256] for p in item.pictures]) if item.pictures else None,
    )
    _, hidden = grow(local.model, [row])
    scores = []
    for (_, end), answer in zip(branch_spans(row), answers, strict=True):
        logits = local.model.lm_head(hidden[0, end - len(answer) - 1 : end - 1]).float()
        chosen = torch.tensor(answer, device=logits.device)
        picked = logits.log_softmax(dim=-1).gather(1, chosen[:, None])
        scores.append(float(picked.mean()))
    return scores
