"""Scoring a benchmark's videos, resumable, each process its share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vqathinker_jax.api import VideoQualityModel
from vqathinker_jax.evaluation.shards import Shard
from vqathinker_jax.result_file import ResultFile
from vqathinker_jax.results import ScoreResult, result_from_json
from vqathinker_jax.scoring import ScoreSettings
from vqathinker_jax.whole_file import write_whole


def score_videos(
    model: VideoQualityModel,
    settings: ScoreSettings,
    paths: Sequence[str],
    output: Path,
    shard: Shard,
    progress: Callable[[ScoreResult], None],
    skipped: Callable[[int], None],
) -> dict[str, ScoreResult]:
    """Scores the files that exist; the others are not in the result.

    A row is written as soon as it is known; a second call scores what is missing, failed or
    changed. With several processes each writes a part, and `output` is made on process 0 of all.

    Args:
      model: asked.
      settings: how.
      paths: of all videos.
      output: JSON lines.
      shard: this process.
      progress: called with every new result.
      skipped: called first, with the number of results that were there already.

    Returns:
      From path to result: of all processes.

    Raises:
      ResultFileError: `output` is not ours or cannot be written.
      ValueError: settings that the model cannot fulfil.
    """
    existing = [path for path in paths if os.path.isfile(path)]
    mine = shard.share(existing)
    with ResultFile(shard.file(output), model.settings_fingerprint(settings), mine) as file:
        made = {result.path: result for result in file.finished()}
        skipped(len(made))
        todo = [path for path in mine if path not in made]
        for result in model.score_many(todo, settings):
            file.write(result)
            made[result.path] = result
            progress(result)
    if shard.count == 1:
        return made
    lines = "".join(result.to_json() + "\n" for result in made.values())
    gathered = {}
    for text in shard.gather(lines, output.name):
        for line in text.splitlines():
            result = result_from_json(line)
            gathered[result.path] = result
    if shard.is_first:
        write_whole(output, "".join(gathered[path].to_json() + "\n" for path in existing))
    return gathered
