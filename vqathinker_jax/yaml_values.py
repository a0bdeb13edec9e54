"""YAML nodes as values of the types that a configuration class declares, and both in words."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from typing import Any

import yaml

COMMAND_LINE = "command line"
"""Name of the nodes that no file holds."""
TAG = "tag:yaml.org,2002:"

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
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


def compose(text: str, name: str) -> yaml.Node | None:
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


def entries_of(node: yaml.MappingNode, prefix: str) -> dict[str, yaml.Node]:
    """Key -> value; raises ConfigError on a key that is no text or is given twice."""
    entries = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{place_of(key)}: {prefix or 'key'}: expected a name as key")
        if key.value in entries:
            raise ConfigError(f"{place_of(key)}: {prefix}{key.value}: is given twice")
        entries[key.value] = value
    return entries


def convert(kind: Any, node: yaml.Node, key: str) -> Any:
    """The node as a value of a type; raises ConfigError, which names the key, if it is none."""
    value = _value(kind, node)
    if value is _NO_VALUE:
        hint = ""
        if str in _members(kind) and isinstance(node, yaml.ScalarNode) and node.value:
            hint = f' (as text, put it in quotes: "{node.value}")'
        raise ConfigError(
            f"{place_of(node)}: {key}: expected {described(kind)}, got {text_of(node)}{hint}"
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
    is_plain, tag, text = node.style is None, node.tag.removeprefix(TAG), node.value
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
def hints_of(cls: type) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _members(kind: Any) -> tuple:
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if is_union else (kind,)


def nested_class(kind: Any) -> type | None:
    """The dataclass among the types of a field, if there is one."""
    return next((member for member in _members(kind) if dataclasses.is_dataclass(member)), None)


def all_keys(cls: type, prefix: str = "") -> list[str]:
    """Dotted keys of all settings of a class."""
    keys = []
    for name, kind in hints_of(cls).items():
        keys.append(prefix + name)
        if (nested := nested_class(kind)) is not None:
            keys += all_keys(nested, f"{prefix}{name}.")
    return keys


def described(kind: Any) -> str:
    """The type of a field in words."""
    names = []
    for member in _members(kind):
        if typing.get_origin(member) is tuple:
            inner = ", ".join(_NAMES.get(arg, "...") for arg in typing.get_args(member))
            names.append(f"a list [{inner}]")
        elif dataclasses.is_dataclass(member):
            names.append("a section with " + ", ".join(hints_of(member)))
        else:
            names.append(_NAMES[member])
    return " or ".join(names)


def place_of(node: yaml.Node) -> str:
    """File and line of a node."""
    mark = node.start_mark
    return mark.name if mark.name == COMMAND_LINE else f"{mark.name}, line {mark.line + 1}"


def text_of(node: yaml.Node) -> str:
    """A node as it is quoted in a message."""
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    return repr(node.value) if node.value else "nothing"
