"""The model card: a run in words, for people who decide whether to use its model.

Written from the run folder alone, as Markdown with the front matter that the Hub reads. What the folder
does not hold is called "not recorded", never left out. Invariant: no image, question, answer,
group or file name is in it; counts, settings and scores only. Cost: one pass over the index columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.core.page import Section, clean, section, template
from infimed.core.recipe import Recipe, load_recipe
from infimed.curation.engine import read_summary
from infimed.curation.leakage import SUMMARY
from infimed.curation.summary import CurationSummary
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.report import Scoreboard
from infimed.model.configuration import grid_side
from infimed.model.loading import MARKER, STEP, checkpoint_folders
from infimed.model.weight_files import parameter_count
from infimed.pipeline import report_data, report_examples, report_results
from infimed.pipeline.report import shareable_recipe

UNKNOWN: Final = "not recorded"
MOST_SOURCES: Final = 30
LEAKAGE: Final = "leakage"
"""Folder of a run in which the comparison with a benchmark is looked for."""

APACHE: Final = "Apache-2.0"


@dataclass(frozen=True)
class Base:
    """A pretrained part: what it is, where it is published, under which licence."""

    part: str
    name: str
    repository: str | None
    license: str


BASES: Final[Mapping[str, tuple[Base, ...]]] = {
    "nano": (
        Base("vision tower", "trained from scratch on generated phantoms", None, APACHE),
        Base("language model", "trained from scratch on generated texts", None, APACHE),
    ),
    "mini": (
        Base("vision tower", "DINOv2-small", "facebook/dinov2-small", APACHE),
        Base(
            "language model", "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", APACHE
        ),
    ),
    **{
        f"infimed-{size.lower()}": (
            Base("vision tower", "SigLIP so400m", "google/siglip-so400m-patch14-384", APACHE),
            Base("language model", f"Qwen3-{size}", f"Qwen/Qwen3-{size}", APACHE),
        )
        for size in ("1.7B", "4B")
    },
}


@dataclass(frozen=True)
class Source:
    """One data source: records by licence, consent and split."""

    name: str
    license: str
    consent: str
    splits: Mapping[str, int]


@dataclass(frozen=True)
class Origin:
    """Another project's checkpoint: its layout, and what was left out of it."""

    layout: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """The model as stored; `stock` is whether it exports as LLaVA."""

    fingerprint: str
    image_size: int
    visual_tokens: int
    stock: bool
    siglip: bool
    parameters: int
    imported: Origin | None


@dataclass(frozen=True)
class Leakage:
    """Records that a benchmark has too, by kind of match."""

    against: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class StudyFinding:
    """What became of a claim in a controlled experiment; a line of the results table of the studies.

    Attributes:
        preset: the model it was tried on. sentence: what was found, with its interval. p: Holm's, over all
            claims of that table; None where nothing was compared. questions, groups, seeds: that were compared.
    """

    study: str
    title: str
    preset: str
    claim: str
    verdict: str
    sentence: str
    questions: int
    groups: int
    seeds: int
    p: float | None
    commits: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """Scores, and the sentences that read them."""

    sentences: list[str]
    tasks: list[report_results.TaskResult]
    warnings: list[str]


def model_card(
    run: Path | None, checkpoint: Path, studies: Sequence[StudyFinding] | None = None
) -> str:
    """The card as Markdown.

    Args:
        run: the folder with everything but the weights; None where only the checkpoint is there.
        checkpoint: the model that is described. studies: findings to quote, from their results table; None
            where no table was given.

    Raises:
        DataError: the checkpoint cannot be read.
    """
    weights = read_weights(checkpoint)
    recipe = load_recipe(str(run / "recipe.yaml")) if run else None
    missing = None if run else UNKNOWN
    at = run or checkpoint
    opened = section(lambda: open_shards(at / "shards"), missing)
    sources: Section[list[Source]] = section(
        lambda: read_sources(_have(opened)), opened.reason or None
    )
    imported = section(lambda: report_data.read_imported(_have(opened)), opened.reason or None)
    curation = section(lambda: read_summary(at / "ledger.parquet"), missing)
    stages = section(
        lambda: report_data.stage_numbers(at, report_data.read_steps(at), _given(recipe)), missing
    )
    newest = next(iter(checkpoint_folders(at / "checkpoints")), None)
    other = run is not None and newest is not None and newest.resolve() != checkpoint.resolve()
    results = section(
        lambda: read_results(at / "evaluation", _given(recipe), imported.value, curation.value),
        "the scores of this run are those of a later checkpoint" if other else missing,
    )
    bases = bases_of(recipe)
    try:
        page: str = template("infimed.pipeline", "model_card.md.j2").render(
            front=front_matter(recipe, bases),
            name=recipe.name if recipe else checkpoint.name,
            unknown=UNKNOWN,
            weights=weights,
            recipe=recipe,
            recipe_text=shareable_recipe(recipe).replace("```", "") if recipe else "",
            bases=bases,
            sources=sources,
            most_sources=MOST_SOURCES,
            imported=imported,
            curation=curation,
            stages=stages,
            origin=section(lambda: report_data.read_origin(at), missing),
            results=results,
            studies=studies,
            leakage=section(lambda: read_leakage(at, _have(opened)), opened.reason or None),
            cell=cell,
        )
    finally:
        if opened.value is not None:
            opened.value.close()
    return page


def run_of(source: Path, checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in; None for a checkpoint that was copied elsewhere."""
    if (source / "recipe.yaml").is_file():
        return source
    real = checkpoint.resolve()
    inside = real.parent.name == "checkpoints" and STEP.fullmatch(real.name)
    return real.parents[1] if inside and (real.parents[1] / "recipe.yaml").is_file() else None


def _have(opened: Section[ShardSet]) -> ShardSet:
    assert opened.value is not None
    return opened.value


def _given(recipe: Recipe | None) -> Recipe:
    assert recipe is not None
    return recipe


def cell(text: object) -> str:
    """Text for a Markdown table or sentence: one line, nothing in it is markup."""
    one_line = " ".join(str(clean(str(text))).split())
    return "".join("\\" + sign if sign in "\\`*_[]|#~" else sign for sign in one_line)


def read_weights(checkpoint: Path) -> Weights:
    """What the checkpoint's own files say.

    Raises:
        DataError: one of them is missing or malformed.
    """
    config = read_json(checkpoint / "config.json")
    processor = read_json(checkpoint / "infimed_processor.json")
    vision = config["vision_config"]
    manifest = read_json(checkpoint / MARKER)
    origin = manifest.get("imported")
    side = grid_side(processor["image_size"], int(vision["patch_size"]))
    return Weights(
        fingerprint=str(manifest["fingerprint"]),
        image_size=processor["image_size"],
        visual_tokens=processor["visual_tokens"],
        stock=config["reducer"] == "average"
        and processor["visual_tokens"] == side * side
        and not processor.get("tiles"),
        siglip=vision["model_type"] == "siglip_vision_model",
        parameters=parameter_count(checkpoint),
        imported=None if origin is None else Origin(origin["layout"], tuple(origin["notes"])),
    )


def bases_of(recipe: Recipe | None) -> tuple[Base, ...]:
    """The pretrained parts; a folder of the user's own says nothing of licences."""
    if recipe is None:
        return ()
    own = recipe.model.weights
    if own is not None:
        name = f"from a folder named {own.name}"
        return tuple(Base(p, name, None, UNKNOWN) for p in ("vision tower", "language model"))
    return BASES.get(recipe.model.preset, ())


def front_matter(recipe: Recipe | None, bases: Sequence[Base]) -> str:
    """What the Hub reads. The licence of weights trained on other people's data is for people to say."""
    generated = recipe is not None and recipe.data.phantom is not None
    open_bases = bool(bases) and all(base.license == APACHE for base in bases)
    values: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if generated and open_bases:
        values["license"] = "apache-2.0"
    else:
        values |= {"license": "other", "license_name": "see-model-card"}
    repositories = [base.repository for base in bases if base.repository]
    if repositories:
        values["base_model"] = repositories
    values["language"] = ["en"]
    values["tags"] = ["medical", "vision-language-model", "infimed"]
    return yaml.safe_dump(values, sort_keys=False)


def read_sources(shards: ShardSet) -> list[Source]:
    """Records by source, licence and consent, the largest first."""
    columns = shards.index(["source", "license", "split", "facts"])
    consents: dict[str, str] = {}
    counted: dict[tuple[str, str, str], Counter[str]] = {}
    for source, license_, split, facts in zip(
        *(columns[name].to_pylist() for name in ("source", "license", "split", "facts")),
        strict=True,
    ):
        if facts not in consents:
            consents[facts] = (
                str(json.loads(facts).get("consent", UNKNOWN)) if '"consent"' in facts else UNKNOWN
            )
        counted.setdefault((source, license_, consents[facts]), Counter())[split] += 1
    ranked = sorted(counted.items(), key=lambda item: (-item[1].total(), item[0]))
    return [Source(*key, dict(sorted(splits.items()))) for key, splits in ranked]


def read_results(
    folder: Path,
    recipe: Recipe,
    imported: report_data.Imported | None,
    curation: CurationSummary | None,
) -> Results:
    """The scoreboard, read as the report reads it."""
    board = Scoreboard.from_dict(read_json(folder / "scores.json"))
    kinds = report_examples.kinds_of_tasks(folder / "samples.jsonl")
    items = imported.records + imported.problem_count if imported else 0
    return Results(
        report_results.plain_result(board, kinds, recipe),
        report_results.task_results(board),
        report_results.warnings(
            board,
            recipe,
            problem_share=imported.problem_count / items if imported and items else 0.0,
            dropped_share=curation.dropped / curation.records
            if curation and curation.records
            else 0.0,
        ),
    )


def read_leakage(run: Path, shards: ShardSet) -> Leakage:
    """What ``infimed curate leakage SHARDS --out RUN/leakage`` found for the run's own data.

    Raises:
        DataError: there is no comparison of these data.
    """
    found = read_json(run / LEAKAGE / SUMMARY)
    if found["data"] != shards.data_hash:
        raise DataError("the comparison is of other data", where=LEAKAGE)
    counts = {name: int(n) for name, n in found.items() if isinstance(n, int)}
    return Leakage(str(found["against"]), counts)
