"""Labelled videos as a stream of training batches: shuffled, decoded ahead, resumable."""

from __future__ import annotations

import dataclasses
import logging
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from vqathinker_jax.data.augment import augment, draw_cells, draw_view, resample_cells
from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.data.labels import (
    ON_BAD,
    SCALES,
    LabelError,
    LabelledVideo,
    linear_scale,
    read_labels,
)
from vqathinker_jax.data.order import ContentOrder
from vqathinker_jax.data.prompt import STYLES
from vqathinker_jax.data.reader import FrameReader
from vqathinker_jax.data.video import DECODERS
from vqathinker_jax.spec import VideoSpec

LOG = logging.getLogger(__name__)

B = TypeVar("B")
T = TypeVar("T")

FEWEST_SEEN = 20
"""Clips that must have been tried before their unreadable share can stop a run."""


@dataclasses.dataclass(frozen=True)
class LabelSource:
    """A label file and what is needed to read it.

    Raises:
      ValueError: an unknown scale, an empty range or an unknown value of `on_bad`.
    """

    labels: str
    """Path of a `.jsonl`, `.json`, `.csv` or `.txt` file; see `read_labels`."""
    video_root: str
    """Folder that the file's paths are relative to."""
    scale: str | tuple[float, float]
    """What the scores mean: a name in `SCALES`, or [low, high] to be mapped to 1-5 linearly."""
    on_bad: str = "refuse"
    """`refuse` a file with bad lines, or `skip` them."""

    def __post_init__(self) -> None:
        if not isinstance(self.scale, str):
            linear_scale(*self.scale)
        elif self.scale not in SCALES:
            raise ValueError(f"scale must be one of {tuple(SCALES)} or a pair, got {self.scale!r}")
        if self.on_bad not in ON_BAD:
            raise ValueError(f"on_bad must be one of {ON_BAD}, got {self.on_bad!r}")

    def read(self) -> tuple[LabelledVideo, ...]:
        """The usable lines; skipped ones are logged.

        Raises:
          LabelError, OSError: as `read_labels`.
        """
        labels = read_labels(
            self.labels, scale=self.scale, video_root=self.video_root, on_bad=self.on_bad
        )
        for bad in labels.bad_lines:
            LOG.warning("%s: line %d skipped: %s", self.labels, bad.line, bad.reason)
        return labels.videos


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which videos are trained on and validated with, and how they are read.

    Raises:
      ValueError: an unknown decoder or prompt style, or a number out of range.
    """

    train: LabelSource
    validation: LabelSource | None = None
    """None: no validation."""
    prompt_style: str = "train"
    """Wording of the prompt in training; see `build_prompt_text`."""
    reasoning: bool = True
    """Whether the model thinks before it answers. False: the prompt asks for the answer alone, and
    that is what the format reward accepts and what the texts of SFT hold."""
    decoder: str = "pyav"
    shuffle: bool = True
    """A new order every epoch, drawn from the run's seed; False: the order of the file."""
    by_content: bool = False
    """Videos with the same `content` in the label file follow each other in every order, so that
    batches, and the ranking reward in them, compare one content in several qualities."""
    num_workers: int = 4
    """Decoding processes of each host; 0: decode in the training process, for debugging."""
    timeout_s: float = 120.0
    """Seconds that decoding one clip may take before it counts as unreadable."""
    max_unreadable: float = 0.05
    """Share of the clips tried, by all processes and at least `FEWEST_SEEN`, above which the run
    stops."""
    cache: str | None = None
    """Folder where the decoded images of every clip are kept, so that each clip is decoded once: an
    epoch of a small geometry then costs reading. Training and validation use it, and runs may share
    one. A clip takes I * S * S * 3 bytes; once the disk is full, no more are kept."""
    augment: bool = False
    """Flips, transposes and permutes colour channels of every clip at random, and draws the
    fragments of its mosaics anew: damage stays damage. Training only; validation always sees clips
    as they are."""

    def __post_init__(self) -> None:
        if self.prompt_style not in STYLES:
            raise ValueError(f"prompt_style must be one of {STYLES}, got {self.prompt_style!r}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {DECODERS}, got {self.decoder!r}")
        if self.by_content and not self.shuffle:
            raise ValueError("by_content needs shuffle: without it the order is the file's")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {self.timeout_s}")
        # At 1 a folder without a single readable clip would be searched for ever.
        if not 0 <= self.max_unreadable < 1:
            raise ValueError(f"max_unreadable must be in [0, 1), got {self.max_unreadable}")
        if self.cache == "":
            raise ValueError("cache must name a folder, or be null for none")

    def read_training(self) -> tuple[LabelledVideo, ...]:
        """The labelled videos to train on.

        Raises:
          LabelError: also where `by_content` is set and no line has a content.
          OSError: the file cannot be read.
        """
        videos = self.train.read()
        if self.by_content and all(video.content is None for video in videos):
            raise LabelError(f"{self.train.labels}: no line has a content, which by_content needs")
        return videos

    def open_reader(self, spec: VideoSpec, num_workers: int) -> FrameReader:
        """A reader of clips, with `num_workers` decoding processes.

        Raises:
          CacheError: the folder of the cache cannot be written to.
        """
        return FrameReader(
            spec,
            decoder=self.decoder,
            num_workers=num_workers,
            timeout_s=self.timeout_s,
            cache=self.cache,
        )


@dataclasses.dataclass(frozen=True)
class StreamState:
    """A position between two batches of all processes; it fits any `num_workers`.

    It fits any number of processes too, as `next_record` counts records of the global order. Where
    clips are unreadable, though, only the same number goes on exactly: on another one all begin at
    `next_record`, and a clip that stood in for an unreadable one is met again in its turn.
    """

    next_record: int = 0
    """Records of the global order that the batches so far take where nothing is skipped."""
    unreadable: int = 0
    """Clips skipped so far, by all processes."""
    checksum: int = 0
    """Of the labels that the position belongs to; 0: of any."""
    skipped: tuple[int, ...] = ()
    """How many of them each process skipped, and so how many records it is ahead of the others;
    (): none, on any number of processes."""

    def with_skipped(self, skipped: Sequence[int]) -> StreamState:
        """The same position, with what every process skipped."""
        unreadable = self.unreadable - sum(self.skipped) + sum(skipped)
        return dataclasses.replace(self, unreadable=unreadable, skipped=tuple(skipped))


@dataclasses.dataclass(frozen=True)
class VideoBatch:
    """Decoded clips of N videos and their opinion scores."""

    frames: UInt8[np.ndarray, "N I S S 3"]
    """The images of every clip: the frames, then the extras."""
    gt: Float32[np.ndarray, "N"]
    """Scores from 1 to 5."""
    ids: tuple[str, ...]
    indices: Int64[np.ndarray, "N"]
    """Places of the videos in the label file, to fold into random keys."""
    state: StreamState
    """Where the stream goes on after this batch: what to save once it has been trained on, with
    the `skipped` of all processes; of the others it holds what they had skipped at the start."""


class UnreadableVideosError(ValueError):
    """So many clips cannot be read that something is wrong with the data as a whole."""


class VideoStream(Iterator[VideoBatch]):
    """Endless batches of labelled videos, decoded ahead in processes of their own.

    The order depends on the seed alone. All processes together read one global order: a global
    batch is the batches of process 0, 1, ... one after the other, and holds the same videos for
    any number of processes, as long as every clip is readable; the views that `cfg.augment`
    draws go by the place in this order. A clip that is not is logged, counted and skipped, and its
    process takes the next record of its own stream instead, so that shapes stay. The same process
    of as many skips the same clips again.

    >>> with VideoStream(videos, 4, TRAINING, cfg, seed=0) as stream:  # doctest: +SKIP
    ...     batch = next(stream)

    Args:
      videos: all labelled videos, the same on every process.
      batch_size: N, videos per batch of this process.
      spec: the geometry: F, D and S.
      cfg: how to read them.
      seed: root of the order, 0 <= seed < 2**32.
      process_index, process_count: this process among all.

    Raises:
      ValueError: no videos, a batch size below one, or a process index that is none.
    """

    def __init__(
        self,
        videos: Sequence[LabelledVideo],
        batch_size: int,
        spec: VideoSpec,
        cfg: DataConfig,
        *,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if not videos or batch_size < 1 or not 0 <= process_index < process_count:
            raise ValueError(
                f"a stream needs videos ({len(videos)}), a batch size ({batch_size}) and a place "
                f"among the processes ({process_index} of {process_count})"
            )
        self._videos = tuple(videos)
        self._batch_size = batch_size
        self._spec = spec
        self._cfg = cfg
        self._seed = seed
        self._process = (process_index, process_count)
        self._checksum = labels_checksum(self._videos)
        self._state = StreamState(checksum=self._checksum, skipped=(0,) * process_count)
        self._records = None
        self._reader = None

    def state(self) -> StreamState:
        """The position after the batch last handed out, whatever has been decoded ahead of it."""
        return self._state

    def restore(self, state: StreamState) -> None:
        """Goes to a position: the batches that follow are those that followed it then.

        Where it was saved on another number of processes, see `StreamState`.

        Raises:
          LabelError: the position belongs to other labels.
        """
        if state.checksum not in (0, self._checksum):
            raise LabelError(
                f"the labels have changed since this run was started (checksum "
                f"{self._checksum:08x}, saved {state.checksum:08x}): its position in them is lost"
            )
        self.close()
        count = self._process[1]
        # What was skipped stays counted, whoever did it.
        skipped = state.skipped if len(state.skipped) == count else (0,) * count
        self._state = dataclasses.replace(state, checksum=self._checksum, skipped=skipped)

    def __next__(self) -> VideoBatch:
        process, count = self._process
        if self._records is None:
            first = self._state.next_record // count + self._state.skipped[process]
            self._records = self._open(first)
        state, chosen, clips = self._state, [], []
        while len(chosen) < self._batch_size:
            index, frames = next(self._records)
            if isinstance(frames, VideoError):
                skipped = list(state.skipped)
                skipped[process] += 1
                state = state.with_skipped(skipped)
                self._skip(frames, state, len(chosen) * count)
                continue
            chosen.append(index)
            clips.append(frames)
        next_record = state.next_record + self._batch_size * count
        self._state = state = dataclasses.replace(state, next_record=next_record)
        return VideoBatch(
            frames=np.stack(clips),
            gt=np.array([self._videos[i].score for i in chosen], np.float32),
            ids=tuple(self._videos[i].id for i in chosen),
            indices=np.array(chosen, np.int64),
            state=state,
        )

    def close(self) -> None:
        """Ends the decoding processes; the stream can still be read on, which starts new ones."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._records is not None:
            self._records.close()
            self._records = None

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, start: int) -> Iterator[tuple[int, UInt8[np.ndarray, "I S S 3"] | VideoError]]:
        """An iterator of grain's over this process's records, decoded ahead, from `start` on."""
        # Here and not above: grain imports jax, which nothing else in this package's data needs.
        import grain

        workers, batch = self._cfg.num_workers, self._batch_size
        if self._cfg.by_content:
            order = ContentOrder([video.content for video in self._videos], self._seed)
        else:
            order = grain.MapDataset.range(len(self._videos))
            if self._cfg.shuffle:
                order = order.seed(self._seed).shuffle()
            order = order.repeat()
        process, count = self._process

        def place(record: int) -> int:
            """Where a record of this process stands in the global order."""
            return (record // batch * count + process) * batch + record % batch

        reader = self._reader = self._cfg.open_reader(self._spec, workers)

        def read(record: int) -> tuple[int, UInt8[np.ndarray, "I S S 3"] | VideoError]:
            """A video's index, and its images or why there are none: raising would end it all."""
            at = place(record)
            index = order[at]
            try:
                frames = reader.read(self._videos[index].path)
            except VideoError as error:
                return index, error
            if self._cfg.augment:
                frames = self._augmented(frames, at)
            return index, frames

        records = grain.MapDataset.range(start, sys.maxsize).map(read)
        # The decoding itself happens in the pool's processes, which survive a clip that hangs or
        # crashes the decoder; grain's own would end the run, and would each import jax.
        options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
        return iter(records.to_iter_dataset(options))

    def _augmented(
        self, frames: UInt8[np.ndarray, "I S S 3"], at: int
    ) -> UInt8[np.ndarray, "I S S 3"]:
        spec = self._spec
        if spec.view == "fragments":
            grid = spec.image_size // spec.fragment_size
            cells = draw_cells(self._seed, at, grid**2)
            mosaics = resample_cells(frames[: spec.num_frames], cells, spec.fragment_size)
            frames = np.concatenate([mosaics, frames[spec.num_frames :]])
        return augment(frames, draw_view(self._seed, at), spec.num_slices)

    def _skip(self, error: VideoError, state: StreamState, num_chosen: int) -> None:
        """Logs an unreadable clip.

        Raises:
          UnreadableVideosError: there have been too many.
        """
        tried = state.next_record + num_chosen + state.unreadable
        LOG.warning("clip skipped: %s (%d of %d clips unreadable)", error, state.unreadable, tried)
        require_readable(state, num_chosen, self._cfg.max_unreadable, f"; the last one: {error}")


def require_readable(
    state: StreamState, num_chosen: int, max_unreadable: float, more: str = ""
) -> None:
    """Stops a run whose data are bad as a whole.

    Args:
      state: the position at the last batch.
      num_chosen: clips of the next batch that were read.
      max_unreadable: share of the clips tried that may be unreadable.
      more: what to add to the message.

    Raises:
      UnreadableVideosError: more than that are, of at least `FEWEST_SEEN`.
    """
    tried = state.next_record + num_chosen + state.unreadable
    if tried >= FEWEST_SEEN and state.unreadable > max_unreadable * tried:
        raise UnreadableVideosError(
            f"{state.unreadable} of {tried} clips unreadable, more than data.max_unreadable = "
            f"{max_unreadable:g} allows{more}"
        )


def prefetch_to_device(batches: Iterator[B], put: Callable[[B], T]) -> Iterator[tuple[B, T]]:
    """Pairs of a batch and `put(batch)`, the next one prepared while the current one is used.

    Close it (`contextlib.closing`) before whatever `batches` reads from.

    Args:
      batches: an iterator, advanced by one batch more than was handed out.
      put: places a batch on the devices. It runs in another thread, where contexts such as
        `jax.set_mesh` do not reach: name shardings explicitly.

    Raises:
      Whatever `batches` and `put` raise, when the batch that it happened to is asked for.
    """

    def prepare() -> tuple[B, T] | None:
        for batch in batches:
            return batch, put(batch)
        return None

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = thread.submit(prepare)
        while (pair := ahead.result()) is not None:
            ahead = thread.submit(prepare)
            yield pair


def labels_checksum(videos: Sequence[LabelledVideo]) -> int:
    """Changes with the ids, scores, contents or order of the videos, not with their folder."""
    lines = "\n".join(
        f"{video.id}\t{video.score!r}" + (f"\t{video.content}" if video.content else "")
        for video in videos
    )
    return zlib.crc32(lines.encode("utf-8", "surrogatepass")) or 1
