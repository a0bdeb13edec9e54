"""A data set of distorted clips with pseudo opinion scores, written as real video files.

OUT/videos/<id>.mp4                       the clips
OUT/train.jsonl validation.jsonl test.jsonl   labels in the published form, one JSON object a line
OUT/manifest.json                         how it was made, the mapping from distortion to score,
                                          every scene used with its split and licence, counts

A label line has the published keys `id`, `dataset_name`, `image` (one path, relative to OUT) and
`conversations` (the published question; the score as a number), and our own: `distortions` (name,
severity, strength, what was done), `scene`, `licence`, `width`, `height`, `fps`, `num_frames`.

Clip i of a seed is the same whatever the number of clips and of worker processes. Its target score
is drawn first, evenly over 1 to 5, then distortions and strengths that would give it
(`opinions.DRAWN_WEIGHTS`); the label is the score of what is really seen (`opinions.py`).
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.synthetic import opinions
from vqathinker_jax.synthetic.clips import (
    ClipRecord,
    Recipe,
    SynthesisError,
    make_clip,
    view_of,
)
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.synthetic.encoding import missing_encoders
from vqathinker_jax.synthetic.scenes import SPLITS, photograph_folder
from vqathinker_jax.whole_file import write_whole

__all__ = ["Recipe", "Synthesis", "SynthesisError", "synthesize"]

FORMAT = 3
"""Raised whenever the same seed gives other clips."""
TYPICAL_CLIP_BYTES = 900_000
JOURNAL = ".clips.jsonl"
"""One line a finished clip, in the order of finishing; what a later run goes on from."""


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """What a run of `synthesize` did."""

    folder: Path
    num_written: int
    num_kept: int
    """Clips that an earlier run had made."""
    counts: dict[str, int]
    """Clips by split."""
    has_photographs: bool
    """False without scikit-image and pictures: all content is procedural then."""


def synthesize(
    out_dir: os.PathLike | str,
    num_clips: int,
    seed: int = 0,
    workers: int | None = None,
    *,
    recipe: Recipe | None = None,
    with_photographs: bool = True,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Writes a data set of distorted clips with pseudo opinion scores.

    A run that was stopped is finished by the same call: clips already there are kept. A larger
    number of clips adds to them.

    >>> synthesize("clips", num_clips=200, seed=0).counts  # doctest: +SKIP
    {'train': 160, 'validation': 20, 'test': 20}

    Args:
      out_dir: folder to write to; made if absent.
      num_clips: clips in all splits together.
      seed: decides views, distortions and scores; content and its splits are the same for all.
      workers: processes; None for one a core, 1 for none beside this one.
      recipe: everything else about the clips; its seed is replaced by `seed`.
      with_photographs: False leaves out all photographs.
      command: for the manifest, the command line that asked for this.
      progress: called with the clips done and the clips in all.

    Raises:
      SynthesisError: nothing can be written, no room, no encoder, the folder holds clips made
        differently, a worker died, or an argument is impossible.
    """
    if num_clips < 1:
        raise SynthesisError(f"the number of clips must be at least 1, got {num_clips}")
    workers = _default_workers() if workers is None else workers
    if workers < 1:
        raise SynthesisError(f"the number of workers must be at least 1, got {workers}")
    recipe = dataclasses.replace(recipe or Recipe(), seed=seed)
    has_photographs = with_photographs and bool(recipe.pictures or photograph_folder())
    if not has_photographs:
        recipe = dataclasses.replace(recipe, photograph_share=0.0)
    folder = Path(out_dir)
    _prepare_folder(folder)
    _check_same_recipe(folder, recipe)
    records = {record.index: record for record in _finished(folder)}
    kept = len([index for index in records if index < num_clips])
    done = kept
    missing = [index for index in range(num_clips) if index not in records]
    _check_room(folder, len(missing))
    try:
        if missing:
            _write_manifest(folder, recipe, [], command, is_complete=False)
        with open(folder / JOURNAL, "a", encoding="utf-8") as journal:
            for record in _make_all(recipe, missing, folder, workers):
                records[record.index] = record
                journal.write(json.dumps(dataclasses.asdict(record)) + "\n")
                journal.flush()
                done += 1
                if progress is not None:
                    progress(done, num_clips)
        chosen = [records[index] for index in range(num_clips)]
        _write_labels(folder, recipe, chosen)
        _write_manifest(folder, recipe, chosen, command, is_complete=True)
    except OSError as error:
        raise SynthesisError(_explain(folder, error)) from None
    except VideoError as error:
        raise SynthesisError(f"a picture can no longer be read: {error}") from None
    except BrokenProcessPool:
        raise SynthesisError(
            "a worker process died, perhaps for lack of memory; run the same command again "
            "with fewer workers to go on"
        ) from None
    counts = {split: sum(record.split == split for record in chosen) for split in SPLITS}
    return Synthesis(folder, len(missing), kept, counts, has_photographs)


def _default_workers() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _make_all(
    recipe: Recipe, indices: list[int], folder: Path, workers: int
) -> Iterator[ClipRecord]:
    """Makes clips in this process or in others, in any order."""
    groups = collections.defaultdict(list)
    for index in indices:
        groups[view_of(recipe, index)].append(index)
    if workers == 1 or len(groups) < 2:
        for group in groups.values():
            for index in group:
                yield make_clip(recipe, index, folder)
        return
    # Spawned, so that a caller's threads and accelerator are not copied into the workers.
    context = multiprocessing.get_context("spawn")
    num = min(workers, len(groups))
    with ProcessPoolExecutor(num, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(_make, recipe, group, folder) for group in groups.values()]
        try:
            for future in as_completed(futures):
                yield from future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker when the process that asked for it is killed: it would wait for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make(recipe: Recipe, indices: list[int], folder: Path) -> list[ClipRecord]:
    """The clips of one view, which is rendered once."""
    return [make_clip(recipe, index, folder) for index in indices]


def _prepare_folder(folder: Path) -> None:
    """Makes the folder and finds out whether clips can be written there, before any is made."""
    lacking = missing_encoders()
    if lacking:
        raise SynthesisError(f"this build of PyAV lacks the encoders {', '.join(lacking)}")
    trial = folder / "videos" / ".trial"
    try:
        trial.parent.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"0")
        trial.unlink()
    except OSError as error:
        raise SynthesisError(_explain(folder, error)) from None


def _explain(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{folder}: the disk is full; make room and run the same command again to go on"
    return f"{folder}: cannot be written to ({error.strerror or error})"


def _check_room(folder: Path, num_missing: int) -> None:
    free, needed = shutil.disk_usage(folder).free, num_missing * TYPICAL_CLIP_BYTES
    if needed > free:
        raise SynthesisError(
            f"{folder}: {num_missing} clips need about {needed / 1e9:.1f} GB, and only "
            f"{free / 1e9:.1f} GB are free"
        )


def _settings(recipe: Recipe) -> dict:
    settings = {"format": FORMAT, **dataclasses.asdict(recipe)}
    # Where pictures lie is nobody's business, and a moved folder holds the same ones.
    del settings["pictures"]
    if recipe.pictures:
        records = json.dumps([scene.record() for scene in recipe.pictures])
        digest = hashlib.sha256(records.encode()).hexdigest()[:12]
        settings["pictures"] = f"{len(recipe.pictures)} of digest {digest}"
    return json.loads(json.dumps(settings))


def _check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuses a folder whose clips were made differently."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return
    try:
        there = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError, OSError):
        raise SynthesisError(
            f"{manifest}: is not the manifest of synthetic clips; name another folder"
        ) from None
    here = _settings(recipe)
    differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if differing:
        pairs = ", ".join(f"{key} {there.get(key)} not {here.get(key)}" for key in differing)
        raise SynthesisError(
            f"{folder}: holds clips made differently ({pairs}); name another folder"
        )


def _finished(folder: Path) -> Iterator[ClipRecord]:
    """Clips of earlier runs whose files are there and whole."""
    journal = folder / JOURNAL
    if not journal.exists() or not (folder / "manifest.json").exists():
        return
    lines = journal.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        # The last run was killed in the middle of a line; what is appended must not join it.
        journal.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    for line in lines[:-1]:
        record = ClipRecord.from_line(line)
        path = folder / record.path
        if path.is_file() and path.stat().st_size == record.num_bytes:
            yield record


def _write_labels(folder: Path, recipe: Recipe, records: list[ClipRecord]) -> None:
    for split in SPLITS:
        lines = [
            json.dumps(record.label(_view_name(recipe, record)))
            for record in records
            if record.split == split
        ]
        write_whole(folder / f"{split}.jsonl", "".join(f"{line}\n" for line in lines))


def _view_name(recipe: Recipe, record: ClipRecord) -> str:
    """The name of a clip's view, another one for every seed: label files may be joined."""
    split, number = view_of(recipe, record.index)
    return f"synth-{recipe.seed}-{split}-{number}"


def _content(recipe: Recipe) -> str:
    if recipe.photograph_share == 0:
        return "procedural scenes only; photographs need scikit-image (extra `synth`) or pictures"
    parts = [f"{len(recipe.pictures)} pictures of a folder"] if recipe.pictures else []
    if photograph_folder() is not None:
        parts.append("photographs that ship inside scikit-image")
    return ", ".join([*parts, "procedural scenes"])


def _write_manifest(
    folder: Path, recipe: Recipe, records: list[ClipRecord], command: str, is_complete: bool
) -> None:
    used = {record.scene for record in records}
    scores = [record.score for record in records]
    names = collections.Counter(one.name for record in records for one in record.distortions)
    manifest = {
        "command": command,
        "settings": _settings(recipe),
        "is_complete": is_complete,
        "num_clips": len(records),
        "counts": {split: sum(r.split == split for r in records) for split in SPLITS},
        "num_bytes": sum(record.num_bytes for record in records),
        "content": _content(recipe),
        "score": {
            "mapping": opinions.__doc__,
            "weights": opinions.WEIGHTS,
            "strength_knots": opinions.KNOTS,
            "typical_damage": opinions.TYPICAL,
            "histogram": {
                "edges": np.linspace(1, 5, 9).tolist(),
                "counts": np.histogram(scores, 8, (1, 5))[0].tolist(),
            },
        },
        "distortions": {
            one.name: {
                "category": one.category,
                "mapping": one.mapping,
                "num_clips": names[one.name],
            }
            for one in DISTORTIONS.values()
        },
        "scenes": [scene.record() for scene in recipe.scenes() if scene.id in used],
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
