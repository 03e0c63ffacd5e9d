"""What the server takes, how long it waits, and what it may keep: one typed object, from a YAML file or the defaults.

The defaults are those of `docs/serving.md`. Sizes are in bytes, pixels, tokens or characters and times in
seconds, as the names say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infimed.core.errors import DataError, UsageError, nearest_name

MEBIBYTE = 2**20
Part = TypeVar("Part", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(_Part):
    """What one request, one client and all of them together may bring."""

    requests: int = Field(64, ge=1, description="requests in flight, the waiting ones included")
    requests_per_client: int = Field(32, ge=1, description="of them, by one key or address")
    body_bytes: int = Field(20 * MEBIBYTE, ge=1024)
    bytes_in_flight: int = Field(256 * MEBIBYTE, ge=1024, description="of all bodies together")
    json_depth: int = Field(16, ge=4)
    json_marks: int = Field(100_000, ge=100, description="commas and opening brackets of a body")
    messages: int = Field(256, ge=1)
    images: int = Field(4, ge=0, description="of a request")
    image_bytes: int = Field(10 * MEBIBYTE, ge=1024)
    image_pixels: int = Field(40_000_000, ge=64)
    request_pixels: int = Field(80_000_000, ge=64, description="of all images of a request")
    image_side: int = Field(8, ge=1, description="smallest width and height, pixels")
    prompt_characters: int = Field(65_536, ge=1)
    prompt_tokens: int = Field(8192, ge=1, description="visual ones included")
    new_tokens: int = Field(2048, ge=1)
    default_new_tokens: int = Field(256, ge=1, description="where a request does not say")
    stop_strings: int = Field(4, ge=0)
    stop_characters: int = Field(64, ge=1)
    top_logprobs: int = Field(20, ge=0)
    evidence_grid: int = Field(32, ge=2, le=32, description="cells of a side of an evidence map")
    schema_states: int = Field(20_000, ge=100, description="of the automaton of a JSON schema")
    upload_bytes: int = Field(256 * MEBIBYTE, ge=0, description="of all uploads that are kept")
    upload_bytes_per_client: int = Field(64 * MEBIBYTE, ge=0, description="of them, of one client")


class Times(_Part):
    """How long each part of a request may take, seconds."""

    header: float = Field(5, gt=0)
    body: float = Field(30, gt=0)
    decode: float = Field(10, gt=0, description="of one image")
    queue: float = Field(60, gt=0)
    generate: float = Field(300, gt=0)
    idle_stream: float = Field(30, gt=0, description="a client that does not read its answer")
    drain: float = Field(30, gt=0, description="for answers that are written when the server stops")
    upload: float = Field(600, gt=0, description="an upload is kept, then forgotten")
    retry_after: int = Field(2, ge=1, description="what a refused client is told to wait")


class EngineSettings(_Part):
    """What the model's process holds."""

    running: int = Field(32, ge=1, description="answers that are written at the same time")
    joining: int = Field(8, ge=1, description="requests that join them between two steps")
    cache_bytes: int = Field(4096 * MEBIBYTE, ge=MEBIBYTE, description="keys and values, running")
    feature_bytes: int = Field(256 * MEBIBYTE, ge=0, description="image features kept for later")
    prefix_bytes: int = Field(256 * MEBIBYTE, ge=0, description="keys and values kept for later")


class DecoderSettings(_Part):
    """The processes that decode images."""

    workers: int = Field(2, ge=1)
    memory_bytes: int = Field(1536 * MEBIBYTE, ge=64 * MEBIBYTE, description="of each, at most")


class Start(_Part):
    """What the command line says, option by option and with its names; an option that is given wins.

    Attributes:
        run, api_key_file, backend_key_file, audit, audit_key_file, index: paths; in a file relative to its folder.
    """

    run: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key_file: str | None = None
    allow_host: tuple[str, ...] = ()
    name: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "cpu"
    backend: str | None = None
    backend_model: str | None = None
    backend_key_file: str | None = None
    audit: str | None = None
    audit_key_file: str | None = None
    page: bool | None = None
    open_page: bool = False
    index: str | None = None

    def given(self, **options: object) -> Start:
        """With the options of a command line; None is one that was not given.

        A run on the command line takes the place of a backend in the file, and the other way round.

        Raises:
            UsageError: a value is not accepted, or there is nothing to serve, or two things.
        """
        said = {name: value for name, value in options.items() if value is not None}
        own = self.model_dump()
        if "run" in said and "backend" not in said:
            own["backend"] = None
        if "backend" in said and "run" not in said:
            own["run"] = None
        made = _validated(Start, own | said, "the command line")
        if (made.run is None) == (made.backend is None):
            raise UsageError(
                "give a run or --backend URL, one of them", fix="infimed serve runs/nano"
            )
        if made.index is not None and made.run is None:
            raise UsageError(
                "an index needs the model in this process", where="--index", fix="give a run"
            )
        if made.open_page and made.page is False:
            raise UsageError("--open and --no-page do not go together", fix="give one of them")
        if (made.audit is None) != (made.audit_key_file is None):
            raise UsageError(
                "--audit and --audit-key-file go together",
                fix="openssl rand -hex 32 > audit.key, then --audit FILE --audit-key-file audit.key",
            )
        return made


PATHS: Final = ("run", "api_key_file", "backend_key_file", "audit", "audit_key_file", "index")


class Settings(_Part):
    """All of it.

    Attributes:
        serve: what to serve, and where; see `Start`.
        image_hosts: from which images may be fetched, ``host`` or ``host:port``; none by default.
        backend_control: further control tokens of the model behind `--backend`, refused in texts.
    """

    serve: Start = Start()
    limits: Limits = Limits()
    times: Times = Times()
    engine: EngineSettings = EngineSettings()
    decoder: DecoderSettings = DecoderSettings()
    image_hosts: tuple[str, ...] = ()
    backend_control: tuple[str, ...] = ()


def read_settings(path: Path | None) -> Settings:
    """The settings in a YAML file, or the defaults.

    Raises:
        DataError: the file cannot be read or is no YAML mapping.
        UsageError: a name is unknown or a value is not accepted.
    """
    if path is None:
        return Settings()
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"the settings cannot be read ({type(error).__name__})", where=str(path)
        ) from error
    if value is None:
        return Settings()
    if not isinstance(value, dict):
        raise DataError("settings are a mapping of names to values", where=str(path))
    made = checked(value, str(path))
    own = {name: getattr(made.serve, name) for name in PATHS}
    found = {name: str(path.parent / said) for name, said in own.items() if said is not None}
    return made.model_copy(update={"serve": made.serve.model_copy(update=found)})


def checked(value: dict[str, Any], where: str) -> Settings:
    """Settings of a mapping.

    Raises:
        UsageError: a name is unknown or a value is not accepted.
    """
    return _validated(Settings, _tuples(value), where)


def _tuples(value: object) -> Any:
    """Lists as tuples: strict models take no list for one, and a YAML file has no other."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _validated(kind: type[Part], value: dict[str, Any], where: str) -> Part:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _names(kind, first["loc"][:-1])
            raise UsageError(
                "no such setting",
                where=where,
                seen=place,
                accepted=known,
                nearest=nearest_name(str(first["loc"][-1]), known),
            ) from error
        raise UsageError(
            f"{place}: {first['msg']}", where=where, seen=str(first["input"])[:80]
        ) from error


def _names(part: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for name in place:
        inner = part.model_fields[str(name)].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        part = inner
    return list(part.model_fields)
