"""A trainer over a few small images with questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infimed.data.importing import import_data
from infimed.data.shards import ShardSet, open_shards
from infimed.training.loop import Trainer
from tests.training.toy import toy_trainer, write_records


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    source = tmp_path / "source"
    source.mkdir()
    write_records(source)
    import_data(source, tmp_path / "shards", reader="records", workers=1)
    return open_shards(tmp_path / "shards")


@pytest.fixture
def make_trainer(shards: ShardSet, make_model, processor, tmp_path: Path) -> Callable[..., Trainer]:  # type: ignore[no-untyped-def]
    def make(folder: str, reducer: str = "average", **settings) -> Trainer:  # type: ignore[no-untyped-def]
        return toy_trainer(
            shards,
            make_model(reducer=reducer),
            processor,
            tmp_path / "plan",
            tmp_path / folder,
            **settings,
        )

    return make
