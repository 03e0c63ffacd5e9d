"""The recipe: one typed object that says what happens, from YAML plus dotted overrides.

Unknown keys are refused with the nearest valid name; every relation between keys that can be checked
without data is checked before any work starts. A stage is data: low-to-high resolution and the
three fine-tuning stages are entries of one list.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from infimed.core.errors import RecipeError, nearest_name
from infimed.core.files import canonical_json
from infimed.core.stage import LearningRate, Lora, Part, Stage

__all__ = [
    "Curation",
    "Data",
    "Evaluation",
    "Grid",
    "LearningRate",
    "Lora",
    "Model",
    "PhantomData",
    "Recipe",
    "Stage",
    "TrackerName",
    "Train",
    "differences",
    "dump_recipe",
    "load_recipe",
    "recipe_names",
    "same",
]  # fmt: skip


TrackerName = Literal["tensorboard", "wandb", "trackio"]


class PhantomData(Part):
    """Generate a phantom clinic instead of reading files."""

    patients: int = Field(600, ge=8, description="patients in the clinic")
    seed: int = Field(
        1, ge=0, description="names the patients; no seed shares a patient with another"
    )
    size: int = Field(192, ge=64, le=1024, description="side of the square images in pixels")


class Data(Part):
    """Where records come from."""

    root: Path | None = Field(None, description="folder or file of your data")
    reader: str = Field("auto", description="format; auto looks at the files")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the reader")
    split_file: str | None = Field(
        None, description="JSON that maps images to train/dev/calibration/test; relative to root"
    )
    phantom: PhantomData | None = Field(
        None, description="generate phantoms instead of reading root"
    )
    splits: dict[str, float] | None = Field(
        None,
        description="deal groups into splits anew by these shares, e.g. {train: 0.8, test: 0.2}",
    )
    licenses: list[str] = Field(
        default_factory=list, description="keep only these; empty keeps all"
    )
    consents: list[str] = Field(
        default_factory=list,
        description="train only on records whose fact `consent` is one of these; empty asks for none",
    )
    train_splits: list[Literal["train", "dev"]] = Field(
        ["train"],
        min_length=1,
        description="splits that are trained on; add dev once a recipe's choices are made",
    )
    mask_text: bool = Field(False, description="paint over text burned into images at import")
    redact: bool = Field(False, description="replace identifiers of persons in texts at import")
    describe: bool = Field(
        False,
        description="add captions and short questions from what headers and tables state of images",
    )

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if self.root is not None and self.phantom is not None:
            raise ValueError("give root or phantom, not both (data.phantom=null switches it off)")
        if self.root is None and self.phantom is None:
            raise ValueError("give data.root=FOLDER, or data.phantom for generated data")
        if self.phantom is not None and not self.splits:
            raise ValueError("a generated clinic needs splits, e.g. {train: 0.8, test: 0.2}")
        if self.splits and abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ValueError(f"splits add up to {sum(self.splits.values())}, not 1")
        return self


class Model(Part):
    """Which network, and where its base weights are."""

    preset: str = "nano"
    weights: Path | None = Field(
        None, description="folder with vision/ and language/; null = preset's own"
    )
    reducer: Literal["average", "pixel_shuffle", "resampler", "query"] = Field(
        "average", description="how the tower's grid becomes visual tokens; average has no weights"
    )


class Train(Part):
    """What all stages share."""

    seed: int = Field(1, ge=0)
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="of products, over fp32 weights; auto is bf16 where the machine multiplies it faster, "
        "and a run keeps what it began with",
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 = all cores")
    twin_beside: bool = Field(
        False, description="train the blind twin in a second process at the same time"
    )
    weight_decay: float = Field(0.01, ge=0, description="on matrices only")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    betas: tuple[float, float] = (0.9, 0.98)
    optimizer: Literal["adamw", "adafactor", "adamw8bit"] = Field(
        "adamw", description="adafactor keeps nearly no state, adamw8bit a quarter of adamw's"
    )
    activation_checkpointing: bool = Field(
        False, description="keep only the inputs of blocks and compute them again backward"
    )
    compile: bool = Field(
        False, description="compile the language model's blocks with torch.compile"
    )
    frozen_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 halves the memory of a tower that learns in no stage"
    )
    window: int = Field(4096, ge=1, description="documents the planner looks at together")
    checkpoint_seconds: float = Field(120.0, gt=0, description="a checkpoint at least this often")
    keep_checkpoints: int = Field(2, ge=1)
    prefetch_rows: int = Field(4, ge=1)
    trackers: tuple[TrackerName, ...] = Field(
        ("tensorboard",),
        description="where metrics go besides metrics.jsonl; wandb sends them over the network",
    )
    feature_cache: bool = Field(
        False,
        description="keep the features of a frozen tower on disk in stages without augmentation",
    )
    bad_images: float = Field(
        0.001,
        ge=0,
        lt=1,
        description="share of the images that may fail to decode before the run stops; one always may",
    )


class Curation(Part):
    """Quality rules, and the score where an evaluator is named; verdicts are written beside the shards."""

    enabled: bool = True
    workers: int = Field(2, ge=1)
    evaluator: str | None = Field(
        None,
        description="drop by score, too: a file of infimed curate train-evaluator; shipped is the one in the "
        "package, which only scores",
    )
    target_precision: float = Field(
        0.90, gt=0, le=1, description="share of what the score drops that should be defective"
    )

    @model_validator(mode="after")
    def score_needs_rules(self) -> Self:
        if self.evaluator is not None and not self.enabled:
            raise ValueError("an evaluator scores what rules found: it needs curation.enabled=true")
        return self


class Grid(Part):
    """An image size with its number of visual tokens."""

    image_size: int = Field(ge=8)
    visual_tokens: int = Field(ge=1)


class Evaluation(Part):
    """What is asked of the final model, and of its controls."""

    tasks: list[str] = Field(default_factory=list)
    data: Path | dict[str, Path] | None = Field(
        None,
        description="where benchmarks lie: a folder with a folder for each, or {task: folder}; "
        "without it a benchmark's task asks the recipe's own records",
    )
    text_only: list[str] = Field(
        default_factory=list,
        description="benchmarks asked without their images: a control, never their score",
    )
    limit: int | None = Field(None, ge=1, description="questions per task, from a seeded sample")
    zeroed: bool = Field(True, description="ask again with blank images")
    trained_blind: bool = Field(True, description="train a twin without images and ask it too")
    low_grid: Grid | None = Field(None, description="ask again at this grid")
    batch_size: int = Field(32, ge=1)
    processes: int = Field(
        1, ge=1, description="processes that share the questions; more for small models on a CPU"
    )

    @model_validator(mode="after")
    def only_asked_tasks_lose_their_images(self) -> Self:
        strange = [name for name in self.text_only if name not in self.tasks]
        if strange:
            raise ValueError(f"text_only names {strange[0]!r}, which is not among the tasks")
        if self.text_only and self.data is None:
            raise ValueError("text_only is for benchmarks: say where their files are with data")
        return self


class Recipe(Part):
    """Everything a run does."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Data
    model: Model = Model()
    curation: Curation = Curation()
    stages: list[Stage] = Field(min_length=1)
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    export: Literal["llava", "infimed_vl"] | None = Field(
        None,
        description="export the final model into the run folder: llava needs the full grid at the end, "
        "infimed_vl fewer tokens",
    )

    @model_validator(mode="after")
    def cache_has_one_grid(self) -> Self:
        if self.train.feature_cache and any(s.over_long == "shrink" for s in self.stages):
            raise ValueError(
                "train.feature_cache keeps features of one size, and over_long: shrink needs smaller ones"
            )
        return self

    @model_validator(mode="after")
    def frozen_tower_stays_frozen(self) -> Self:
        if self.train.frozen_dtype == "bf16":
            learning = [stage.name for stage in self.stages if stage.learning_rate.vision]
            if learning:
                raise ValueError(
                    f"train.frozen_dtype=bf16, but the tower learns in {', '.join(learning)}"
                )
            if self.train.precision == "fp32":
                raise ValueError("train.frozen_dtype=bf16 needs train.precision=bf16")
        return self

    @model_validator(mode="after")
    def stages_in_order(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ: {names}")
        seen_sft = False
        low: Stage | None = None
        for stage in self.stages:
            if stage.name.startswith("sft"):
                seen_sft = True
            if stage.name.startswith("pretrain"):
                if seen_sft:
                    raise ValueError(f"stage {stage.name!r} pre-trains after fine-tuning began")
                if low and (
                    stage.visual_tokens < low.visual_tokens or stage.image_size < low.image_size
                ):
                    raise ValueError(
                        f"pre-training goes from low to high resolution, but {stage.name!r} is lower "
                        f"than {low.name!r}"
                    )
                low = stage
        return self


def _valid_keys(path: Sequence[str | int]) -> list[str]:
    """Names accepted at a dotted path of the recipe."""
    model: Any = Recipe
    for key in path:
        if isinstance(key, int):
            continue
        field = (
            model.model_fields.get(key)
            if isinstance(model, type) and issubclass(model, Part)
            else None
        )
        if field is None:
            return []
        model = _inner_model(field.annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, Part) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _as_recipe_error(error: ValidationError, where: str) -> RecipeError:
    """The first problem pydantic found, as a message with the nearest key or the accepted values."""
    first = error.errors(include_url=False)[0]
    path = first["loc"]
    dotted = ".".join(str(key) for key in path) or "recipe"
    more = error.error_count() - 1
    tail = f" (and {more} more problems)" if more else ""
    if first["type"] == "extra_forbidden":
        valid = _valid_keys(path[:-1])
        return RecipeError(
            f"unknown key{tail}",
            where=f"{where}: {dotted}",
            seen=str(path[-1]),
            accepted=valid,
            nearest=nearest_name(str(path[-1]), valid),
        )
    message = first["msg"].removeprefix("Value error, ")
    seen = None if first["type"] in ("missing", "value_error") else first.get("input")
    return RecipeError(f"{message}{tail}", where=f"{where}: {dotted}", seen=seen)


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key; list items by number or by their `name`."""
    *parents, last = dotted.split(".")
    at: Any = values
    walked: list[str] = []
    for key in parents:
        walked.append(key)
        if isinstance(at, list):
            at = at[_position(at, key, walked)]
            continue
        if not isinstance(at, dict):
            raise RecipeError("has no keys below it", where=".".join(walked[:-1]), seen=key)
        if at.get(key) is None:
            at[key] = {}
        at = at[key]
    if isinstance(at, list):
        at[_position(at, last, [*walked, last])] = value
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise RecipeError("has no keys below it", where=".".join(walked), seen=last)


def _position(items: list[Any], key: str, walked: Sequence[str]) -> int:
    names = [
        item.get("name", str(i)) if isinstance(item, dict) else str(i)
        for i, item in enumerate(items)
    ]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise RecipeError(
        "no such list item",
        where=".".join(walked),
        seen=key,
        accepted=names,
        nearest=nearest_name(key, names),
    )


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("infimed.recipes")
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def _read_yaml(name_or_path: str) -> tuple[dict[str, Any], str]:
    path = Path(name_or_path)
    if name_or_path in recipe_names():
        text = (
            resources.files("infimed.recipes")
            .joinpath(f"{name_or_path}.yaml")
            .read_text(encoding="utf-8")
        )
        where = f"recipe '{name_or_path}'"
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        text = path.read_text(encoding="utf-8")
        where = str(path)
    else:
        names = recipe_names()
        raise RecipeError(
            "no such recipe",
            seen=name_or_path,
            accepted=[*names, "a path to a .yaml file"],
            nearest=nearest_name(name_or_path, names),
        )
    if len(text) > 200_000 or text.count("*") > 200:
        raise RecipeError(
            "the file is too large or uses too many aliases for a recipe", where=where
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"is not valid YAML ({error})", where=where) from error
    if not isinstance(values, dict):
        raise RecipeError("a recipe is a mapping of keys", where=where, seen=type(values).__name__)
    return values, where


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or path, with overrides such as ``train.seed=3`` applied on top.

    A list item is addressed by its name: ``stages.sft-broad.epochs=2``.

    Raises:
        RecipeError: unknown recipe or key, wrong type, or keys that contradict one another.
    """
    values, where = _read_yaml(name_or_path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(
                "an override is written key=value", seen=override, accepted="train.seed=3"
            )
        try:
            value = yaml.safe_load(text) if text else None
        except yaml.YAMLError as error:
            raise RecipeError("the value is not valid YAML", where=key, seen=text) from error
        if key == "data.root" and isinstance(values.get("data"), dict) and value is not None:
            values["data"]["phantom"] = None
        _set(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _as_recipe_error(error, where) from error


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load_recipe` of it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, as unified-diff-like lines of two resolved recipes."""
    before = yaml.safe_dump(dict(old), sort_keys=False).splitlines()
    after = yaml.safe_dump(dict(new), sort_keys=False).splitlines()
    lines = difflib.unified_diff(
        before, after, "recipe of the run folder", "recipe given now", lineterm="", n=2
    )
    return list(lines)


def same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two resolved recipes mean the same; a key that one of them lacks has its default."""
    return canonical_json(_with_defaults(old)) == canonical_json(_with_defaults(new))


def _with_defaults(values: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return Recipe.model_validate(dict(values)).model_dump(mode="json")
    except ValidationError:
        return values
