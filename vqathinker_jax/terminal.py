"""What a person sees: a progress line on stderr, a table or plain lines on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from vqathinker_jax.data.clip import printable
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.timeline import clock, worst_moments

RANKS = ("worst", "2nd worst", "3rd worst")
MOST_RAW = 300
"""Characters shown of an answer in which no reasons could be read."""


def shown_score(result: ScoreResult) -> str:
    """`3.42`, `3.42 ± 0.10`, `no score` or `error`; a model that is not published is labelled.

    After ± stands the standard deviation, of the samples or of a soft score's distribution, and in
    brackets the samples' predictive interval: `3.42 ± 0.10 (3.20-3.64)`. A calibrated score follows
    an arrow: `3.42 → 68.30`.
    """
    if result.status != "ok":
        return "error"
    shown = "no score" if result.score is None else f"{result.score:.2f}"
    if result.score_std is not None:
        shown += f" ± {result.score_std:.2f}"
    if result.interval is not None and result.aggregate != "soft":
        shown += " ({:.2f}-{:.2f})".format(*result.interval)
    if result.calibrated is not None:
        shown += f" → {result.calibrated:.2f}"
    return shown if result.model_kind == "published" else f"{shown} [{result.model_kind}]"


def shown_moments(result: ScoreResult) -> list[tuple[str, str, str]]:
    """The worst moments of a timeline as score, place and reason, worst first."""
    label = "" if result.model_kind == "published" else f" [{result.model_kind}]"
    return [
        (
            f"{one.score:.2f}{label}",
            f"{printable(result.path)} @ {clock(one.start)}-{clock(one.end)}",
            f"{rank} of {len(result.timeline)} segments"
            + printable(" ".join(f": {one.reasoning}".split()) if one.reasoning else ""),
        )
        for rank, one in zip(RANKS, worst_moments(result.timeline), strict=False)
    ]


def shown_reason(result: ScoreResult) -> str:
    """The error, the reasoning, or the beginning of the raw answer of a result, on one line."""
    raw = result.response or ""
    raw = raw if len(raw) <= MOST_RAW else f"{raw[:MOST_RAW]}…"
    said = " ".join((result.error or result.reasoning or raw).split())
    if result.distortions is not None:
        said = f"[names: {', '.join(result.distortions) or 'no distortion'}] {said}"
    return printable(said)


class Progress:
    """A bar with the time left on a terminal; one plain line a file elsewhere; nothing if quiet."""

    def __init__(self, total: int, is_quiet: bool):
        self.total = total
        self.count = 0
        self.is_plain = not is_quiet and not sys.stderr.isatty()
        self.bar = RichProgress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            disable=is_quiet or self.is_plain or total == 0,
            transient=True,
        )

    def __enter__(self) -> Progress:
        self.bar.start()
        self.task = self.bar.add_task("", total=self.total)
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def skip(self, count: int) -> None:
        """Counts files that were finished earlier."""
        self.count += count
        self.bar.update(self.task, advance=count)
        if self.is_plain and count:
            print(f"{count} of {self.total} already there", file=sys.stderr, flush=True)

    def advance(self, result: ScoreResult) -> None:
        """Counts one finished file and says what became of it."""
        self.count += 1
        name = printable(result.path)
        self.bar.update(self.task, advance=1, description=Text(name[-40:]).plain)
        if self.is_plain:
            line = f"[{self.count}/{self.total}] {shown_score(result)}  {name}"
            if result.error:
                line += f": {printable(result.error)}"
            print(line, file=sys.stderr, flush=True)


class Counter:
    """`done of total` on a terminal as a bar; elsewhere a plain line at every tenth of the way."""

    def __init__(self, what: str, total: int, is_quiet: bool):
        self.what = what
        self.is_plain = not is_quiet and not sys.stderr.isatty()
        self.tenths = 0
        self.bar = RichProgress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=is_quiet or self.is_plain,
            transient=True,
        )
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Counter:
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def show(self, done: int, total: int) -> None:
        """Says how far it is."""
        self.bar.update(self.task, completed=done, total=total)
        if self.is_plain and 10 * done // total > self.tenths:
            self.tenths = 10 * done // total
            print(f"{done} of {total} {self.what}", file=sys.stderr, flush=True)


def print_results(results: Sequence[ScoreResult]) -> None:
    """A table on a terminal; tab-separated `score, path, reasons` elsewhere."""
    if not results:
        return
    if not sys.stdout.isatty():
        for result in results:
            print(shown_score(result), printable(result.path), shown_reason(result), sep="\t")
            for moment in shown_moments(result):
                print(*moment, sep="\t")
        return
    table = Table(show_lines=len(results) > 1, expand=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    table.add_column("reasons", overflow="fold")
    for result in results:
        table.add_row(
            Text(shown_score(result)), Text(printable(result.path)), Text(shown_reason(result))
        )
        for moment in shown_moments(result):
            table.add_row(*map(Text, moment))
    kinds = sorted({result.model_kind for result in results if result.model_kind})
    if kinds:
        table.caption = f"model: {results[0].model} ({', '.join(kinds)})"
    Console().print(table)
