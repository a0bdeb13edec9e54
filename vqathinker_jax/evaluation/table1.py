"""The paper's Table 1, and an evaluation as one more row of it.

Cao et al., "VQAThinker" (arXiv 2508.06051), Table 1: SRCC and PLCC on ten benchmarks. LSVQ-test and
LSVQ-1080p are of the data set that most models learnt from (`PaperRow.training`); no model but
those with other data saw anything else. The figures were taken from a public compilation of the
paper's tables and were not compared with the paper itself.
"""

from __future__ import annotations

import dataclasses
import math

from vqathinker_jax.evaluation.benchmarks import PUBLISHED
from vqathinker_jax.evaluation.judged import DOMAINS
from vqathinker_jax.evaluation.outcome import BenchmarkOutcome, Evaluation

Pair = tuple[float, float]
"""SRCC and PLCC."""


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A model in the paper's table."""

    name: str
    training: str
    """The data that it learnt from."""
    srcc: tuple[float, ...]
    """In the order of `PUBLISHED`; NaN where the paper has none."""
    plcc: tuple[float, ...]

    def pair(self, benchmark: str) -> Pair:
        """Its figures on a benchmark."""
        place = [one.name for one in PUBLISHED].index(benchmark)
        return self.srcc[place], self.plcc[place]


_NONE = (math.nan,)
TABLE = (
    PaperRow(
        "SimpleVQA",
        "LSVQ",
        (0.864, 0.756, 0.861, 0.762, 0.808, 0.657, 0.773, 0.416, 0.379, 0.643),
        (0.861, 0.801, 0.860, 0.799, 0.808, 0.728, 0.809, 0.502, 0.425, 0.647),
    ),
    PaperRow(
        "FAST-VQA",
        "LSVQ",
        (0.880, 0.781, 0.859, 0.826, 0.730, 0.631, 0.725, 0.326, 0.327, 0.611),
        (0.880, 0.813, 0.854, 0.845, 0.747, 0.677, 0.747, 0.415, 0.363, 0.620),
    ),
    PaperRow(
        "DOVER",
        "LSVQ",
        (0.878, 0.782, 0.874, 0.817, 0.771, 0.647, 0.694, 0.360, 0.368, 0.627),
        (0.866, 0.813, 0.869, 0.840, 0.781, 0.728, 0.747, 0.465, 0.418, 0.631),
    ),
    PaperRow(
        "MinimalisticVQA",
        "LSVQ",
        (0.885, 0.792, 0.862, 0.775, 0.826, 0.686, 0.797, 0.301, 0.459, 0.639),
        (0.882, 0.828, 0.859, 0.821, 0.821, 0.746, 0.816, 0.388, 0.502, 0.641),
    ),
    PaperRow(
        "Q-Align",
        "fused, 287K",
        (0.886, 0.761, 0.876, 0.783, 0.834, 0.611, 0.756, 0.329, 0.414, 0.639),
        (0.884, 0.822, 0.878, 0.819, 0.846, 0.681, 0.798, 0.342, 0.497, 0.649),
    ),
    PaperRow(
        "VQA²-Scorer",
        "VQA²-ID, 157K",
        (0.878, 0.794, 0.881, 0.785, 0.811, 0.613, 0.656, 0.332, 0.415, 0.684),
        (0.872, 0.821, 0.880, 0.830, 0.823, 0.698, 0.741, 0.413, 0.474, 0.692),
    ),
    PaperRow(
        "Q-Insight",
        "LSVQ",
        (0.644, 0.601, 0.751, 0.624, 0.560, 0.310, 0.372, 0.256, 0.218, 0.547),
        (0.639, 0.648, 0.753, 0.708, 0.591, 0.326, 0.384, 0.268, 0.206, 0.564),
    ),
    PaperRow(
        "VisualQuality-R1",
        "LSVQ",
        (0.795, 0.716, 0.784, 0.732, 0.717, 0.472, 0.493, 0.340, 0.227, 0.622),
        (0.796, 0.744, 0.792, 0.781, 0.730, 0.548, 0.574, 0.347, 0.298, 0.637),
    ),
    PaperRow(
        "VQ-Insight",
        "LSVQ and KonIQ, 38K",
        (0.875, 0.786, 0.875, 0.790, *6 * _NONE),
        (0.876, 0.823, 0.884, 0.835, *6 * _NONE),
    ),
    PaperRow(
        "VQAThinker (8B)",
        "LSVQ",
        (0.883, 0.798, 0.881, 0.808, 0.860, 0.767, 0.856, 0.528, 0.573, 0.706),
        (0.880, 0.834, 0.884, 0.847, 0.863, 0.806, 0.845, 0.610, 0.624, 0.716),
    ),
)
"""From the first to the last row of the paper's table."""


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """The paper's rows on the benchmarks of one domain, the evaluation's own row last."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table1(evaluation: Evaluation) -> tuple[PaperTable, ...]:
    """A table for each domain of which the evaluation has a published benchmark with a value.

    The overall is over the benchmarks of the table, weighted by the videos scored here, in every
    row: so rows compare even where a benchmark was left out. PLCC is that of the fitted logistic,
    as is usual in papers.
    """
    return tuple(
        _table(used, title)
        for domain, title in DOMAINS.items()
        if (used := [one for one in evaluation.outcomes if _is_comparable(one, domain)])
    )


def _table(used: list[BenchmarkOutcome], title: str) -> PaperTable:
    weights = [one.agreement.num_scored for one in used]

    def line(name: str, pairs: list[Pair]) -> tuple[str, ...]:
        total = tuple(
            math.fsum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
            for values in zip(*pairs, strict=True)
        )
        return (name, *map(_shown, (*pairs, total)))

    rows = [line(row.name, [row.pair(one.name) for one in used]) for row in TABLE]
    own = [(one.agreement.srcc.value, one.agreement.plcc_fitted.value) for one in used]
    header = ("SRCC / PLCC", *(one.name for one in used), title)
    kind = title.removesuffix(" overall")
    return PaperTable(f"Beside the paper: {kind}", header, (*rows, line("this evaluation", own)))


NOTE = (
    "The rows above the last are the paper's (arXiv 2508.06051, Table 1), as a public compilation "
    "gives them; they were not measured here."
)


def _is_comparable(one: BenchmarkOutcome, domain: str) -> bool:
    is_published = any(one.name == known.name for known in PUBLISHED)
    return is_published and one.domain == domain and math.isfinite(one.agreement.srcc.value)


def _shown(pair: Pair) -> str:
    cells = ["-" if math.isnan(value) else f"{value:.3f}" for value in pair]
    return "-" if cells == ["-", "-"] else " / ".join(cells)
