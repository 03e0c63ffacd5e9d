"""A JSON schema as an automaton over bytes: which bytes may come next, and whether the value may end here.

A schema without recursion describes a regular language, so the values are those of a finite automaton; it is
built as an NFA (Thompson 1968) and made deterministic state by state where an answer walks. JSON is
written in one way only: the properties in the schema's order, ``", "`` and ``": "`` between them, no other white
space, which is what `json.dumps` writes. Every string of valid UTF-8 is a value of a plain ``string``.

Accepted: type (or a list of types), properties, required (all of them), additionalProperties: false, items,
minItems, maxItems, enum, const, anyOf, minLength, maxLength, and $ref into $defs without recursion, as in
the strict mode of OpenAI's API. Anything else is refused by name, so no constraint is silently left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from infimed.serving.refusals import Refusal

MOST_ITEMS: Final = 64
MOST_CHARACTERS: Final = 1000
MOST_DEPTH: Final = 16
MOST_OPTIONS: Final = 256
MOST_SCHEMAS: Final = 16
DEAD: Final = -1
_NOTES: Final = frozenset({"title", "description", "$schema", "$defs", "default", "examples"})
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_KEYWORDS: Final = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
}
_REF: Final = re.compile(r"#/\$defs/([A-Za-z0-9_.-]{1,64})")

_Ranges: TypeAlias = tuple[tuple[int, int], ...]
_Form: TypeAlias = tuple[_Ranges, ...]
_HEX: Final = ((0x30, 0x39), (0x41, 0x46), (0x61, 0x66))
_TAIL: Final = ((0x80, 0xBF),)
_CHARACTERS: Final[tuple[_Form, ...]] = (
    # One character of a JSON string: printable ASCII but " and \, then well-formed UTF-8 (RFC 3629, 4).
    (((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F)),),
    (((0xC2, 0xDF),), _TAIL),
    (((0xE0, 0xE0),), ((0xA0, 0xBF),), _TAIL),
    (((0xE1, 0xEC), (0xEE, 0xEF)), _TAIL, _TAIL),
    (((0xED, 0xED),), ((0x80, 0x9F),), _TAIL),
    (((0xF0, 0xF0),), ((0x90, 0xBF),), _TAIL, _TAIL),
    (((0xF1, 0xF3),), _TAIL, _TAIL, _TAIL),
    (((0xF4, 0xF4),), ((0x80, 0x8F),), _TAIL, _TAIL),
    (((0x5C, 0x5C),), tuple((ord(c), ord(c)) for c in '"\\/bfnrt')),
    # \uXXXX, but no half of a surrogate pair.
    (((0x5C, 0x5C),), ((0x75, 0x75),), ((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)), _HEX, _HEX, _HEX),
    (((0x5C, 0x5C),), ((0x75, 0x75),), ((0x44, 0x44), (0x64, 0x64)), ((0x30, 0x37),), _HEX, _HEX),
)  # fmt: skip
_DIGITS: Final = ((0x30, 0x39),)


class Automaton:
    """The values of a schema; a state is a number, `START` the first.

    Attributes:
        states: of the NFA.
    """

    START: Final = 0

    def __init__(self, schema: Mapping[str, Any], most_states: int) -> None:
        self._most = most_states
        self._jumps: list[list[int]] = []
        self._edges: list[list[tuple[int, int, int]]] = []
        begin = self._new()
        self._end = _Builder(self, schema).value(begin, schema, "schema", ())
        self._sets: list[frozenset[int]] = [self._closure({begin})]
        self._numbers: dict[frozenset[int], int] = {self._sets[0]: 0}
        self._moves: dict[tuple[int, int], int] = {}
        self._bytes: dict[int, list[int]] = {}

    @property
    def states(self) -> int:
        """States of the NFA."""
        return len(self._jumps)

    def step(self, state: int, byte: int) -> int:
        """The state after a byte, or `DEAD`."""
        key = (state, byte)
        found = self._moves.get(key)
        if found is None:
            ends = {
                end
                for at in self._sets[state]
                for low, high, end in self._edges[at]
                if low <= byte <= high
            }
            found = self._number(self._closure(ends)) if ends else DEAD
            self._moves[key] = found
        return found

    def walk(self, state: int, text: bytes) -> int:
        """The state after all bytes of `text`, or `DEAD`."""
        for byte in text:
            state = self.step(state, byte)
            if state == DEAD:
                break
        return state

    def accepts(self, state: int) -> bool:
        """Whether the value may end here."""
        return self._end in self._sets[state]

    def next_bytes(self, state: int) -> list[int]:
        """Bytes that may follow."""
        if state not in self._bytes:
            found: set[int] = set()
            for at in self._sets[state]:
                for low, high, _ in self._edges[at]:
                    found.update(range(low, high + 1))
            self._bytes[state] = sorted(found)
        return self._bytes[state]

    def _new(self) -> int:
        if len(self._jumps) >= self._most:
            raise Refusal("invalid_schema", param="response_format", detail="it is too large")
        self._jumps.append([])
        self._edges.append([])
        return len(self._jumps) - 1

    def _closure(self, states: set[int]) -> frozenset[int]:
        seen, waiting = set(states), list(states)
        while waiting:
            for end in self._jumps[waiting.pop()]:
                if end not in seen:
                    seen.add(end)
                    waiting.append(end)
        return frozenset(seen)

    def _number(self, states: frozenset[int]) -> int:
        if states not in self._numbers:
            self._numbers[states] = len(self._sets)
            self._sets.append(states)
        return self._numbers[states]

    def jump(self, begin: int, end: int) -> None:
        """Let `end` follow `begin` without a byte."""
        self._jumps[begin].append(end)

    def edge(self, begin: int, ranges: _Ranges, end: int) -> None:
        """Let one byte of the ranges lead from `begin` to `end`."""
        self._edges[begin].extend((low, high, end) for low, high in ranges)

    def one(self, begin: int, ranges: _Ranges) -> int:
        """The state after one byte of the ranges."""
        end = self._new()
        self.edge(begin, ranges, end)
        return end

    def literal(self, begin: int, text: bytes) -> int:
        """The state after these bytes."""
        for byte in text:
            begin = self.one(begin, ((byte, byte),))
        return begin

    def fork(self) -> int:
        """A state that nothing leads to yet."""
        return self._new()


def _json(value: object) -> bytes:
    """A value as `json.dumps` writes it."""
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal("invalid_text", param="response_format") from None


class _Builder:
    """Adds the values of schemas to an automaton; every method returns the state behind a value."""

    def __init__(self, automaton: Automaton, root: Mapping[str, Any]) -> None:
        self.automaton = automaton
        named = root.get("$defs")
        self.definitions: Mapping[str, Any] = named if isinstance(named, dict) else {}

    def value(self, begin: int, schema: object, place: str, path: tuple[str, ...]) -> int:
        if not isinstance(schema, Mapping):
            raise self._refusal(place, "an object is expected")
        if len(path) > MOST_DEPTH:
            raise self._refusal(place, "it is nested too deeply")
        if "$ref" in schema:
            return self._reference(begin, schema, place, path)
        if "enum" in schema or "const" in schema:
            self._only(schema, {"enum", "const", "type"}, place)
            options = schema["enum"] if "enum" in schema else [schema["const"]]
            if not isinstance(options, list) or not 0 < len(options) <= MOST_OPTIONS:
                raise self._refusal(place, f"an enum has 1 to {MOST_OPTIONS} values")
            end = self.automaton.fork()
            for option in options:
                self.automaton.jump(self.automaton.literal(begin, _json(option)), end)
            return end
        if "anyOf" in schema:
            self._only(schema, {"anyOf"}, place)
            options = schema["anyOf"]
            if not isinstance(options, list) or not 0 < len(options) <= MOST_SCHEMAS:
                raise self._refusal(place, f"anyOf has 1 to {MOST_SCHEMAS} schemas")
            end = self.automaton.fork()
            for number, option in enumerate(options):
                here = (*path, f"anyOf.{number}")
                self.automaton.jump(self.value(begin, option, f"{place}.anyOf", here), end)
            return end
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not kinds or not all(k in _TYPES for k in kinds):
            raise self._refusal(place, f"its type is one of {', '.join(_TYPES)}")
        allowed = {"type"}.union(*(_KEYWORDS.get(kind, set()) for kind in kinds))
        self._only(schema, allowed, place)
        end = self.automaton.fork()
        for kind in kinds:
            self.automaton.jump(self._typed(begin, kind, schema, place, path), end)
        return end

    def _typed(
        self, begin: int, kind: str, schema: Mapping[str, Any], place: str, path: tuple[str, ...]
    ) -> int:
        if kind == "object":
            return self._object(begin, schema, place, path)
        if kind == "array":
            return self._array(begin, schema, place, path)
        if kind == "string":
            return self._string(begin, schema, place)
        if kind in ("number", "integer"):
            return self._number(begin, whole=kind == "integer")
        end = self.automaton.fork()
        for word in (b"true", b"false") if kind == "boolean" else (b"null",):
            self.automaton.jump(self.automaton.literal(begin, word), end)
        return end

    def _reference(
        self, begin: int, schema: Mapping[str, Any], place: str, path: tuple[str, ...]
    ) -> int:
        self._only(schema, {"$ref"}, place)
        match = _REF.fullmatch(schema["$ref"]) if isinstance(schema["$ref"], str) else None
        name = match[1] if match else ""
        if name not in self.definitions:
            raise self._refusal(place, "a $ref names one of $defs")
        if f"$ref.{name}" in path:
            raise self._refusal(place, "it refers to itself")
        return self.value(begin, self.definitions[name], place, (*path, f"$ref.{name}"))

    def _object(
        self, begin: int, schema: Mapping[str, Any], place: str, path: tuple[str, ...]
    ) -> int:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties", True) is not False:
            raise self._refusal(place, "an object needs additionalProperties: false")
        if not isinstance(properties, Mapping) or schema.get("required", []) != list(properties):
            named = schema.get("required")
            if not isinstance(named, list) or not isinstance(properties, Mapping):
                raise self._refusal(place, "properties and required are expected")
            if not all(isinstance(n, str) for n in named) or set(named) != set(properties):
                raise self._refusal(place, "every property is required")
        at = self.automaton.literal(begin, b"{")
        for number, (name, inner) in enumerate(properties.items()):
            at = self.automaton.literal(at, (b", " if number else b"") + _json(name) + b": ")
            at = self.value(at, inner, f"{place}.properties", (*path, f"property.{number}"))
        return self.automaton.literal(at, b"}")

    def _array(
        self, begin: int, schema: Mapping[str, Any], place: str, path: tuple[str, ...]
    ) -> int:
        if "items" not in schema:
            raise self._refusal(place, "an array needs items")
        least = self._count(schema, "minItems", 0, MOST_ITEMS, place)
        most = self._count(schema, "maxItems", MOST_ITEMS, MOST_ITEMS, place)
        if least > most:
            raise self._refusal(place, "minItems is more than maxItems")
        at = self.automaton.literal(begin, b"[")
        last = self.automaton.fork()
        for number in range(most):
            if number >= least:
                self.automaton.jump(at, last)
            if number:
                at = self.automaton.literal(at, b", ")
            at = self.value(at, schema["items"], f"{place}.items", (*path, "items"))
        self.automaton.jump(at, last)
        return self.automaton.literal(last, b"]")

    def _string(self, begin: int, schema: Mapping[str, Any], place: str) -> int:
        least = self._count(schema, "minLength", 0, MOST_CHARACTERS, place)
        at = self.automaton.literal(begin, b'"')
        for _ in range(least):
            at = self._character(at)
        if "maxLength" in schema:
            most = self._count(schema, "maxLength", 0, MOST_CHARACTERS, place)
            if least > most:
                raise self._refusal(place, "minLength is more than maxLength")
            last = self.automaton.fork()
            for _ in range(most - least):
                self.automaton.jump(at, last)
                at = self._character(at)
            self.automaton.jump(at, last)
            at = last
        else:
            loop = self.automaton.fork()
            self.automaton.jump(at, loop)
            self.automaton.jump(self._character(loop), loop)
            at = loop
        return self.automaton.literal(at, b'"')

    def _character(self, begin: int) -> int:
        """Forms that end alike share their states, so that a long `maxLength` stays within the limit."""
        end = self.automaton.fork()
        shared: dict[_Form, int] = {(): end}

        def before(rest: _Form) -> int:
            """The state from which `rest` leads to the end."""
            if rest not in shared:
                shared[rest] = self.automaton.fork()
                self.automaton.edge(shared[rest], rest[0], before(rest[1:]))
            return shared[rest]

        for first, *rest in _CHARACTERS:
            self.automaton.edge(begin, first, before(tuple(rest)))
        return end

    def _number(self, begin: int, *, whole: bool) -> int:
        """At most 15 digits before and behind the point, so that a number comes to its end."""
        signed = self.automaton.literal(begin, b"-")
        self.automaton.jump(begin, signed)
        end = self.automaton.fork()
        self.automaton.jump(self.automaton.literal(signed, b"0"), end)
        at = self.automaton.one(signed, ((0x31, 0x39),))
        self.automaton.jump(self._digits(at, 14), end)
        if whole:
            return end
        point = self.automaton.one(self.automaton.literal(end, b"."), _DIGITS)
        behind = self._digits(point, 14)
        last = self.automaton.fork()
        self.automaton.jump(end, last)
        self.automaton.jump(behind, last)
        sign = self.automaton.one(last, ((0x45, 0x45), (0x65, 0x65)))
        power = self.automaton.one(sign, ((0x2B, 0x2B), (0x2D, 0x2D)))
        self.automaton.jump(sign, power)
        done = self.automaton.fork()
        self.automaton.jump(last, done)
        self.automaton.jump(self.automaton.one(power, _DIGITS), done)
        return done

    def _digits(self, begin: int, most: int) -> int:
        end = self.automaton.fork()
        for _ in range(most):
            self.automaton.jump(begin, end)
            begin = self.automaton.one(begin, _DIGITS)
        self.automaton.jump(begin, end)
        return end

    def _count(
        self, schema: Mapping[str, Any], name: str, default: int, most: int, place: str
    ) -> int:
        value = schema.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self._refusal(place, f"{name} is 0 to {most}")
        return value

    def _only(self, schema: Mapping[str, Any], allowed: set[str], place: str) -> None:
        for name in schema:
            if name not in allowed | _NOTES:
                shown = name if re.fullmatch(r"[$A-Za-z]{1,40}", str(name)) else "a keyword"
                raise self._refusal(place, f"{shown} is not supported")

    def _refusal(self, place: str, detail: str) -> Refusal:
        return Refusal(
            "invalid_schema", param=f"response_format.json_schema.{place}", detail=detail
        )
