"""An evaluation from beginning to end: of a model, or of predictions made elsewhere."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vqathinker_jax.api import VideoQualityModel
from vqathinker_jax.evaluation.asked import ask_questions
from vqathinker_jax.evaluation.benchmarks import Benchmark, BenchmarkError
from vqathinker_jax.evaluation.distortions import attribute
from vqathinker_jax.evaluation.finevd import (
    KEYWORDS,
    AttributionLabel,
    AttributionOutcome,
    judge_attribution,
)
from vqathinker_jax.evaluation.judge import JudgeConfig, LanguageJudge
from vqathinker_jax.evaluation.judged import judge_predictions, judge_results
from vqathinker_jax.evaluation.outcome import Evaluation
from vqathinker_jax.evaluation.predictions import benchmark_of, match, read_predictions
from vqathinker_jax.evaluation.provenance import settings_of_asking, settings_of_judging
from vqathinker_jax.evaluation.questions import QuestionFile, QuestionsOutcome
from vqathinker_jax.evaluation.scored import score_videos
from vqathinker_jax.evaluation.shards import Shard
from vqathinker_jax.evaluation.statistics import BootstrapConfig
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.scoring import ScoreSettings
from vqathinker_jax.terminal import Counter, Progress


def evaluate_files(
    files: Sequence[Path], benchmarks: Sequence[Benchmark], bootstrap: BootstrapConfig
) -> Evaluation:
    """The evaluation of predictions made elsewhere.

    Args:
      files: CSV files of predictions.
      benchmarks: what they are held against, all files together; none: each file holds its own
        labels and is a benchmark.
      bootstrap: how intervals are made.

    Raises:
      BenchmarkError: a file that cannot be used, or one video predicted by several.
    """
    read = [read_predictions(file) for file in files]
    together = [one for predictions in read for one in predictions]
    if benchmarks:
        count = collections.Counter(one.name for one in together)
        twice = [name for name, num in count.items() if num > 1]
        if twice:
            raise BenchmarkError(f"{twice[0]!r} stands in several files")
        pairs = [(benchmark, together) for benchmark in benchmarks]
    else:
        stems = [file.stem.lower() for file in files]
        twice = [file for file in files if stems.count(file.stem.lower()) > 1]
        if twice:
            raise BenchmarkError(f"{', '.join(map(str, twice))}: files of one name; rename one")
        pairs = [
            (benchmark_of(file, predictions), predictions)
            for file, predictions in zip(files, read, strict=True)
        ]
    used = {
        one.name
        for benchmark, predictions in pairs
        for one in match(benchmark.videos, predictions)
        if one is not None
    }
    num_unused = sum(one.name not in used for one in together)
    return Evaluation(
        model=_listed(files),
        model_kind="predictions",
        warning=f"{num_unused} predictions fit no label" if num_unused else None,
        settings=settings_of_judging(bootstrap),
        outcomes=tuple(judge_predictions(*pair, bootstrap) for pair in pairs),
    )


def _listed(files: Sequence[Path]) -> str:
    """The names of a few files, or the first and how many more."""
    names = [os.fspath(file) for file in files]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more files"


class ModelRun:
    """One model evaluated into one folder, resumable: the same calls again do what is missing.

    Args:
      model: asked.
      settings: how.
      out: folder of the results.
      shard: this process; each scores its share, and all get the results of all.
      is_quiet: nothing on stderr.
    """

    def __init__(
        self,
        model: VideoQualityModel,
        settings: ScoreSettings,
        out: Path,
        shard: Shard,
        is_quiet: bool,
    ):
        self.model = model
        self.settings = settings
        self.out = out
        self.shard = shard
        self.is_quiet = is_quiet

    def benchmarks(self, benchmarks: Sequence[Benchmark], bootstrap: BootstrapConfig) -> Evaluation:
        """Scores and judges benchmarks, one after another.

        Raises:
          ResultFileError: a result file that is not ours or cannot be written.
        """
        outcomes = []
        for benchmark in benchmarks:
            results = self._score(benchmark.name, [video.path for video in benchmark.videos])
            outcomes.append(judge_results(benchmark, results, bootstrap))
        return Evaluation(
            model=self.model.name,
            model_kind=self.model.loaded.kind,
            warning=self.model.warning,
            settings=settings_of_asking(self.model, self.settings, bootstrap, self.shard.count),
            outcomes=tuple(outcomes),
        )

    def attribution(
        self, name: str, labels: Sequence[AttributionLabel], judge: JudgeConfig | None
    ) -> AttributionOutcome:
        """Scores videos and judges which distortions the reasoning names.

        Args:
          name: of the files in the folder.
          labels: what people saw.
          judge: a language model; None for keywords. Process 0 alone asks it.

        Raises:
          ResultFileError, ValueError, OSError: a file that is not ours or cannot be written.
        """
        results = self._score(name, [label.path for label in labels])
        if judge is None or not self.shard.is_first:
            return judge_attribution(
                name, labels, results, KEYWORDS, lambda text, _: attribute(text).named
            )
        named = LanguageJudge(judge, self.out / f"{name}.judge.jsonl").named
        return judge_attribution(name, labels, results, f"{judge.model} at {judge.url}", named)

    def questions(self, name: str, file: QuestionFile) -> QuestionsOutcome:
        """Asks multiple-choice questions.

        Raises:
          ValueError, OSError: a file that is not ours or cannot be written.
        """
        total = len(self.shard.share(file.questions))
        with Counter("questions", total, self.is_quiet) as counter:
            answers = ask_questions(
                self.model,
                self.settings,
                file.questions,
                self.out / f"{name}.jsonl",
                self.shard,
                lambda done: counter.show(done, total),
            )
        return QuestionsOutcome(name, answers, file.notes)

    def _score(self, name: str, paths: Sequence[str]) -> dict[str, ScoreResult]:
        """Scores videos into NAME.jsonl, with progress on stderr."""
        num_missing = sum(not os.path.isfile(path) for path in paths)
        if not self.is_quiet and self.shard.is_first:
            said = f"{name}: {len(paths)} videos"
            print(said + (f", {num_missing} missing" if num_missing else ""), file=sys.stderr)
        share = len(self.shard.share(range(len(paths) - num_missing)))
        with Progress(total=share, is_quiet=self.is_quiet) as progress:
            return score_videos(
                self.model,
                self.settings,
                paths,
                self.out / f"{name}.jsonl",
                self.shard,
                progress.advance,
                progress.skip,
            )
