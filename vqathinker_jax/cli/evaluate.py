"""`vqathinker evaluate`: agreement with opinion scores on benchmarks."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqathinker_jax.cli.model_options import (
    add_asking,
    add_model,
    add_running,
    add_seeing,
    load_model,
    read_settings,
)
from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    at_least_one,
    fail,
    whole_number,
)

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from vqathinker_jax.evaluation.benchmarks import Benchmark
    from vqathinker_jax.evaluation.finevd import AttributionLabel
    from vqathinker_jax.evaluation.judge import JudgeConfig
    from vqathinker_jax.evaluation.outcome import Evaluation
    from vqathinker_jax.evaluation.questions import QuestionFile
    from vqathinker_jax.evaluation.statistics import BootstrapConfig
    from vqathinker_jax.evaluation.understanding import Understanding


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
        "NAME.jsonl (everything about each answer), missing.txt, summary.json, summary.md,\n"
        "understanding.json (where something was to be understood) and report.html.",
    )
    command.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME=LABELS:VIDEO_ROOT",
        help="label file (.json, .jsonl, .csv or .txt) and the folder its ids are in; repeatable",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the outputs")
    add_model(command)
    command.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="FILE.csv",
        help="judge these predictions (filename,pred_score[,gt_score]) instead of a model's; "
        "repeatable",
    )
    command.add_argument(
        "--understanding",
        action="append",
        default=[],
        metavar="NAME=LABELS:VIDEO_ROOT",
        help="does the reasoning name the distortions that people saw? LABELS: FineVD's yes/no "
        "JSON lines (a file, or a folder of them), or a table video,color,noise,artifact,blur,"
        "temporal; repeatable",
    )
    command.add_argument(
        "--questions",
        action="append",
        default=[],
        metavar="NAME=FILE.json:VIDEO_ROOT",
        help="multiple choice: a list of objects with video, question, options, answer and group "
        "(such as global, referring), or Q-Bench-Video's own file (video_name, question, answers, "
        "correct_ans, question_type, context), of which open-ended questions and those about two "
        "videos are left out; repeatable",
    )
    command.add_argument(
        "--skip-bad-labels",
        action="store_true",
        help="leave out label rows that cannot be used, and say which (default: refuse the file)",
    )
    command.add_argument(
        "--no-report", action="store_true", help="do not write report.html, the page for people"
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
        "--beside",
        action="append",
        default=[],
        metavar="NAME=FILE.json",
        help="show these figures in columns beside the table: the summary.json of another "
        'evaluation, or {"KoNViD-1k": {"srcc": X, "plcc": X}, "in-domain": {"srcc": X}}, for '
        "instance a paper's; repeatable",
    )
    judging.add_argument(
        "--bootstrap-seed", type=whole_number, default=0, metavar="N", help="default 0"
    )
    endpoint = command.add_argument_group(
        "language model as the judge of --understanding (default: keywords, offline)"
    )
    endpoint.add_argument(
        "--judge-url",
        metavar="URL",
        help="OpenAI-compatible endpoint, as https://host/v1; the reasoning texts are sent there. "
        "Its key, where it wants one, is read from VQATHINKER_JUDGE_KEY",
    )
    endpoint.add_argument("--judge-model", metavar="NAME", help="which of its models")
    endpoint.add_argument(
        "--judge-timeout", type=float, default=60.0, metavar="SECONDS", help="default 60"
    )
    endpoint.add_argument(
        "--judge-attempts", type=at_least_one, default=3, metavar="N", help="per text (default 3)"
    )
    add_asking(command.add_argument_group("asking"))
    add_seeing(command.add_argument_group("seeing"))
    running = command.add_argument_group("running")
    add_running(running)
    running.add_argument(
        "--devices",
        type=at_least_one,
        metavar="N",
        help="devices of this process that score together, each with a copy of the model (default: "
        "all there are)",
    )
    running.add_argument(
        "--distributed",
        action="store_true",
        help="several processes, one a host or a device, each score their share of the videos: "
        "run the same line in all of them; process 0 writes the summary",
    )
    running.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of process 0, with --processes and --process (default: found by JAX on TPU pods and "
        "under Slurm, Open MPI and Kubernetes)",
    )
    running.add_argument("--processes", type=at_least_one, metavar="N", help="how many there are")
    running.add_argument("--process", type=whole_number, metavar="I", help="this one, from 0")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    check_options(args)
    from vqathinker_jax.evaluation.benchmarks import (
        BenchmarkError,
        load_benchmark,
        parse_source,
    )
    from vqathinker_jax.evaluation.beside import read_beside
    from vqathinker_jax.evaluation.statistics import BootstrapConfig

    try:
        bootstrap = BootstrapConfig(args.bootstrap, args.level, args.bootstrap_seed)
    except ValueError as error:
        args.parser.error(str(error))
    on_bad = "skip" if args.skip_bad_labels else "refuse"
    try:
        sources = [parse_source(text, not args.predictions) for text in args.benchmark]
        benchmarks = [load_benchmark(source, on_bad) for source in sources]
        tasks = read_tasks(args)
        names = [one.name.lower() for one in (*benchmarks, *tasks.attributions, *tasks.questions)]
        for name in names:
            if names.count(name) > 1:
                raise BenchmarkError(f"{name} was named twice")
        figures = dict(read_beside(text) for text in args.beside)
        beside = {"beside": figures} if figures else {}
        if args.predictions:
            from vqathinker_jax.evaluation.run import evaluate_files

            files = [Path(name) for name in args.predictions]
            evaluation = evaluate_files(files, benchmarks, bootstrap)
            return finish(args, with_settings(evaluation, beside))
    except BenchmarkError as error:
        return fail(args, error, WRONG_USAGE)
    return evaluate_model(args, benchmarks, tasks, bootstrap, beside)


def check_options(args: argparse.Namespace) -> None:
    """Ends the program where options do not go together."""
    error = args.parser.error
    tasks = [*args.understanding, *args.questions]
    if not (args.benchmark or args.predictions or tasks):
        error("name at least one --benchmark NAME=LABELS:VIDEO_ROOT")
    if args.predictions and (args.model or tasks):
        error("--predictions needs no model: leave out --model, --understanding and --questions")
    if args.understanding and args.at_once:
        error("--understanding judges the reasons, and --at-once asks for none")
    if args.judge_model and not args.judge_url:
        error("--judge-model needs --judge-url")
    if args.judge_url and not args.understanding:
        error("--judge-url judges --understanding, which is not named")
    placed = (args.coordinator, args.processes, args.process)
    if any(one is not None for one in placed):
        if not args.distributed or any(one is None for one in placed):
            error("--coordinator, --processes and --process go together, with --distributed")
        if args.process >= args.processes:
            error(f"--process must be below --processes {args.processes}, got {args.process}")


@dataclasses.dataclass(frozen=True)
class Task:
    """Labels of attribution, or questions, that were read."""

    name: str
    items: tuple[AttributionLabel, ...] | QuestionFile


@dataclasses.dataclass(frozen=True)
class Tasks:
    """What is to be understood."""

    attributions: tuple[Task, ...]
    questions: tuple[Task, ...]
    judge: JudgeConfig | None


def read_tasks(args: argparse.Namespace) -> Tasks:
    """Reads what the options name.

    Raises:
      BenchmarkError: something cannot be used as it is.
    """
    from vqathinker_jax.evaluation.benchmarks import BenchmarkError, parse_source
    from vqathinker_jax.evaluation.finevd import read_attribution_labels
    from vqathinker_jax.evaluation.judge import JudgeConfig
    from vqathinker_jax.evaluation.questions import read_questions

    def read(texts: list[str], reader: Callable[[Path, Path], Any]) -> tuple[Task, ...]:
        tasks = []
        for text in texts:
            source = parse_source(text)
            if not source.root.is_dir():
                raise BenchmarkError(f"{source.name}: video root {source.root} is no folder")
            tasks.append(Task(source.name, reader(source.labels, source.root)))
        return tuple(tasks)

    judge = None
    if args.judge_url:
        try:
            judge = JudgeConfig(
                args.judge_url, args.judge_model or "", args.judge_timeout, args.judge_attempts
            )
        except ValueError as error:
            raise BenchmarkError(str(error)) from None
    return Tasks(
        read(args.understanding, read_attribution_labels),
        read(args.questions, read_questions),
        judge,
    )


def evaluate_model(
    args: argparse.Namespace,
    benchmarks: list[Benchmark],
    tasks: Tasks,
    bootstrap: BootstrapConfig,
    beside: dict[str, Any],
) -> int:
    """Scores and judges; returns the exit code."""
    if args.distributed:
        import jax

        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    from vqathinker_jax.evaluation.run import ModelRun
    from vqathinker_jax.evaluation.shards import this_process
    from vqathinker_jax.evaluation.understanding import Understanding

    settings = read_settings(args)
    shard = this_process()
    try:
        model = load_model(args, mesh=mesh_of_devices(args.devices))
        model.settings_fingerprint(settings)
    except ValueError as error:
        return fail(args, error, WRONG_USAGE)
    if model.warning and not args.quiet and shard.is_first:
        print(f"note: {model.warning}", file=sys.stderr)
    try:
        made = ModelRun(model, settings, Path(args.out), shard, args.quiet)
        evaluation = with_settings(made.benchmarks(benchmarks, bootstrap), beside)
        understanding = Understanding(
            tuple(made.attribution(one.name, one.items, tasks.judge) for one in tasks.attributions),
            tuple(made.questions(one.name, one.items) for one in tasks.questions),
        )
    except (ValueError, OSError) as error:
        return fail(args, error, SOME_FAILED)
    return finish(args, evaluation, understanding) if shard.is_first else OK


def mesh_of_devices(count: int | None) -> Mesh | None:
    """A mesh over devices of this process; None where one does the work alone.

    Raises:
      ValueError: more than there are.
    """
    import jax

    from vqathinker_jax.parallel import make_mesh

    devices = jax.local_devices()
    if count is not None and count > len(devices):
        raise ValueError(f"--devices {count}: there are {len(devices)}")
    devices = devices[:count]
    return make_mesh(data=len(devices), devices=devices) if len(devices) > 1 else None


def with_settings(evaluation: Evaluation, more: dict[str, Any]) -> Evaluation:
    """The same with more settings."""
    return dataclasses.replace(evaluation, settings=evaluation.settings | more)


def finish(
    args: argparse.Namespace, evaluation: Evaluation, understanding: Understanding | None = None
) -> int:
    """Writes the files and says what was found; returns the exit code."""
    import json

    from vqathinker_jax.evaluation.folder import write_evaluation
    from vqathinker_jax.evaluation.tables import as_json, text_summary
    from vqathinker_jax.evaluation.understanding import (
        Understanding,
        json_understanding,
        text_understanding,
    )
    from vqathinker_jax.reports.evaluation import write_evaluation_report
    from vqathinker_jax.reports.page import ReportError

    understanding = understanding or Understanding()
    try:
        write_evaluation(evaluation, Path(args.out), understanding)
    except OSError as error:
        return fail(args, f"{args.out}: cannot be written to ({error.strerror})", SOME_FAILED)
    if args.json:
        understood = json_understanding(understanding)
        print(json.dumps({**as_json(evaluation), "understanding": understood}))
    else:
        print(text_summary(evaluation))
        if not understanding.is_empty:
            print("\n" + text_understanding(understanding))
    if not args.no_report:
        # Last: what was found is told even where no page can be written.
        try:
            write_evaluation_report(evaluation, Path(args.out) / "report.html", understanding)
        except ReportError as error:
            return fail(args, error, SOME_FAILED)
    if not args.quiet:
        print(f"written to {args.out}", file=sys.stderr)
    lost = sum(one.num_missing + one.num_failed for one in evaluation.outcomes)
    return SOME_FAILED if lost + understanding.num_lost else OK
