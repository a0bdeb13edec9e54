"""Asking a model multiple-choice questions, resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from vqathinker_jax.api import VideoQualityModel
from vqathinker_jax.data.clip import FrameRequest
from vqathinker_jax.data.pool import DecodePool
from vqathinker_jax.data.video import VideoError
from vqathinker_jax.evaluation.questions import LETTERS, Answered, Question, read_letter
from vqathinker_jax.evaluation.shards import Shard
from vqathinker_jax.results import file_stamp
from vqathinker_jax.scoring import Asker, ScoreSettings
from vqathinker_jax.whole_file import write_whole

AHEAD = 8
"""Questions whose videos are decoded ahead of need."""


def ask_questions(
    model: VideoQualityModel,
    settings: ScoreSettings,
    questions: Sequence[Question],
    output: Path,
    shard: Shard,
    progress: Callable[[int], None],
) -> tuple[Answered, ...]:
    """Asks every question whose video exists, greedily, one at a time.

    Answers are appended to `output` as they come, and a second call asks what is missing.

    Args:
      model: asked.
      settings: how; its question, its samples and how a score is read are not used.
      questions: from a file.
      output: JSON lines.
      shard: this process.
      progress: called with the number of questions done so far.

    Returns:
      One for each question, in order: of all processes.

    Raises:
      ValueError: `output` is not ours, or a prompt that the model has no room for.
      OSError: it cannot be written.
    """
    settings = dataclasses.replace(
        settings,
        samples=1,
        temperature=0.0,
        batch_size=1,
        aggregate="mean",
        soft=False,
        at_once=False,
    )
    mine = shard.share(questions)
    file = shard.file(output)
    keys = {one.number: _key(model, settings, one) for one in mine}
    done = {
        number: answer
        for number, (key, answer) in _read(file).items()
        if keys.get(number) == key and answer.status not in ("error", "missing")
    }
    _rewrite(file, ((keys[number], answer) for number, answer in done.items()))
    todo = [one for one in mine if one.number not in done]
    progress(len(done))
    with open(file, "a", encoding="utf-8") as stream:
        for answer in _answers(model, settings, todo):
            done[answer.number] = answer
            stream.write(_line(keys[answer.number], answer))
            stream.flush()
            progress(len(done))
    texts = shard.gather("".join(_line("", answer) for answer in done.values()), output.name)
    together = {
        number: answer for text in texts for number, (_, answer) in _parse(text, output).items()
    }
    if shard.count > 1 and shard.is_first:
        _rewrite(output, ((_key(model, settings, q), together[q.number]) for q in questions))
    return tuple(together[question.number] for question in questions)


def _answers(
    model: VideoQualityModel, settings: ScoreSettings, questions: Sequence[Question]
) -> Iterable[Answered]:
    existing = [one for one in questions if os.path.isfile(one.path)]
    for one in questions:
        if not os.path.isfile(one.path):
            yield _answered(one, "missing")
    if not existing:
        return
    with DecodePool(
        num_workers=min(settings.num_workers, len(existing)),
        request=FrameRequest.of(model.video),
        decoder=settings.decoder,
        timeout_s=settings.timeout_s,
        memory_bytes=settings.memory_bytes,
    ) as pool:
        futures = {}
        for place, question in enumerate(existing):
            for ahead in existing[place : place + AHEAD]:
                if ahead.number not in futures:
                    futures[ahead.number] = pool.submit(ahead.path)
            try:
                clip = futures.pop(question.number).result()
            except VideoError as error:
                yield _answered(question, "error", error=str(error))
                continue
            asker = Asker(model.loaded, _about(settings, question), 1)
            ((response,),) = asker.ask(np.stack([clip.frames]))
            letter = read_letter(response, question.options)
            status = "no letter" if letter is None else "ok"
            yield _answered(question, status, letter, response)


def _about(settings: ScoreSettings, question: Question) -> ScoreSettings:
    return dataclasses.replace(settings, question=question.prompt)


def _answered(
    question: Question,
    status: str,
    chosen: str | None = None,
    response: str | None = None,
    error: str | None = None,
) -> Answered:
    right = LETTERS[question.answer]
    return Answered(
        question.number, question.video, question.group, status, right, chosen, response, error
    )


def _key(model: VideoQualityModel, settings: ScoreSettings, question: Question) -> str:
    """Changes with the model, the settings, the question, its right answer and its video."""
    facts = (
        model.settings_fingerprint(_about(settings, question)),
        question.video,
        question.group,
        question.answer,
        file_stamp(question.path),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _line(key: str, answer: Answered) -> str:
    return json.dumps({"key": key, **dataclasses.asdict(answer)}) + "\n"


def _read(file: Path) -> dict[int, tuple[str, Answered]]:
    return _parse(file.read_text(encoding="utf-8"), file) if file.exists() else {}


def _parse(text: str, file: Path) -> dict[int, tuple[str, Answered]]:
    found = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row.pop("key")
            answer = Answered(**row)
        except (ValueError, TypeError, LookupError, AttributeError):
            if number == len(lines):
                break  # cut short by a kill: asked again
            raise ValueError(
                f"{file} line {number} is not an answer to a question; name another --out or "
                "remove the file"
            ) from None
        found[answer.number] = (key, answer)
    return found


def _rewrite(file: Path, answers: Iterable[tuple[str, Answered]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(_line(*one) for one in answers))
