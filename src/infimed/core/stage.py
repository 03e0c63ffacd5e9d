"""A stage of training, as a recipe describes it."""

from __future__ import annotations

from typing import Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_TEXT_TOKENS = 32
"""A row must hold its images and at least this much text."""

Tiling: TypeAlias = tuple[int, int]
"""Most tiles of an image, and the side of each in pixels."""
NO_TILING: Final[Tiling] = (0, 0)


class Part(BaseModel):
    """A section of the recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LearningRate(Part):
    """Peak learning rate per module; 0 freezes it."""

    vision: float = Field(0.0, ge=0)
    projector: float = Field(0.0, ge=0)
    language: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def something_learns(self) -> Self:
        if self.vision == self.projector == self.language == 0:
            raise ValueError("every module is frozen; give at least one a learning rate above 0")
        return self


class Lora(Part):
    """Low-rank adapters on linear layers of the language model, whose own weights then stay frozen."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float | None = Field(
        None, gt=0, description="adapters are scaled by alpha / rank; null = twice the rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs left out")
    targets: list[str] = Field(
        default_factory=list,
        description="names of linear layers, e.g. [q_proj, v_proj]; empty = all in the decoder",
    )

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank


class Stage(Part):
    """One stretch of training. Low-to-high resolution is two stages with different grids."""

    name: str
    image_size: int = Field(ge=8, description="side of the square image, pixels")
    visual_tokens: int = Field(ge=1, description="tokens per image after pooling; a square number")
    tiles: int = Field(
        0,
        ge=0,
        le=36,
        description="show large images also as a grid of at most so many squares; 0 = squashed only",
    )
    row_tokens: int = Field(ge=16, description="most tokens in one packed row")
    rows_per_step: int = Field(1, ge=1, description="packed rows per optimizer step")
    samples_per_step: int | None = Field(
        None, ge=1, description="records per optimizer step, on average, instead of rows"
    )
    targets_per_step: int | None = Field(
        None, ge=1, description="target tokens per optimizer step, on average, instead of rows"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the mixture")
    max_rows: int | None = Field(None, ge=1, description="stop after so many rows")
    mixture: dict[str, float] = Field(
        default_factory=dict,
        description="times each record of a task is seen per epoch; empty = every record once",
    )
    mixture_of: Literal["task", "source"] = Field(
        "task", description="what the mixture names: tasks, or the data sets that records come from"
    )
    mixture_unit: Literal["samples", "tokens"] = Field(
        "samples",
        description="tokens: the mixture gives shares of an epoch's tokens, not times a record is seen",
    )
    decay_mixture: dict[str, float] = Field(
        default_factory=dict,
        description="mixture of the rows of the decay phase; warmup-stable-decay only",
    )
    over_long: Literal["drop", "split", "shrink"] = Field(
        "drop",
        description="records longer than a row: left out, split between turns, or fewer visual tokens",
    )
    where: dict[str, list[str | int | float | bool]] = Field(
        default_factory=dict,
        description="keep records whose facts have one of these values, e.g. {modality: [CT]}",
    )
    learning_rate: LearningRate
    lora: Lora | None = Field(
        None, description="train adapters at the language rate; merged when the stage ends"
    )
    schedule: Literal["cosine", "warmup-stable-decay"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    decay: float = Field(
        0.2, gt=0, le=1, description="share of the steps, warmup-stable-decay only"
    )
    question_weight: float = Field(
        0.0, ge=0, description="weight of the mean loss over the words of the questions themselves"
    )
    weighting: Literal["token", "document", "sqrt"] = Field(
        "token",
        description="what counts the same in the loss: every target token, every sample, or between",
    )
    isolation: Literal["document", "row"] = Field(
        "document",
        description="row lets the documents of a row see one another, as recipes without separation do",
    )
    share_images: bool = Field(True, description="all questions about one image in one document")
    row_order: Literal["shuffled", "length"] = Field(
        "shuffled",
        description="documents that share a row come by chance, or by length: cheaper attention, worse models",
    )
    augment: float = Field(
        0.0, ge=0, le=1, description="strength of brightness, contrast, shift, zoom"
    )
    max_images: int = Field(
        64, ge=1, description="most images in one row; every tile counts as one"
    )

    @property
    def views(self) -> int:
        """Most views of one image: all of it, and its tiles."""
        return 1 + self.tiles

    @property
    def tiling(self) -> Tiling:
        """What decides how many views an image has: equal for stages that show images as often."""
        return (self.tiles, self.image_size) if self.tiles else NO_TILING

    @property
    def grid(self) -> str:
        """The grid, for people."""
        tiled = f", up to {self.tiles} tiles" if self.tiles else ""
        return f"{self.image_size} px / {self.visual_tokens}{tiled}"

    @model_validator(mode="after")
    def adapters_learn(self) -> Self:
        if self.lora is not None and self.learning_rate.language == 0:
            raise ValueError(
                "lora needs learning_rate.language above 0: adapters learn at that rate"
            )
        return self

    @model_validator(mode="after")
    def row_holds_an_image(self) -> Self:
        shown = f"{self.views} views of an image, each" if self.tiles else "one image"
        if self.row_tokens < self.views * self.visual_tokens + MIN_TEXT_TOKENS:
            raise ValueError(
                f"row_tokens={self.row_tokens} cannot hold {shown} of {self.visual_tokens} visual "
                f"tokens and {MIN_TEXT_TOKENS} tokens of text"
            )
        if self.max_images < self.views:
            raise ValueError(
                f"max_images={self.max_images} cannot hold an image with tiles={self.tiles}: "
                f"give at least {self.views}"
            )
        if self.tiles == 1:
            raise ValueError("one tile is the whole image again: give tiles=0, or at least 2")
        return self

    @model_validator(mode="after")
    def one_batch_size(self) -> Self:
        other = [self.samples_per_step, self.targets_per_step]
        given = sum(size is not None for size in other) + (self.rows_per_step != 1)
        if given > 1:
            raise ValueError("give one of rows_per_step, samples_per_step and targets_per_step")
        return self

    @model_validator(mode="after")
    def mixtures_add_up(self) -> Self:
        if self.mixture_unit == "tokens" and not self.mixture:
            raise ValueError(
                "mixture_unit: tokens needs a mixture, e.g. {report: 0.7, closed: 0.3}"
            )
        if self.decay_mixture and self.schedule != "warmup-stable-decay":
            raise ValueError("decay_mixture needs schedule: warmup-stable-decay")
        for name, weight in [*self.mixture.items(), *self.decay_mixture.items()]:
            if weight < 0:
                raise ValueError(f"the weight of {name!r} in a mixture is {weight}, below 0")
        return self
