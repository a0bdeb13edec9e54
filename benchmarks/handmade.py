"""Hand-made features of a clip: sixteen numbers that an engineer would measure.

All are measured in the decoded pictures, at their own resolution; nothing of the file, such as its
bit rate, enters. `ridge.py` makes scores of them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from vqathinker_jax.data.clip import Limits, VideoError
from vqathinker_jax.data.container import open_container

FEATURES = (
    "fine detail of busy parts",
    "fine detail",
    "activity of smooth blocks",
    "edge sharpness",
    "colour detail",
    "flat pixels",
    "gaps in the histogram",
    "lightness",
    "darkest",
    "fine against coarse change",
    "pulsing",
    "stops",
    "jumps after standing still",
    "change over two frames",
    "steps back",
    "shake",
)
"""What `features` gives, in order."""
VERSION = 1
"""Raised whenever `features` gives other numbers."""
MOST_FRAMES = 120
"""Only the first frames of a longer clip are measured."""
NUM_STILLS = 4
"""Frames whose pictures are measured; changes are measured between all frames."""


# --- one clip -------------------------------------------------------------------------------------


def features(path: str) -> np.ndarray:
    """The numbers named in `FEATURES`, float64 [16], of a clip at its own resolution.

    Raises:
      VideoError: the clip cannot be read.
    """
    with open_container(path, Limits(threads=1)) as (container, stream):
        decoded = []
        for frame in container.decode(stream):
            decoded.append(frame)
            if len(decoded) == MOST_FRAMES:
                break
        if not decoded:
            raise VideoError.of(path, "no frame of it can be decoded")
        places = ((np.arange(NUM_STILLS) + 0.5) * len(decoded) / NUM_STILLS).astype(int)
        stills = [_of_picture(decoded[i].to_ndarray(format="rgb24")) for i in places]
        changes = _of_changes([frame.to_ndarray(format="gray") for frame in decoded])
    return np.concatenate([np.mean(stills, axis=0), changes])


def _of_picture(rgb: np.ndarray) -> list[float]:
    """The first nine features, of one frame uint8 [H, W, 3]."""
    colours = rgb.astype(np.float32)
    light = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    across, down = _gradients(light)
    detail = _residual(light)
    half = _halved(light)
    half_edges, quarter_edges = _strongest(half), _strongest(_halved(half))
    colour_steps = np.abs(np.diff(colours - light[..., None], axis=1))
    return [
        np.log(np.percentile(_block_means(detail, 16), 90) + 0.05),
        np.log(detail.mean() + 0.05),
        np.log(np.percentile(_activity(light), 10) + 0.1),
        np.log((half_edges + 1) / (quarter_edges + 1)),
        np.log(colour_steps.mean() + 0.1),
        ((across < 0.6) & (down < 0.6)).mean(),
        _histogram_gaps(rgb),
        light.mean() / 255,
        np.percentile(light, 1) / 255,
    ]


def _of_changes(grays: Sequence[np.ndarray]) -> list[float]:
    """The last seven features, of all frames uint8 [H, W]; a single frame stands still."""
    # Three frames are the fewest that have a change of change.
    grays = [*grays, *grays[-1:] * (3 - len(grays))]
    full = [gray.astype(np.float32) for gray in grays]
    half = [_halved(frame) for frame in full]
    coarse = [_halved(_halved(frame)) for frame in half]
    change, change_of_two = _changes(half, 1), _changes(half, 2)
    fine, rough, rough_of_two = _changes(full, 1), _changes(coarse, 1), _changes(coarse, 2)
    # Standing still is relative: encoding keeps still pictures from being equal to the bit.
    usual = np.sort(change)[-max(1, len(change) // 4) :].mean()
    is_still = change < max(0.12 * usual, 0.05)
    starts = is_still & ~np.append(False, is_still[:-1])
    pulses = np.abs(np.diff(fine)) / (fine[1:] + fine[:-1] + 0.1)
    shake = np.abs(np.diff(_shifts_down(full))) / min(grays[0].shape)
    return [
        np.log((np.median(fine) + 0.1) / (np.median(rough) + 0.1)),
        np.log(np.percentile(pulses, 90) + 0.01),
        starts.mean(),
        is_still.mean() * np.log(rough.max() + 0.2),
        np.log((change_of_two.mean() + 0.1) / (change.mean() + 0.1)),
        # A frame nearer to the one before the last than the last is: the order is disturbed.
        (rough_of_two < 0.9 * rough[:-1]).mean(),
        np.log(np.median(shake) + 0.0005),
    ]


def _gradients(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Absolute differences to the right and downwards, [H - 1, W - 1]."""
    return np.abs(np.diff(x, axis=1))[:-1], np.abs(np.diff(x, axis=0))[:, :-1]


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; sides of one pixel stay."""
    for axis in (0, 1):
        if x.shape[axis] > 1:
            even = x.shape[axis] // 2 * 2
            x = x.take(range(0, even, 2), axis) + x.take(range(1, even, 2), axis)
            x *= 0.5
    return x


def _residual(x: np.ndarray) -> np.ndarray:
    """|second difference across of the second difference down| / 6: noise and finest detail."""
    across = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    return np.abs(across[:-2] - 2 * across[1:-1] + across[2:]) / 6


def _strongest(x: np.ndarray) -> float:
    """The gradient that one pixel of a hundred exceeds."""
    return float(np.percentile(np.maximum(*_gradients(x)), 99))


def _activity(x: np.ndarray) -> np.ndarray:
    """Mean gradients inside the blocks of 8 x 8 that codecs work in, borders left out."""
    across, down = np.abs(np.diff(x, axis=1, append=0)), np.abs(np.diff(x, axis=0, append=0))
    across[:, 7::8] = 0
    down[7::8] = 0
    return _block_means(across + down, 8)


def _block_means(x: np.ndarray, side: int) -> np.ndarray:
    """Means of whole blocks; the mean of all where there is none."""
    down, across = x.shape[0] // side, x.shape[1] // side
    if not down or not across:
        return x.mean(keepdims=True)
    return x[: down * side, : across * side].reshape(down, side, across, side).mean((1, 3))


def _histogram_gaps(rgb: np.ndarray) -> float:
    """By how much smoothing the histograms of the colours raises their entropy: banding."""
    gained = 0.0
    for channel in range(3):
        counts = np.bincount(rgb[..., channel].ravel(), minlength=256).astype(float)
        counts[[0, 255]] = 0
        gained += _entropy(np.convolve(counts, np.ones(11) / 11, "same")) - _entropy(counts)
    return gained / 3


def _entropy(counts: np.ndarray) -> float:
    """Nats; 0 without any count."""
    shares = counts[counts > 0] / max(counts.sum(), 1e-12)
    return float(-(shares * np.log(shares)).sum())


def _changes(frames: Sequence[np.ndarray], distance: int) -> np.ndarray:
    """Mean absolute differences between frames so far apart."""
    pairs = zip(frames, frames[distance:], strict=False)
    return np.array([np.abs(later - earlier).mean() for earlier, later in pairs])


def _shifts_down(frames: Sequence[np.ndarray]) -> np.ndarray:
    """How far down the picture moved since the last frame, pixels [F - 1]."""
    profiles = [frame.mean(1) for frame in frames]
    return np.array([_shift(earlier, later) for earlier, later in itertools.pairwise(profiles)])


def _shift(earlier: np.ndarray, later: np.ndarray) -> float:
    """Where the cross-correlation of two profiles' slopes is highest, to a part of a pixel."""
    reach = min(60, max(3, len(earlier) // 6), len(earlier) - 1)
    window = np.hanning(len(earlier) - 1)
    slopes = [np.diff(profile) for profile in (earlier, later)]
    size = 2 * len(window)
    first, second = (np.fft.rfft((slope - slope.mean()) * window, size) for slope in slopes)
    around = np.fft.irfft(np.conj(first) * second, size)
    around = np.concatenate([around[-reach:], around[: reach + 1]])
    place = int(around.argmax())
    if not 0 < place < len(around) - 1:
        return float(place - reach)
    left, top, right = around[place - 1 : place + 2]
    curve = left - 2 * top + right
    return place - reach + (0.5 * float(left - right) / float(curve) if curve < 0 else 0.0)


# --- many clips -----------------------------------------------------------------------------------


def features_of_all(paths: Sequence[str], work: Path, workers: int | None = None) -> np.ndarray:
    """Features [N, 16] of clips; those measured by an earlier call are read from `work`.

    Args:
      paths: the clips.
      work: folder for what has been measured.
      workers: processes; None for one a core.

    Raises:
      VideoError: a clip cannot be read.
    """
    work.mkdir(parents=True, exist_ok=True)
    kept = work / f"features-{VERSION}.jsonl"
    known: dict[str, list[float]] = {}
    if kept.is_file():
        # A run that was stopped may have left half a line at the end.
        whole_lines = kept.read_text(encoding="utf-8").split("\n")[:-1]
        kept.write_text("".join(f"{line}\n" for line in whole_lines), encoding="utf-8")
        known = {row["file"]: row["features"] for row in map(json.loads, whole_lines)}
    names = [_identity(path) for path in paths]
    missing = {name: path for name, path in zip(names, paths, strict=True) if name not in known}
    with open(kept, "a", encoding="utf-8") as file:
        for name, values in zip(missing, _measured(list(missing.values()), workers), strict=True):
            known[name] = values.tolist()
            file.write(json.dumps({"file": name, "features": known[name]}) + "\n")
            file.flush()
    return np.array([known[name] for name in names]).reshape(len(paths), len(FEATURES))


def _identity(path: str) -> str:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise VideoError.of(path, f"cannot be read ({error.strerror})") from None
    known = json.dumps([os.path.realpath(path), facts.st_size, facts.st_mtime_ns])
    return hashlib.sha256(known.encode()).hexdigest()[:24]


def _measured(paths: Sequence[str], workers: int | None) -> Iterator[np.ndarray]:
    """Features of each clip in turn."""
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers == 1 or len(paths) < 2:
        yield from map(features, paths)
        return
    # Spawned, so that jax's threads are not copied into the workers.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(paths)), mp_context=context) as pool:
        for count, values in enumerate(pool.map(features, paths, chunksize=4), start=1):
            print(f"measured {count}/{len(paths)}", end="\r", file=sys.stderr)
            yield values
    print(file=sys.stderr)
