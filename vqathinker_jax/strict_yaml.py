"""YAML into frozen dataclasses by their type hints; whatever does not fit is an error that says so.

Files and command-line overrides are layers: each sets some keys, later ones win, and the defaults
of the dataclasses fill the rest.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vqathinker_jax.yaml_values import (
    COMMAND_LINE,
    TAG,
    ConfigError,
    all_keys,
    compose,
    convert,
    described,
    entries_of,
    hints_of,
    nested_class,
    place_of,
    text_of,
)

C = TypeVar("C")

EXTENDS = "extends"
"""Top-level key naming the file, relative to this one, whose settings this one changes."""
BEFORE = "before"
"""Top-level key holding changes to these settings for a stage that comes before theirs."""


class Settings:
    """What the layers set of a configuration class, before it is built.

    Args:
      cls: the frozen dataclass; its fields are numbers, text, truth values, tuples, unions of
        these, and other such dataclasses.
      named: for a dataclass that may be given by name instead of key by key, its values by name.
    """

    def __init__(self, cls: type[C], named: Mapping[type, Mapping[str, Any]] | None = None):
        self._cls = cls
        self._named = named or {}
        self._values: dict[str, Any] = {}
        self._origins: dict[str, tuple[str, str]] = {}
        """Key -> where it was set, and as what: with `before.` if for that stage alone."""
        self._before: list[Mapping[str, yaml.Node]] = []
        self._label = ""
        self._name = COMMAND_LINE

    def read_file(self, path: Path, extended_by: tuple[Path, ...] = ()) -> None:
        """Adds a file, after the one that it extends.

        Raises:
          ConfigError: the file cannot be read, or sets something that there is not.
        """
        self._name = str(path)
        if path.resolve() in extended_by:
            raise ConfigError(f"{path}: {EXTENDS}: the file extends itself")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"{path}: cannot be read ({reason})") from None
        node = compose(text, str(path))
        if node is None:
            node = yaml.MappingNode(f"{TAG}map", [])
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected `key: value` lines, got {text_of(node)}")
        entries = entries_of(node, "")
        if EXTENDS in entries:
            base = convert(str, entries.pop(EXTENDS), EXTENDS)
            self.read_file(path.parent / base, (*extended_by, path.resolve()))
            self._name = str(path)
        self._add(entries)

    def read_arguments(self, arguments: Sequence[str]) -> None:
        """Adds `--a.b value` and `--a.b=value` pairs; values are YAML.

        Raises:
          ConfigError: an argument that is no such pair, or sets something that there is not.
        """
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            option, equals, value = argument.partition("=")
            if not option.startswith("--") or option == "--":
                raise ConfigError(f"{COMMAND_LINE}: expected --key value, got {argument!r}")
            key = option[2:]
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise ConfigError(f"{COMMAND_LINE}: --{key}: needs a value")
                value = rest.pop(0)
            node = compose(value, COMMAND_LINE)
            if node is None:
                raise ConfigError(f"{COMMAND_LINE}: --{key}: needs a value")
            for part in reversed(key.split(".")):
                mark = node.start_mark
                name = yaml.ScalarNode(f"{TAG}str", part, mark, mark)
                node = yaml.MappingNode(f"{TAG}map", [(name, node)], mark, mark)
            self._add(entries_of(node, ""))

    def _add(self, entries: dict[str, yaml.Node]) -> None:
        if BEFORE in entries:
            node = entries.pop(BEFORE)
            if isinstance(node, yaml.MappingNode):
                self._before.append(entries_of(node, f"{BEFORE}."))
            elif node.tag == f"{TAG}null":
                self._before.clear()
            else:
                raise ConfigError(
                    f"{place_of(node)}: {BEFORE}: expected a section with changes to these "
                    f"settings, or null, got {text_of(node)}"
                )
        self._set_all(self._cls, entries, self._values, "")

    def stage_before(self) -> Settings | None:
        """The settings of the stage that comes first: these, with what `before` changes on top.

        None where nothing was said of such a stage, or `before: null` last.

        Raises:
          ConfigError: `before` sets something that there is not.
        """
        if not self._before:
            return None
        stage = Settings(self._cls, self._named)
        stage._values = copy.deepcopy(self._values)
        stage._origins = dict(self._origins)
        stage._label, stage._name = f"{BEFORE}.", self._name
        for entries in self._before:
            stage._set_all(self._cls, entries, stage._values, stage._label)
        return stage

    def refuse(self, key: str, reason: str) -> None:
        """Raises ConfigError where a key was set to anything but null."""
        value: Any = self._values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            where, shown = self._origins[key]
            raise ConfigError(f"{where}: {shown}: {reason}")

    def put(self, section: str, name: str, value: Any) -> None:
        """Sets a key that is not for the user to set."""
        self._values.setdefault(section, {})[name] = value

    def build(self) -> Any:
        """The configuration.

        Raises:
          ConfigError: a key without default is missing, or a class refuses its values.
        """
        return self._build(self._cls, self._values, None, "")

    def _set_all(
        self, cls: type, entries: Mapping[str, yaml.Node], values: dict[str, Any], prefix: str
    ) -> None:
        hints = hints_of(cls)
        for name, node in entries.items():
            key = prefix + name
            if name not in hints:
                raise ConfigError(f"{place_of(node)}: {key}: {self._no_such_key(cls, key)}")
            self._origins[key.removeprefix(self._label)] = (place_of(node), key)
            nested = nested_class(hints[name])
            if nested is not None and isinstance(node, yaml.MappingNode):
                if not isinstance(values.get(name), dict):
                    values[name] = {}
                self._set_all(nested, entries_of(node, f"{key}."), values[name], f"{key}.")
            elif nested in self._named and not isinstance(node, yaml.SequenceNode):
                choices = self._named[nested]
                if node.value not in choices:
                    expected = f"{', '.join(choices)} or its settings"
                    close = difflib.get_close_matches(node.value, list(choices), n=1)
                    hint = f"; did you mean {close[0]}?" if close else ""
                    raise ConfigError(
                        f"{place_of(node)}: {key}: expected {expected}, got {text_of(node)}{hint}"
                    )
                values[name] = dataclasses.asdict(choices[node.value])
            else:
                values[name] = convert(hints[name], node, key)

    def _no_such_key(self, cls: type, key: str) -> str:
        prefix, dot, name = key.rpartition(".")
        siblings = {known: prefix + dot + known for known in hints_of(cls)}
        if not prefix:
            siblings |= {EXTENDS: EXTENDS, BEFORE: BEFORE}
        # Failing a neighbour, perhaps the right name in the wrong section.
        elsewhere = {
            known.rpartition(".")[2]: self._label + known for known in reversed(all_keys(self._cls))
        }
        for names, cutoff in ((siblings, 0.6), (elsewhere, 0.75)):
            close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
            if close:
                return f"unknown key; did you mean {names[close[0]]}?"
        return f"unknown key; expected one of {', '.join(siblings.values())}"

    def _build(self, cls: type, values: dict[str, Any], default: Any, prefix: str) -> Any:
        arguments = {}
        for field in dataclasses.fields(cls):
            key, name = prefix + field.name, field.name
            # A section that is given in part changes its parent's default, where there is one.
            fallback = field.default if default is None else getattr(default, name)
            nested = nested_class(hints_of(cls)[name])
            if isinstance(values.get(name), dict):
                base = fallback if isinstance(fallback, nested) else None
                arguments[name] = self._build(nested, values[name], base, f"{key}.")
            elif name in values:
                arguments[name] = values[name]
            elif fallback is not dataclasses.MISSING:
                arguments[name] = fallback
            elif nested is not None:
                arguments[name] = self._build(nested, {}, None, f"{key}.")
            else:
                expected = described(hints_of(cls)[name])
                raise ConfigError(
                    f"{self._name}: {self._label}{key}: is missing, expected {expected}"
                )
        try:
            return cls(**arguments)
        except ValueError as error:
            reason = " ".join(str(error).replace(f"{cls.__name__}.", "").split())
            where, key = self._culprit(prefix, reason)
            raise ConfigError(f"{where}: {key}{reason}") from None

    def _culprit(self, prefix: str, message: str) -> tuple[str, str]:
        """Where the first key that a message names was set, and that key."""
        found = []
        for key, (where, shown) in self._origins.items():
            relative = key.removeprefix(prefix)
            match = re.search(rf"(?<![\w.]){re.escape(relative)}(?!\w|\.\w)", message)
            if key.startswith(prefix) and match:
                found.append((match.start(), where, f"{shown}: "))
        if found:
            return min(found)[1:]
        section = prefix.removesuffix(".")
        where, shown = self._origins.get(section, (self._name, self._label + section))
        return where, f"{shown}: " if section else ""


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `Settings` reads back as an equal one."""
    return yaml.safe_dump(
        _plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True, width=1000
    )


def flatten(config: Any) -> dict[str, Any]:
    """The settings of a configuration by dotted key."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{field.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[field.name] = value
    return flat


def _plain(value: Any) -> Any:
    """Lists for tuples, which YAML has no word for."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
