"""The words around a judge's questions: versioned data with a hash, in the package or the user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from infimed.core.errors import DataError, nearest_name
from infimed.core.files import sha256_json
from infimed.data.fieldmap import Part

Aspect = Literal["answer", "report", "refusal", "criterion", "entails", "contradicts"]
"""What is asked of an answer: the whole of it, or one criterion or gold statement at a time."""
ASPECTS: tuple[str, ...] = get_args(Aspect)


class JudgePrompt(Part):
    """What a judge is told and asked.

    Attributes:
        version: counts up when verdicts stop being comparable. system: who it is and what quoted
            material is. reply: the form of its reply. questions: aspect -> the question.
        max_new_tokens: longest reply. max_question_chars, max_answer_chars: past these the middle of
            a text is cut out, with a mark.
    """

    version: str = Field(min_length=1)
    max_new_tokens: int = Field(400, ge=1)
    max_question_chars: int = Field(24000, ge=100)
    max_answer_chars: int = Field(24000, ge=100)
    system: str = Field(min_length=1)
    reply: str = Field(min_length=1)
    questions: dict[str, str]

    @model_validator(mode="after")
    def asks_every_aspect(self) -> JudgePrompt:
        if set(self.questions) != set(ASPECTS) or not all(map(str.strip, self.questions.values())):
            raise ValueError(f"give one question for each of {', '.join(ASPECTS)}")
        return self

    @property
    def sha256(self) -> str:
        """Hash of everything that is asked."""
        return sha256_json(self.model_dump(mode="json"))

    @property
    def identity(self) -> str:
        """Version and 16 hex digits of the hash, as tables show it."""
        return f"{self.version}/{self.sha256[:16]}"


def prompt_of(value: Any, where: str) -> JudgePrompt:
    """A prompt from plain data.

    Raises:
        DataError: a key is missing, unknown or of the wrong kind.
    """
    try:
        return JudgePrompt.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        unknown = first["type"] == "extra_forbidden"
        name = str(first["loc"][-1]) if first["loc"] else ""
        raise DataError(
            "unknown key" if unknown else first["msg"].removeprefix("Value error, "),
            where=f"{where}: {'.'.join(map(str, first['loc'])) or 'judge prompt'}",
            seen=name if unknown else None,
            accepted=list(JudgePrompt.model_fields) if unknown else None,
            nearest=nearest_name(name, JudgePrompt.model_fields) if unknown else None,
        ) from error


def load_prompt(path: Path | None = None) -> JudgePrompt:
    """The prompt in `path`, or the one in the package.

    Raises:
        DataError: missing or malformed.
    """
    if path is None:
        file = resources.files("infimed.evaluation.judging") / "prompts.yaml"
        return prompt_of(yaml.safe_load(file.read_text("utf-8")), "judging/prompts.yaml")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("file not found", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"is not valid YAML ({error})", where=str(path)) from error
    return prompt_of(value, str(path))
