"""YAML into frozen dataclasses by their type hints; whatever does not fit is an error that says so.

Files and command-line overrides are layers: each sets some keys, later ones win, and the defaults
of the dataclasses fill the rest.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

C = TypeVar("C")

EXTENDS = "extends"
"""Top-level key naming the file, relative to this one, whose settings this one changes."""
COMMAND_LINE = "command line"

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_NO_VALUE = object()
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "null",
}


class ConfigError(ValueError):
    """Settings that cannot be used; one line: where, which key, what was expected."""


class _Loader(yaml.SafeLoader):
    """Reads nodes only, and no aliases: they could make a small file endless."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ConfigError(f"{self.name}, line {mark.line + 1}: aliases (*name) are not read")
        return super().compose_node(parent, index)


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
        self._origins: dict[str, str] = {}
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
        node = _compose(text, str(path))
        if node is None:
            node = yaml.MappingNode(f"{_TAG}map", [])
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected `key: value` lines, got {_shown(node)}")
        entries = _entries(node, "")
        if EXTENDS in entries:
            base = _convert(str, entries.pop(EXTENDS), EXTENDS)
            self.read_file(path.parent / base, (*extended_by, path.resolve()))
            self._name = str(path)
        self._set_all(self._cls, entries, self._values, "")

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
            node = _compose(value, COMMAND_LINE)
            if node is None:
                raise ConfigError(f"{COMMAND_LINE}: --{key}: needs a value")
            for part in reversed(key.split(".")):
                mark = node.start_mark
                name = yaml.ScalarNode(f"{_TAG}str", part, mark, mark)
                node = yaml.MappingNode(f"{_TAG}map", [(name, node)], mark, mark)
            self._set_all(self._cls, _entries(node, ""), self._values, "")

    def build(self) -> Any:
        """The configuration.

        Raises:
          ConfigError: a key without default is missing, or a class refuses its values.
        """
        return self._build(self._cls, self._values, None, "")

    def _set_all(
        self, cls: type, entries: Mapping[str, yaml.Node], values: dict[str, Any], prefix: str
    ) -> None:
        hints = _hints(cls)
        for name, node in entries.items():
            key = prefix + name
            if name not in hints:
                raise ConfigError(f"{_where(node)}: {key}: {self._no_such_key(cls, key)}")
            self._origins[key] = _where(node)
            nested = _nested_class(hints[name])
            if nested is not None and isinstance(node, yaml.MappingNode):
                if not isinstance(values.get(name), dict):
                    values[name] = {}
                self._set_all(nested, _entries(node, f"{key}."), values[name], f"{key}.")
            elif nested in self._named and not isinstance(node, yaml.SequenceNode):
                choices = self._named[nested]
                if node.value not in choices:
                    expected = f"{', '.join(choices)} or its settings"
                    close = difflib.get_close_matches(node.value, list(choices), n=1)
                    hint = f"; did you mean {close[0]}?" if close else ""
                    raise ConfigError(
                        f"{_where(node)}: {key}: expected {expected}, got {_shown(node)}{hint}"
                    )
                values[name] = dataclasses.asdict(choices[node.value])
            else:
                values[name] = _convert(hints[name], node, key)

    def _no_such_key(self, cls: type, key: str) -> str:
        prefix, dot, name = key.rpartition(".")
        siblings = {known: prefix + dot + known for known in _hints(cls)}
        if not prefix:
            siblings[EXTENDS] = EXTENDS
        # Failing a neighbour, perhaps the right name in the wrong section.
        elsewhere = {known.rpartition(".")[2]: known for known in reversed(_all_keys(self._cls))}
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
            nested = _nested_class(_hints(cls)[name])
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
                expected = _described(_hints(cls)[name])
                raise ConfigError(f"{self._name}: {key}: is missing, expected {expected}")
        try:
            return cls(**arguments)
        except ValueError as error:
            reason = " ".join(str(error).replace(f"{cls.__name__}.", "").split())
            where, key = self._culprit(prefix, reason)
            raise ConfigError(f"{where}: {key}{reason}") from None

    def _culprit(self, prefix: str, message: str) -> tuple[str, str]:
        """Where the first key that a message names was set, and that key."""
        found = []
        for key, where in self._origins.items():
            relative = key.removeprefix(prefix)
            match = re.search(rf"(?<![\w.]){re.escape(relative)}(?!\w|\.\w)", message)
            if key.startswith(prefix) and match:
                found.append((match.start(), where, f"{key}: "))
        if found:
            return min(found)[1:]
        section = prefix.removesuffix(".")
        return self._origins.get(section, self._name), f"{section}: " if section else ""


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


def _compose(text: str, name: str) -> yaml.Node | None:
    """The one document of a text as nodes, None for an empty one."""
    try:
        loader = _Loader(text)
        # Marks carry the name, so every node knows where it comes from.
        loader.name = name
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{name}, line {mark.line + 1}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None


def _entries(node: yaml.MappingNode, prefix: str) -> dict[str, yaml.Node]:
    """Key -> value; raises ConfigError on a key that is no text or is given twice."""
    entries = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{_where(key)}: {prefix or 'key'}: expected a name as key")
        if key.value in entries:
            raise ConfigError(f"{_where(key)}: {prefix}{key.value}: is given twice")
        entries[key.value] = value
    return entries


def _convert(kind: Any, node: yaml.Node, key: str) -> Any:
    value = _value(kind, node)
    if value is _NO_VALUE:
        hint = ""
        if str in _members(kind) and isinstance(node, yaml.ScalarNode) and node.value:
            hint = f' (as text, put it in quotes: "{node.value}")'
        raise ConfigError(
            f"{_where(node)}: {key}: expected {_described(kind)}, got {_shown(node)}{hint}"
        )
    return value


def _value(kind: Any, node: yaml.Node) -> Any:
    """The node as a value of that type, or `_NO_VALUE`."""
    for member in _members(kind):
        if typing.get_origin(member) is tuple:
            value = _tuple(member, node)
        elif isinstance(node, yaml.ScalarNode) and not dataclasses.is_dataclass(member):
            value = _scalar(member, node)
        else:
            value = _NO_VALUE
        if value is not _NO_VALUE:
            return value
    return _NO_VALUE


def _tuple(kind: Any, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.SequenceNode):
        return _NO_VALUE
    kinds = typing.get_args(kind)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(node.value)
    if len(kinds) != len(node.value):
        return _NO_VALUE
    values = tuple(_value(inner, item) for inner, item in zip(kinds, node.value, strict=True))
    return _NO_VALUE if any(value is _NO_VALUE for value in values) else values


def _scalar(kind: type, node: yaml.ScalarNode) -> Any:
    # YAML 1.1 reads 1e-6 as text, 010 as 8 and 1:30 as 90: numbers are read by our own patterns.
    is_plain, tag, text = node.style is None, node.tag.removeprefix(_TAG), node.value
    if kind is bool and tag == "bool" and is_plain:
        return yaml.SafeLoader.bool_values.get(text.lower(), _NO_VALUE)
    if kind is int and is_plain and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float and is_plain and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if kind is str and tag in ("str", "timestamp"):
        return text
    if kind is types.NoneType and tag == "null":
        return None
    return _NO_VALUE


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _members(kind: Any) -> tuple:
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if is_union else (kind,)


def _nested_class(kind: Any) -> type | None:
    return next((member for member in _members(kind) if dataclasses.is_dataclass(member)), None)


def _all_keys(cls: type, prefix: str = "") -> list[str]:
    keys = []
    for name, kind in _hints(cls).items():
        keys.append(prefix + name)
        if (nested := _nested_class(kind)) is not None:
            keys += _all_keys(nested, f"{prefix}{name}.")
    return keys


def _described(kind: Any) -> str:
    names = []
    for member in _members(kind):
        if typing.get_origin(member) is tuple:
            inner = ", ".join(_NAMES.get(arg, "...") for arg in typing.get_args(member))
            names.append(f"a list [{inner}]")
        elif dataclasses.is_dataclass(member):
            names.append("a section with " + ", ".join(_hints(member)))
        else:
            names.append(_NAMES[member])
    return " or ".join(names)


def _where(node: yaml.Node) -> str:
    mark = node.start_mark
    return mark.name if mark.name == COMMAND_LINE else f"{mark.name}, line {mark.line + 1}"


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    return repr(node.value) if node.value else "nothing"


def _plain(value: Any) -> Any:
    """Lists for tuples, which YAML has no word for."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
