"""Prompts of requests that join: from token ids and images to keys and values, and what of it is kept for later.

Images are encoded together, or known by their hash; a prompt that begins as a known conversation of its client is
computed from where it differs, the others as one packed row as offline. Nothing of the running batch is touched here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from infimed.inference.branches import Row, extend, fill, new_cache
from infimed.inference.cache import KeyValues
from infimed.inference.chat import TOKENS_PER_PART
from infimed.inference.local import LocalModel, encode_views, shown
from infimed.serving.answers import Answer
from infimed.serving.batch import Batch, Job
from infimed.serving.remembering import Conversation, FeatureCache, PrefixCache
from infimed.serving.settings import EngineSettings

Begun: TypeAlias = tuple[KeyValues, Tensor, list[Job]]
"""Prompts that are computed: their rows, the last state of each, and whose they are."""


class Prompts:
    """See the module.

    Attributes:
        features: of images. prefixes: keys and values of conversations.
    """

    def __init__(self, local: LocalModel, settings: EngineSettings) -> None:
        self.local = local
        self.features = FeatureCache(settings.feature_bytes)
        self.prefixes = PrefixCache(settings.prefix_bytes)

    def computed(self, taken: Sequence[Job]) -> list[Begun]:
        """The prompts of these requests, computed; nothing of the batch is touched."""
        features = self._features(taken)
        fresh: dict[tuple[object, ...], list[Job]] = {}
        begun: list[Begun] = []
        for job in taken:
            found = self.prefixes.find(job.ask.client, job.ids, self._images(job))
            if found is None:
                fresh.setdefault(job.prepared.group, []).append(job)
            else:
                begun.append(self._resumed(job, *found, features))
        if fresh:
            begun.append(self._fresh(list(fresh.values()), features))
        return begun

    def _fresh(self, groups: Sequence[Sequence[Job]], features: dict[str, Tensor]) -> Begun:
        """Prompts from their first token; those with one trunk share a row."""
        model = self.local.model
        rows = [
            Row(
                jobs[0].prepared.trunk,
                [job.prepared.branch for job in jobs],
                shown(jobs[0].prepared, features),
            )
            for jobs in groups
        ]
        cache = new_cache(model, len(rows))
        states = fill(model, rows, cache)
        last = torch.cat(
            [of[[end - 1 for end in row.ends()]] for row, of in zip(rows, states, strict=True)]
        )
        for number, jobs in enumerate(groups):
            for branch, job in enumerate(jobs):
                job.answer = self._answer(job, number, branch)
        return cache, last, [job for jobs in groups for job in jobs]

    def _resumed(self, job: Job, taken: Tensor, length: int, features: dict[str, Tensor]) -> Begun:
        """A prompt from where it differs from a known conversation; fed in parts as in `Chat`."""
        model = self.local.model
        cache = new_cache(model, 1)
        cache.put(0, taken)
        rest = job.ids[length:]
        new = [sha256 for sha256, start in self._images(job) if start >= length]
        stacked = torch.cat([features[sha256] for sha256 in new]) if new else None
        embedded = model.embed(torch.tensor([rest], device=cache.device), stacked)
        for start in range(0, len(rest), TOKENS_PER_PART):
            part = embedded[:, start : start + TOKENS_PER_PART]
            begin, count = length + start, part.shape[1]
            positions = list(range(begin, begin + count))
            hidden = extend(model, cache, part, [0] * count, [0] * count, positions)
        job.reused = length
        job.answer = self._answer(job, 0, 0)
        return cache, hidden[-1:], [job]

    def _answer(self, job: Job, row: int, branch: int) -> Answer:
        processor, request = self.local.processor, job.prepared.request
        return Answer(
            row,
            branch,
            job.prepared.tokens,
            processor.raw_text,
            processor.stop_ids,
            request.max_new_tokens,
            request.sampling,
            request.stop,
            top=job.ask.top,
            form=job.form,
        )

    def _images(self, job: Job) -> list[tuple[str, int]]:
        """Hash and first placeholder of each image of a prompt, in order."""
        processor = self.local.processor
        places = [at for at, token in enumerate(job.ids) if token == processor.image_token_id]
        found, passed = [], 0
        for picture in job.prepared.pictures:
            found.append((picture.sha256, places[passed]))
            passed += processor.visual_tokens * len(job.ask.views(picture.sha256))
        return found

    def _features(self, jobs: Sequence[Job]) -> dict[str, Tensor]:
        """Features of all images of these requests, known or computed now."""
        found: dict[str, Tensor] = {}
        missing: dict[str, Job] = {}
        for job in jobs:
            for picture in job.prepared.pictures:
                if picture.sha256 in found or picture.sha256 in missing:
                    continue
                known = self.features.get(picture.sha256)
                if known is None:
                    missing[picture.sha256] = job
                else:
                    found[picture.sha256] = known
        views = [job.ask.views(sha256) for sha256, job in missing.items()]
        made = encode_views(self.local.model, self.local.processor, views)
        for sha256, features in zip(missing, made, strict=True):
            found[sha256] = features
            self.features.put(sha256, features)
        return found

    def remember(self, batch: Batch, job: Job) -> None:
        """Keep the keys and values of a conversation that may go on."""
        cache, answer = batch.cache, job.writer
        if cache is None or not self.prefixes.most_bytes:
            return
        taken = cache.taken(batch.place[answer.row], answer.branch)
        ids = np.array([*job.ids, *answer.ids][: taken.shape[2]], np.int64)
        images = tuple(self._images(job))
        self.prefixes.put(Conversation(job.ask.client, ids, images, taken))
