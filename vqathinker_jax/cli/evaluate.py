"""`vqathinker evaluate`: agreement with opinion scores on benchmarks."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqathinker_jax.cli.evaluate_options import add_options, check_options
from vqathinker_jax.cli.joining import join_others, keep_stdout_for_results
from vqathinker_jax.cli.model_options import load_model, read_settings
from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    fail,
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
    add_options(command)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    check_options(args)
    from vqathinker_jax.evaluation.benchmarks import (
        BenchmarkError,
        load_benchmark,
        parse_source,
    )
    from vqathinker_jax.evaluation.beside import read_beside
    from vqathinker_jax.evaluation.folder import require_apart
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
        files = [Path(name) for name in args.predictions]
        tables = [] if benchmarks else [file.stem for file in files]
        inputs = [*files, *(source.labels for source in sources), *tasks.files]
        inputs += [Path(text.partition("=")[2]) for text in args.beside]
        require_apart(Path(args.out), [*names, *tables], inputs)
        figures = dict(read_beside(text) for text in args.beside)
        beside = {"beside": figures} if figures else {}
        if args.predictions:
            from vqathinker_jax.evaluation.run import evaluate_files

            evaluation = evaluate_files(files, benchmarks, bootstrap)
            return finish(args, with_settings(evaluation, beside))
    except BenchmarkError as error:
        return fail(args, error, WRONG_USAGE)
    return evaluate_model(args, benchmarks, tasks, bootstrap, beside)


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
    files: tuple[Path, ...]
    """That they were read from."""


def read_tasks(args: argparse.Namespace) -> Tasks:
    """Reads what the options name.

    Raises:
      BenchmarkError: something cannot be used as it is.
    """
    from vqathinker_jax.evaluation.benchmarks import BenchmarkError, parse_source
    from vqathinker_jax.evaluation.finevd import read_attribution_labels
    from vqathinker_jax.evaluation.judge import JudgeConfig
    from vqathinker_jax.evaluation.questions import read_questions

    files: list[Path] = []

    def read(texts: list[str], reader: Callable[[Path, Path], Any]) -> tuple[Task, ...]:
        tasks = []
        for text in texts:
            source = parse_source(text)
            if not source.root.is_dir():
                raise BenchmarkError(f"{source.name}: video root {source.root} is no folder")
            tasks.append(Task(source.name, reader(source.labels, source.root)))
            files.append(source.labels)
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
        tuple(files),
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
        from vqathinker_jax.processes import ProcessesError

        keep_stdout_for_results()
        try:
            join_others(args)
        except ProcessesError as error:
            return fail(args, error, WRONG_USAGE)
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

    from vqathinker_jax.evaluation.folder import (
        REPORT,
        UNDERSTANDING,
        files_of_others,
        write_evaluation,
    )
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
            write_evaluation_report(evaluation, Path(args.out) / REPORT, understanding)
        except ReportError as error:
            return fail(args, error, SOME_FAILED)
    if not args.quiet:
        print(f"written to {args.out}", file=sys.stderr)
        names = [one.name for one in evaluation.outcomes]
        has = [REPORT] * (not args.no_report) + [UNDERSTANDING] * (not understanding.is_empty)
        others = files_of_others(Path(args.out), names, has)
        if others:
            print(f"note: not of this evaluation there: {', '.join(others)}", file=sys.stderr)
    lost = sum(one.num_missing + one.num_failed for one in evaluation.outcomes)
    return SOME_FAILED if lost + understanding.num_lost else OK
