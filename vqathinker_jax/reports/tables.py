"""Tables of a page that have no pictures: figures of others, and what was understood."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vqathinker_jax.data.clip import printable
from vqathinker_jax.evaluation import understanding as understood
from vqathinker_jax.evaluation.beside import STATISTICS
from vqathinker_jax.evaluation.judged import DOMAINS, overall
from vqathinker_jax.evaluation.outcome import Evaluation
from vqathinker_jax.evaluation.table1 import NOTE, table1
from vqathinker_jax.evaluation.understanding import Understanding
from vqathinker_jax.reports.page import decimals


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table, ready for the page."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def beside_table(evaluation: Evaluation) -> PageTable | None:
    """SRCC and PLCC of this evaluation and of others; None where no others were named."""
    others = evaluation.settings.get("beside")
    if not others:
        return None
    header = [f"{name} {what.upper()}" for name in ("this", *others) for what in STATISTICS]

    def line(key: str, title: str, own: Sequence[float]) -> tuple[str, ...]:
        theirs = [other.get(key, {}).get(what) for other in others.values() for what in STATISTICS]
        return (printable(title), *(decimals(value, 3) for value in (*own, *theirs)))

    rows = [
        line(one.name, one.name, [vars(one.agreement)[what].value for what in STATISTICS])
        for one in evaluation.outcomes
    ]
    for domain, title in DOMAINS.items():
        total = overall(evaluation.outcomes, domain)
        if total is not None:
            rows.append(line(domain, title, [vars(total)[what] for what in STATISTICS]))
    notes = ("Figures of others stand as they were given; they were not measured here.",)
    return PageTable("Beside others", tuple(map(printable, ("", *header))), tuple(rows), notes)


def paper_tables(evaluation: Evaluation) -> tuple[PageTable, ...]:
    """The paper's Table 1 with this evaluation as its last row, one table a domain."""
    return tuple(
        PageTable(table.title, table.header, table.rows, (NOTE,)) for table in table1(evaluation)
    )


def understanding_tables(understanding: Understanding) -> tuple[PageTable, ...]:
    """A table of attributions, and one for each set of questions."""
    found = []
    if understanding.attributions:
        found.append(
            PageTable(
                "Distortions that the reasoning names",
                understood.ATTRIBUTION_HEADER,
                tuple(understood.attribution_rows(understanding)),
                tuple(understood.remarks(Understanding(understanding.attributions))),
            )
        )
    for one in understanding.questions:
        header, cells = understood.question_rows(one)
        notes = understood.remarks(Understanding(questions=(one,)))
        found.append(PageTable("Multiple choice", header, (cells,), tuple(notes)))
    return tuple(
        dataclasses.replace(
            one,
            header=tuple(map(printable, one.header)),
            rows=tuple(tuple(map(printable, row)) for row in one.rows),
            notes=tuple(map(printable, one.notes)),
        )
        for one in found
    )
