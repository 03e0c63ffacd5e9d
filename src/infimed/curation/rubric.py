"""The rubric: which rules hold, how severe they are and where their thresholds lie, as data.

The names of the five dimensions follow the published description of the framework, whose details
are not public; everything else here is this project's own. A rubric is versioned, has one content
hash that goes into every ledger, and can be written to and read from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

from infimed.core.errors import RecipeError, nearest_name
from infimed.core.files import sha256_json
from infimed.curation import privacy
from infimed.curation.findings import DIMENSIONS, Finding, Hit
from infimed.curation.rules import (
    accuracy,
    agreement,
    appearance,
    completeness,
    consistency,
    dataset,
    intake,
    measures,
    readability,
    relevance,
    wording,
)
from infimed.curation.rules.base import Limits, Rule, Threshold, finding
from infimed.curation.rules.dataset import DataSetRule
from infimed.curation.signals import IMAGE_LEVELS, ImageLevel, Signals
from infimed.data.record import Record

RUBRIC_VERSION: Final = "2"

RULE_FAILED: Final = "the rule itself failed"

AnyRule: TypeAlias = Rule | DataSetRule

RECORD_RULES: Final[tuple[Rule, ...]] = (
    *intake.RULES,
    *completeness.RULES,
    *accuracy.RULES,
    *consistency.RULES,
    *relevance.RULES,
    *readability.RULES,
    *agreement.RULES,
    *measures.RULES,
    *wording.RULES,
    *appearance.RULES,
    *privacy.RULES,
)
DATASET_RULES: Final[tuple[DataSetRule, ...]] = (*intake.DATASET_RULES, *dataset.RULES)


_Resolved = tuple[Rule, Limits, Limits | None]
"""A rule with its limits, and those of the modality that only the text claims, where they differ."""


def _limits(rule: Rule, modalities: tuple[str, ...], task: str) -> tuple[Limits, Limits | None]:
    """A rule's limits, and those of a second modality family where they differ."""
    first, *rest = (rule.limits(modality, task) for modality in modalities)
    return first, rest[0] if rest and rest[0] != first else None


@dataclass(frozen=True)
class Rubric:
    """The rules in force, in the order in which findings are listed."""

    rules: tuple[Rule, ...]
    dataset_rules: tuple[DataSetRule, ...]
    version: str = RUBRIC_VERSION

    @property
    def all_rules(self) -> tuple[AnyRule, ...]:
        """Record rules, then data-set rules."""
        return (*self.rules, *self.dataset_rules)

    @cached_property
    def order(self) -> dict[str, int]:
        """Rule id -> position."""
        return {rule.id: position for position, rule in enumerate(self.all_rules)}

    @cached_property
    def needs(self) -> ImageLevel:
        """How much of an image must be measured for these rules."""
        return max((rule.needs for rule in self.all_rules), key=IMAGE_LEVELS.index, default="none")

    @cached_property
    def identity(self) -> str:
        """Hash of everything that can change a verdict."""
        return sha256_json(self.to_dict())[:16]

    @property
    def is_catalogue(self) -> bool:
        """Whether `to_dict` says all of it: every check is the catalogue's own."""
        known = {rule.id: rule.check for rule in default_rubric().all_rules}
        return all(known.get(rule.id) is rule.check for rule in self.all_rules)

    @cached_property
    def _resolved(self) -> dict[tuple[tuple[str, ...], str], tuple[_Resolved, ...]]:
        return {}

    def judge(self, record: Record, signals: Signals) -> list[Finding]:
        """All findings of the record rules on one record, in rubric order."""
        key = (signals.limits_modalities, record.task)
        rules = self._resolved.get(key)
        if rules is None:
            rules = tuple((rule, *_limits(rule, *key)) for rule in self.rules)
            self._resolved[key] = rules
        found: list[Finding] = []
        for rule, limits, others in rules:
            try:
                hit = rule.check(record, signals, limits)
                if hit is not None and others is not None:
                    hit = rule.check(record, signals, others)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                # A rule that fails on one odd record is reported there and does not end the pass.
                failed = Hit("record", f"{RULE_FAILED}: {type(error).__name__}")
                found.append(replace(finding(rule, failed), severity="note"))
                continue
            if hit is not None:
                found.append(privacy.without_quotes(record, finding(rule, hit)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The rubric as plain data; `from_dict` inverts it."""
        return {
            "version": self.version,
            "rules": {
                rule.id: {
                    "version": rule.version,
                    "dimension": rule.dimension,
                    "severity": rule.severity,
                    "thresholds": {
                        name: {
                            "value": float(t.value),
                            "by_modality": {k: float(v) for k, v in t.by_modality.items()},
                            "by_task": {k: float(v) for k, v in t.by_task.items()},
                        }
                        for name, t in rule.thresholds.items()
                    },
                }
                for rule in self.all_rules
            },
        }

    @staticmethod
    def from_dict(
        value: Mapping[str, Any], where: str = "rubric", made: Sequence[DataSetRule] = ()
    ) -> Rubric:
        """The default catalogue restricted to the named rules, with their settings.

        Args:
            made: rules made for one ledger (a leak against a benchmark), which may be named too; they
                come before the catalogue's data-set rules.

        Raises:
            RecipeError: unknown rule, severity or threshold, another rule version, or not a number.
        """
        chosen = value.get("rules")
        if not isinstance(chosen, Mapping):
            raise RecipeError("a rubric needs the key 'rules'", where=where)
        known: dict[str, AnyRule] = {rule.id: rule for rule in (*default_rubric().all_rules, *made)}
        for name in chosen:
            if name not in known:
                raise _unknown("rule", name, known, where)
        here = {
            name: _configured(known[name], chosen[name] or {}, f"{where}: {name}")
            for name in chosen
        }
        over_the_set = (*made, *DATASET_RULES)
        return Rubric(
            tuple(here[rule.id] for rule in RECORD_RULES if rule.id in here),  # type: ignore[misc]
            tuple(here[rule.id] for rule in over_the_set if rule.id in here),  # type: ignore[misc]
            str(value.get("version", RUBRIC_VERSION)),
        )

    def only(self, patterns: Sequence[str]) -> Rubric:
        """A copy with the rules that match a pattern: ``duplication.*``, ``completeness.cut_text``.

        What no rule of it needs is not measured; without a rule on images none is opened.

        Raises:
            RecipeError: a pattern that matches no rule.
        """
        for pattern in patterns:
            if not any(fnmatchcase(rule.id, pattern) for rule in self.all_rules):
                raise _unknown("rule", pattern, self.order, "--only")

        def chosen(rule: AnyRule) -> bool:
            return any(fnmatchcase(rule.id, pattern) for pattern in patterns)

        return replace(
            self,
            rules=tuple(filter(chosen, self.rules)),
            dataset_rules=tuple(filter(chosen, self.dataset_rules)),
        )

    def with_settings(self, settings: Mapping[str, str | float]) -> Rubric:
        """A copy with dotted settings changed.

        ``completeness.cut_text`` takes "drop", "note" or "off"; a threshold is named below its rule:
        ``readability.small_image.min_side`` takes a number.

        Raises:
            RecipeError: unknown name or value.
        """
        data = self.to_dict()
        rules: dict[str, Any] = data["rules"]
        for name, setting in settings.items():
            if name in rules:
                if setting == "off":
                    del rules[name]
                else:
                    rules[name]["severity"] = setting
                continue
            rule, _, threshold = name.rpartition(".")
            if rule not in rules:
                raise _unknown("rule or threshold", name, rules, "--set")
            limits = rules[rule]["thresholds"]
            if threshold not in limits:
                raise _unknown("threshold", threshold, limits, f"--set {rule}")
            # A plain number replaces the special cases too: what the user sets is what holds.
            limits[threshold] = {"value": setting}
        catalogue = {rule.id for rule in DATASET_RULES}
        made = [rule for rule in self.dataset_rules if rule.id not in catalogue]
        return Rubric.from_dict(data, "--set", made)

    @staticmethod
    def load(path: Path) -> Rubric:
        """Read a rubric from YAML or JSON.

        Raises:
            RecipeError: missing, malformed or with unknown names.
        """
        import yaml

        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RecipeError("file not found", where=str(path)) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"is not valid YAML ({error})", where=str(path)) from error
        if not isinstance(value, dict):
            raise RecipeError("a rubric is a mapping with the key 'rules'", where=str(path))
        return Rubric.from_dict(value, str(path))


def default_rubric() -> Rubric:
    """Every rule at its default."""
    return Rubric(RECORD_RULES, DATASET_RULES)


def _unknown(kind: str, name: str, known: Mapping[str, Any], where: str) -> RecipeError:
    return RecipeError(
        f"unknown {kind}", where=where, seen=name, nearest=nearest_name(name, known),
        accepted=None if len(known) > 12 else known, fix="list all with: infimed curate rules",
    )  # fmt: skip


def _configured(rule: AnyRule, setting: Mapping[str, Any], where: str) -> AnyRule:
    version = setting.get("version", rule.version)
    if version != rule.version:
        raise RecipeError(
            "the rule has changed since this rubric was written",
            where=where,
            seen=version,
            accepted=str(rule.version),
        )
    severity = setting.get("severity", rule.severity)
    if severity not in ("drop", "note"):
        raise RecipeError(
            "unknown severity", where=where, seen=severity, accepted="drop, note, off"
        )
    thresholds = dict(rule.thresholds)
    for name, value in (setting.get("thresholds") or {}).items():
        if name not in thresholds:
            raise _unknown("threshold", name, thresholds, where)
        thresholds[name] = _threshold(thresholds[name], value, f"{where}.{name}")
    return replace(rule, severity=severity, thresholds=thresholds)


def _threshold(default: Threshold, value: Any, where: str) -> Threshold:
    setting = value if isinstance(value, Mapping) else {"value": value}
    numbers = [setting.get("value", default.value)]
    tables = [dict(setting.get(key) or {}) for key in ("by_modality", "by_task")]
    for number in (*numbers, *(n for table in tables for n in table.values())):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number:
            raise RecipeError("a threshold is a number", where=where, seen=number)
    return Threshold(float(numbers[0]), default.meaning, *tables)


def dimension_counts(rubric: Rubric) -> dict[str, int]:
    """How many rules each dimension has."""
    return {name: sum(r.dimension == name for r in rubric.all_rules) for name in DIMENSIONS}
