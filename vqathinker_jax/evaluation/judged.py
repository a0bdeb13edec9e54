"""From results or predictions to a benchmark's outcome, and the overall of several."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

from vqathinker_jax.aggregate import is_outside
from vqathinker_jax.evaluation.benchmarks import IN_DOMAIN, OOD, PUBLISHED, Benchmark
from vqathinker_jax.evaluation.outcome import BenchmarkOutcome, BenchmarkRow
from vqathinker_jax.evaluation.predictions import Prediction, match
from vqathinker_jax.evaluation.statistics import BootstrapConfig, judge_agreement
from vqathinker_jax.results import ScoreResult


def judge_results(
    benchmark: Benchmark, results: Mapping[str, ScoreResult], bootstrap: BootstrapConfig
) -> BenchmarkOutcome:
    """Judges what a model answered.

    Args:
      benchmark: the labels.
      results: by path; a video that has none is missing.
      bootstrap: how intervals are made.
    """
    rows = []
    num_out_of_range = 0
    for video in benchmark.videos:
        result = results.get(video.path)
        status, prediction = "missing", None
        if result is not None:
            prediction = result.score
            status = "error" if result.status != "ok" else "ok"
            if status == "ok" and prediction is None:
                status = "no score"
            num_out_of_range += any(is_outside(score) for score in result.scores)
        rows.append(BenchmarkRow(video.id, video.path, video.score, prediction, status, result))
    return _outcome(benchmark, rows, num_out_of_range, benchmark.notes, bootstrap)


def judge_predictions(
    benchmark: Benchmark, predictions: Sequence[Prediction], bootstrap: BootstrapConfig
) -> BenchmarkOutcome:
    """Judges predictions made elsewhere; a label without a row in their file is missing."""
    rows = []
    for video, one in zip(benchmark.videos, match(benchmark.videos, predictions), strict=True):
        prediction = None if one is None else one.score
        status = "missing" if one is None else "no score" if prediction is None else "ok"
        rows.append(BenchmarkRow(video.id, video.path, video.score, prediction, status, None))
    num_out_of_range = sum(is_outside(row.prediction) for row in rows)
    return _outcome(benchmark, rows, num_out_of_range, benchmark.notes, bootstrap)


def _outcome(
    benchmark: Benchmark,
    rows: Sequence[BenchmarkRow],
    num_out_of_range: int,
    notes: Sequence[str],
    bootstrap: BootstrapConfig,
) -> BenchmarkOutcome:
    scored = [row for row in rows if row.status == "ok"]
    count = collections.Counter(row.status for row in rows)
    return BenchmarkOutcome(
        name=benchmark.name,
        domain=benchmark.domain,
        num_labels=len(rows),
        num_missing=count["missing"],
        num_failed=count["error"],
        num_unparseable=count["no score"],
        num_out_of_range=num_out_of_range,
        rows=tuple(rows),
        agreement=judge_agreement(
            [row.prediction for row in scored], [row.label for row in scored], bootstrap
        ),
        notes=tuple(notes),
    )


def parse_rate(outcome: BenchmarkOutcome) -> float:
    """Share of the answers that hold a number; NaN without answers."""
    answered = outcome.agreement.num_scored + outcome.num_unparseable
    return outcome.agreement.num_scored / answered if answered else math.nan


@dataclasses.dataclass(frozen=True)
class Overall:
    """Several benchmarks in one number each, weighted by their scored videos."""

    domain: str
    num_videos: int
    srcc: float
    plcc: float
    plcc_fitted: float
    krcc: float
    left_out: tuple[str, ...]
    """Benchmarks of the domain without a value: not evaluated, or undefined."""


def overall(outcomes: Sequence[BenchmarkOutcome], domain: str) -> Overall | None:
    """The overall of the benchmarks of one domain.

    `sum(n_b s_b) / sum(n_b)`, with n_b the scored videos of benchmark b: the paper weights its
    overall columns by the number of videos. None where no benchmark of the domain has a value; a
    statistic that one of them lacks is NaN.
    """
    there = [one for one in outcomes if one.domain == domain]
    used = [one for one in there if math.isfinite(one.agreement.srcc.value)]
    if not used:
        return None
    names = {one.name for one in PUBLISHED if one.domain == domain}
    names |= {one.name for one in there}
    weights = [one.agreement.num_scored for one in used]

    def mean(name: str) -> float:
        values = [vars(one.agreement)[name].value for one in used]
        return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    return Overall(
        domain=domain,
        num_videos=sum(weights),
        srcc=mean("srcc"),
        plcc=mean("plcc"),
        plcc_fitted=mean("plcc_fitted"),
        krcc=mean("krcc"),
        left_out=tuple(sorted(names - {one.name for one in used})),
    )


DOMAINS = {IN_DOMAIN: "In-domain overall", OOD: "OOD overall"}
"""What has an overall, and its title."""
