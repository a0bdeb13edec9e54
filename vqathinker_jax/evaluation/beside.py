"""Figures of somebody else, such as a paper's, to be shown beside one's own."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from vqathinker_jax.evaluation.benchmarks import IN_DOMAIN, OOD, BenchmarkError, find_published

STATISTICS = ("srcc", "plcc")

Figures = dict[str, dict[str, float]]
"""From a benchmark's name (or `in-domain` and `ood`, the overalls) to statistic to value."""

_NAME = re.compile(r"[^=|\n]{1,40}")


def read_beside(text: str) -> tuple[str, Figures]:
    """Reads `NAME=FILE.json`: the name that the columns get, and their figures.

    The file is a summary.json of another evaluation, or an object like
    `{"KoNViD-1k": {"srcc": 0.8, "plcc": 0.8}, "in-domain": {"srcc": 0.8}}`.

    Raises:
      BenchmarkError: another form, or figures that are none.
    """
    name, equals, file = text.partition("=")
    if not equals or not file or not _NAME.fullmatch(name):
        raise BenchmarkError(f"{text!r} is not of the form NAME=FILE.json")
    try:
        content = json.loads(Path(file).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise BenchmarkError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{file}: not JSON: {error}") from None
    try:
        if not isinstance(content, dict) or not content:
            raise TypeError("not an object")
        figures = _of_summary(content) if "outcomes" in content else content
        return name, {_known(key): _numbers(key, value) for key, value in figures.items()}
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        said = error if isinstance(error, ValueError) else "benchmarks with srcc and plcc expected"
        raise BenchmarkError(f"{file}: holds no figures: {said}") from None


def _of_summary(content: dict[str, Any]) -> dict[str, Any]:
    figures = {
        one["name"]: {name: one["agreement"][name]["value"] for name in STATISTICS}
        for one in content["outcomes"]
    }
    for total in content["overall"]:
        figures[total["domain"]] = {name: total[name] for name in STATISTICS}
    return figures


def _known(key: str) -> str:
    if key in (IN_DOMAIN, OOD):
        return key
    published = find_published(key)
    return key if published is None else published.name


def _numbers(key: str, values: dict[str, Any]) -> dict[str, float]:
    unknown = set(values) - set(STATISTICS)
    if unknown:
        raise ValueError(f"{key} has {sorted(unknown)[0]!r}, not srcc or plcc")
    made = {}
    for name, value in values.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or abs(value) > 1:
            raise ValueError(f"{name} of {key} is {value!r}, not a correlation")
        made[name] = float(value)
    return made
