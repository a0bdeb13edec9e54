"""How good a model is on synthetic and on real clips, beside an honest floor.

Synthetic clips (`vqathinker synth`): SRCC, PLCC, MAE and parse rate of greedy scores, and of
expected scores under the digits' probabilities, on one split, beside one constant score (the median
of the train split) and a ridge regression on sixteen hand-made features (`handmade.py`,
`ridge.py`), fitted to the train split with its penalty chosen on the validation split. The words:
F1 of the distortions named against those present (severity 0.08 or more), for each and the mean
over all; severity words; how many different texts there are.

Real clips: each is re-encoded with known distortions at rising strengths, and the ranks of its
copies are compared with the strengths, inside each clip. Nobody's opinion enters. Real clips are
looked at here only: no model of this repository is trained, tuned or selected on them.

Run from the repository root:
`python -m benchmarks.nano_quality MODEL --data SYNTH --clips FOLDER --work WORK`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import vqathinker_jax as vqt
from benchmarks.handmade import features_of_all
from benchmarks.real_steps import SEED, Order, Step, orders, write_steps
from benchmarks.ridge import Ridge, choose_ridge
from vqathinker_jax.api import VideoQualityModel
from vqathinker_jax.data.labels import LabelledVideo, read_labels
from vqathinker_jax.metrics import plcc, srcc
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.rl.words import WordsAgreement, words_agreement
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.synthetic.distortions import DISTORTIONS

EXPECTED = "model, expected score"
"""Under the probabilities of the digits that follow the greedy reasons (`--aggregate soft`)."""
USUAL_STEPS = ("compression", "blur", "noise", "downscaling", "freeze")


# --- measures -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How well scores agree with labels; NaN where undefined."""

    num_scored: int
    srcc: float
    plcc: float
    mae: float
    parse_rate: float
    """Share of the clips with a score."""


def accuracy(scores: Sequence[float | None], labels: Sequence[float]) -> Accuracy:
    """Over the clips that have a score."""
    pairs = [
        (score, label) for score, label in zip(scores, labels, strict=True) if score is not None
    ]
    said, truth = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Accuracy(
        num_scored=len(pairs),
        srcc=srcc(said, truth),
        plcc=plcc(said, truth),
        mae=float(np.abs(np.subtract(said, truth)).mean()) if pairs else math.nan,
        parse_rate=len(pairs) / len(labels),
    )


def score_all(
    model: VideoQualityModel, paths: Sequence[str], settings: ScoreSettings
) -> list[ScoreResult]:
    """Greedy answers about clips, all of which must be readable.

    Raises:
      SystemExit: a clip that cannot be read.
    """
    results = []
    for result in model.score_many(paths, settings):
        if result.status != "ok":
            raise SystemExit(f"{result.path}: {result.error}")
        results.append(result)
        print(f"scored {len(results)}/{len(paths)}", end="\r", file=sys.stderr)
    print(file=sys.stderr)
    return results


def read_split(data: Path, split: str, limit: int | None = None) -> list[LabelledVideo]:
    """The first clips of a split of a folder that `vqathinker synth` made."""
    labels = read_labels(data / f"{split}.jsonl", scale="1-5", video_root=data)
    return list(labels.videos)[:limit]


def fit_floor(data: Path, work: Path, num_clips: int) -> Ridge:
    """The ridge regression, fitted to the first clips of the train split."""
    parts = []
    for split, limit in (("train", num_clips), ("validation", None)):
        videos = read_split(data, split, limit)
        scores = np.array([video.score for video in videos])
        parts.append((features_of_all([video.path for video in videos], work), scores))
    return choose_ridge(parts[0], parts[1])


# --- what is printed ------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """Rounded, or a dash where undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def show_accuracy(rows: dict[str, Accuracy]) -> None:
    """Scores against labels, one line a predictor."""
    print(f"{'scores':34}{'SRCC':>8}{'PLCC':>8}{'MAE':>8}{'parsed':>8}")
    for name, row in rows.items():
        cells = (row.srcc, row.plcc, row.mae, row.parse_rate)
        print(f"{name:34}" + "".join(f"{number(cell):>8}" for cell in cells))


def show_words(words: WordsAgreement) -> None:
    """Distortions named, one line each."""
    print(f"\n{'distortion named':20}{'present':>8}{'hits':>8}{'false':>8}{'F1':>8}")
    for name, one in words.counts.items():
        present = one.hits + one.misses
        print(f"{name:20}{present:>8}{one.hits:>8}{one.false_alarms:>8}{number(one.f1):>8}")
    print(f"{'mean over names':20}{number(words.macro_f1):>32}")
    print(
        f"{words.num_distinct} different texts of {words.num_texts}; severity words of the "
        f"{words.num_hits} hits: {number(words.severity_exact)} right, "
        f"{number(words.severity_within_one)} at most one step off"
    )


def show_orders(title: str, rows: Sequence[Order]) -> None:
    """Real clips in steps, one line a distortion."""
    print(f"\n{title:34}{'SRCC':>8}{'clips':>7}{'flat':>6}  mean score, mildest step first")
    for row in rows:
        means = " ".join(number(mean, 2) for mean in row.mean_scores)
        print(
            f"{row.distortion:34}{number(row.within_clip_srcc):>8}{row.num_clips:>7}"
            f"{row.num_unordered:>6}  {means}"
        )
    print(f"{'mean over distortions':34}{number(mean_order(rows)):>8}")


def mean_order(rows: Sequence[Order]) -> float:
    """Mean over distortions of the within-clip SRCC; NaN without any."""
    return math.fsum(row.within_clip_srcc for row in rows) / len(rows) if rows else math.nan


def jsonable(value: object) -> object:
    """Nested records with None in place of NaN, which JSON does not have."""
    match value:
        case float():
            return round(value, 5) if math.isfinite(value) else None
        case dict():
            return {key: jsonable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [jsonable(inner) for inner in value]
    return value


# --- the run --------------------------------------------------------------------------------------


def on_synthetic(
    model: VideoQualityModel, settings: ScoreSettings, floor: Ridge, args: argparse.Namespace
) -> dict:
    """Scores and words on one split; prints them and gives the record."""
    videos = read_split(args.data, args.split, args.limit)
    paths, labels = [video.path for video in videos], [video.score for video in videos]
    results = score_all(model, paths, settings)
    train = read_split(args.data, "train")
    constant = statistics.median(video.score for video in train)
    rows = {
        "model": accuracy([result.score for result in results], labels),
        EXPECTED: accuracy([result.soft_score for result in results], labels),
        "constant": accuracy([constant] * len(labels), labels),
        "ridge on 16 features": accuracy(floor(features_of_all(paths, args.work)), labels),
    }
    truths = [video.distortions or () for video in videos]
    words = words_agreement([result.reasoning for result in results], truths, tuple(DISTORTIONS))
    print(f"\n{len(videos)} synthetic clips, {args.split} split of {args.data}")
    show_accuracy(rows)
    show_words(words)
    return {
        "split": args.split,
        "num_clips": len(videos),
        "collection": json.loads((args.data / "manifest.json").read_text())["command"],
        "scores": {name: dataclasses.asdict(row) for name, row in rows.items()},
        "ridge_penalty": floor.penalty,
        "ridge_clips": len(train[: args.ridge_clips]),
        "constant": constant,
        "words": {
            **dataclasses.asdict(words),
            "f1": {name: one.f1 for name, one in words.counts.items()},
            "macro_f1": words.macro_f1,
        },
    }


def on_real(
    model: VideoQualityModel, settings: ScoreSettings, floor: Ridge | None, args: argparse.Namespace
) -> dict:
    """The order of the steps of real clips; prints it and gives the record."""
    steps, unreadable = write_steps(
        args.clips, args.work, args.distortions, args.levels, args.limit
    )
    if not steps:
        raise SystemExit(f"{args.clips}: no clip that can be read")
    paths = [step.path for step in steps]
    results = score_all(model, paths, settings)
    scores = [result.score for result in results]
    found = {
        "model": orders(steps, scores),
        EXPECTED: orders(steps, [result.soft_score for result in results]),
    }
    if floor is not None:
        found["ridge on 16 features"] = orders(
            steps, floor(features_of_all(paths, args.work)).tolist()
        )
    print(f"\n{num_clips(steps)} real clips of {args.clips}, never trained on")
    for name, rows in found.items():
        show_orders(f"{name}, level against -score", rows)
    for line in unreadable:
        print(f"left out: {line}")
    return {
        "num_clips": num_clips(steps),
        "unreadable": unreadable,
        "levels": args.levels,
        "seed": SEED,
        "parse_rate": sum(score is not None for score in scores) / len(scores),
        "orders": {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()},
        "mean_srcc": {name: mean_order(rows) for name, rows in found.items()},
    }


def num_clips(steps: Sequence[Step]) -> int:
    """Real clips behind the copies."""
    return len({step.clip for step in steps})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model folder")
    parser.add_argument("--data", type=Path, help="folder that `vqathinker synth` made")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--ridge-clips", type=int, default=1500, help="of the train split")
    parser.add_argument("--clips", help="real clips: a folder, a list, or one file")
    parser.add_argument("--distortions", nargs="+", default=USUAL_STEPS, choices=[*DISTORTIONS])
    parser.add_argument("--levels", type=int, default=5, help="copies of a clip a distortion")
    parser.add_argument("--work", type=Path, required=True, help="for copies and features")
    parser.add_argument("--limit", type=int, help="only the first clips of each kind")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    args = parser.parse_args()
    if args.data is None and args.clips is None:
        parser.error("name --data, --clips or both")
    if args.levels < 2:
        parser.error("--levels must be at least 2: one step has no order")
    return args


def main() -> None:
    args = parse_arguments()
    start = time.perf_counter()
    args.work.mkdir(parents=True, exist_ok=True)
    model = vqt.from_pretrained(args.model, dtype=args.dtype)
    settings = ScoreSettings(
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        aggregate="mean",
        soft=True,
    )
    floor = None if args.data is None else fit_floor(args.data, args.work, args.ridge_clips)
    print(model.warning or f"model {model.name}")
    record = {
        "id": "nano_quality",
        "command": shlex.join(["python", "-m", "benchmarks.nano_quality", *sys.argv[1:]]),
        "model": model.name,
        "model_kind": model.loaded.kind,
        "fingerprint": model.settings_fingerprint(settings),
        "dtype": model.loaded.dtype,
        "video": dataclasses.asdict(model.video),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }
    if floor is not None:
        record["synthetic"] = on_synthetic(model, settings, floor, args)
    if args.clips is not None:
        record["real"] = on_real(model, settings, floor, args)
    record["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(jsonable(record)), flush=True)


if __name__ == "__main__":
    main()
