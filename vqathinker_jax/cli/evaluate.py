"""`vqathinker evaluate`: agreement with opinion scores on benchmarks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    fail,
    whole_number,
)
from vqathinker_jax.cli.score import (
    GEOMETRY,
    add_asking,
    add_running,
    add_seeing,
    read_settings,
)

if TYPE_CHECKING:
    from vqathinker_jax.api import VideoQualityModel
    from vqathinker_jax.evaluation.benchmarks import Benchmark
    from vqathinker_jax.evaluation.outcome import Evaluation
    from vqathinker_jax.evaluation.shards import Shard
    from vqathinker_jax.evaluation.statistics import BootstrapConfig
    from vqathinker_jax.scoring import ScoreSettings


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "evaluate",
        run,
        "measure agreement with opinion scores on benchmarks",
        "Scores every video of one or more benchmarks and says how well the scores agree with\n"
        "people's: SRCC, PLCC, KRCC, RMSE, each with a bootstrap interval. The same line again\n"
        "goes on where it stopped.\n\n"
        "  vqathinker evaluate --model M --out DIR \\\n"
        "      --benchmark KoNViD-1k=Konvid-1k_total_ds_score.json:KoNViD_1k_videos \\\n"
        "      --benchmark mine=labels.csv:clips\n"
        "  vqathinker evaluate --predictions theirs.csv --out DIR\n\n"
        "Known names: LSVQ-test, LSVQ-1080p, KoNViD-1k, LIVE-VQC, YouTube-UGC (in-domain);\n"
        "LIVE-YT-Gaming, CGVDS, LIVE-YT-HFR, Waterloo-IVC-4K, VDPVE (out of distribution). Any\n"
        "other name is a benchmark of your own. DIR gets NAME.csv (filename,pred_score,gt_score),\n"
        "NAME.jsonl (everything about each answer), missing.txt, summary.json and summary.md.",
    )
    command.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME=LABELS:VIDEO_ROOT",
        help="label file (.json, .jsonl, .csv or .txt) and the folder its ids are in; repeatable",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the outputs")
    command.add_argument(
        "--model",
        metavar="DIR|OWNER/NAME",
        help="model folder or hub id (default: the nano model, where one is bundled)",
    )
    command.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="FILE.csv",
        help="judge these predictions (filename,pred_score[,gt_score]) instead of a model's; "
        "repeatable",
    )
    command.add_argument(
        "--skip-bad-labels",
        action="store_true",
        help="leave out label rows that cannot be used, and say which (default: refuse the file)",
    )
    command.add_argument("--json", action="store_true", help="summary.json on stdout")
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")
    judging = command.add_argument_group("judging")
    judging.add_argument(
        "--bootstrap",
        type=whole_number,
        default=1000,
        metavar="N",
        help="draws for the intervals (default 1000; 0: none)",
    )
    judging.add_argument(
        "--level", type=float, default=0.95, metavar="P", help="of the intervals (default 0.95)"
    )
    judging.add_argument(
        "--bootstrap-seed", type=whole_number, default=0, metavar="N", help="default 0"
    )
    add_asking(command.add_argument_group("asking"))
    add_seeing(command.add_argument_group("seeing"))
    running = command.add_argument_group("running")
    add_running(running)
    running.add_argument(
        "--distributed",
        action="store_true",
        help="several processes evaluate together, one a host, each its share of the videos: run "
        "the same line on all (found by jax.distributed; process 0 writes the summary)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    if not args.benchmark and not args.predictions:
        args.parser.error("name at least one --benchmark NAME=LABELS:VIDEO_ROOT")
    if args.predictions and args.model:
        args.parser.error("--predictions needs no --model; name one of them")

    from vqathinker_jax.evaluation.benchmarks import (
        BenchmarkError,
        load_benchmark,
        parse_source,
    )
    from vqathinker_jax.evaluation.statistics import BootstrapConfig

    try:
        bootstrap = BootstrapConfig(args.bootstrap, args.level, args.bootstrap_seed)
    except ValueError as error:
        args.parser.error(str(error))
    on_bad = "skip" if args.skip_bad_labels else "refuse"
    try:
        sources = [parse_source(text, not args.predictions) for text in args.benchmark]
        benchmarks = [load_benchmark(source, on_bad) for source in sources]
        names = [benchmark.name.lower() for benchmark in benchmarks]
        for name in names:
            if names.count(name) > 1:
                raise BenchmarkError(f"benchmark {name} was named twice")
        if args.predictions:
            return finish(args, judge_files(args, benchmarks, bootstrap))
    except BenchmarkError as error:
        return fail(args, error, WRONG_USAGE)
    return evaluate_model(args, benchmarks, bootstrap)


def judge_files(
    args: argparse.Namespace, benchmarks: list[Benchmark], bootstrap: BootstrapConfig
) -> Evaluation:
    """The evaluation of predictions made elsewhere."""
    from vqathinker_jax.evaluation.judged import judge_predictions
    from vqathinker_jax.evaluation.outcome import Evaluation
    from vqathinker_jax.evaluation.predictions import benchmark_of, read_predictions
    from vqathinker_jax.evaluation.provenance import settings_of_judging

    files = [Path(name) for name in args.predictions]
    read = [read_predictions(file) for file in files]
    if benchmarks:
        together = [one for predictions in read for one in predictions]
        pairs = [(benchmark, together) for benchmark in benchmarks]
    else:
        pairs = [
            (benchmark_of(file, predictions), predictions)
            for file, predictions in zip(files, read, strict=True)
        ]
    outcomes = tuple(judge_predictions(one, found, bootstrap) for one, found in pairs)
    return Evaluation(
        model=", ".join(args.predictions),
        model_kind="predictions",
        warning=None,
        settings=settings_of_judging(bootstrap),
        outcomes=outcomes,
    )


def evaluate_model(
    args: argparse.Namespace, benchmarks: list[Benchmark], bootstrap: BootstrapConfig
) -> int:
    """Scores and judges; returns the exit code."""
    if args.distributed:
        import jax

        jax.distributed.initialize()
    from vqathinker_jax.api import from_pretrained, video_spec
    from vqathinker_jax.evaluation.shards import this_process
    from vqathinker_jax.results import ResultFileError

    settings = read_settings(args)
    changes = {name: vars(args)[name] for name in GEOMETRY if vars(args)[name] is not None}
    shard = this_process()
    try:
        video = video_spec(args.model, args.geometry, changes)
        model = from_pretrained(args.model, dtype=args.dtype, video=video)
        model.settings_fingerprint(settings)
    except ValueError as error:
        return fail(args, error, WRONG_USAGE)
    if model.warning and not args.quiet and shard.is_first:
        print(f"note: {model.warning}", file=sys.stderr)
    try:
        evaluation = score_benchmarks(args, model, settings, benchmarks, bootstrap, shard)
    except ResultFileError as error:
        return fail(args, error, SOME_FAILED)
    return finish(args, evaluation) if shard.is_first else OK


def score_benchmarks(
    args: argparse.Namespace,
    model: VideoQualityModel,
    settings: ScoreSettings,
    benchmarks: list[Benchmark],
    bootstrap: BootstrapConfig,
    shard: Shard,
) -> Evaluation:
    """The evaluation of a model, one benchmark after another."""
    from vqathinker_jax.evaluation.judged import judge_results
    from vqathinker_jax.evaluation.outcome import Evaluation
    from vqathinker_jax.evaluation.provenance import settings_of_asking
    from vqathinker_jax.evaluation.scored import score_videos
    from vqathinker_jax.terminal import Progress

    outcomes = []
    for benchmark in benchmarks:
        paths = [video.path for video in benchmark.videos]
        missing = [path for path in paths if not Path(path).is_file()]
        if not args.quiet and shard.is_first:
            said = f"{benchmark.name}: {len(paths)} videos"
            print(said + (f", {len(missing)} missing" if missing else ""), file=sys.stderr)
        share = len(shard.share(range(len(paths) - len(missing))))
        with Progress(total=share, is_quiet=args.quiet) as progress:
            results = score_videos(
                model,
                settings,
                paths,
                Path(args.out) / f"{benchmark.name}.jsonl",
                shard,
                progress.advance,
                progress.skip,
            )
        outcomes.append(judge_results(benchmark, results, bootstrap))
    return Evaluation(
        model=model.name,
        model_kind=model.loaded.kind,
        warning=model.warning,
        settings=settings_of_asking(model, settings, bootstrap, shard.count),
        outcomes=tuple(outcomes),
    )


def finish(args: argparse.Namespace, evaluation: Evaluation) -> int:
    """Writes the files and says what was found; returns the exit code."""
    import json

    from vqathinker_jax.evaluation.folder import write_evaluation
    from vqathinker_jax.evaluation.tables import as_json, text_summary

    try:
        write_evaluation(evaluation, Path(args.out))
    except OSError as error:
        return fail(args, f"{args.out}: cannot be written to ({error.strerror})", SOME_FAILED)
    print(json.dumps(as_json(evaluation)) if args.json else text_summary(evaluation))
    if not args.quiet:
        print(f"written to {args.out}", file=sys.stderr)
    lost = sum(one.num_missing + one.num_failed for one in evaluation.outcomes)
    return SOME_FAILED if lost else OK
