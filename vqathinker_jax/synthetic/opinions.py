"""From known distortions to a pseudo opinion score from 1 to 5.

score = 1 + 4 product over distortions d of (1 - w_d s_d)

w_d is how much the worst case of a distortion takes away (`WEIGHTS`); s_d, 0 to 1, its severity,

s_d = clip(strength_d * visibility_d, 0, 1)
visibility_d = clip(sqrt(damage_d / typical_d(strength_d)), 0.5, 1.25)

Strength is the nominal setting (`distortions.py`). The same setting shows differently on different
content: blur on clouds, banding on gravel or a freeze before a still camera is hardly seen. Damage,
a full-reference measure between the clip before and after this distortion (`damage`), tells; it is
compared with the damage that the same distortion and strength do to typical content, whose table
(`TYPICAL`) is measured on the catalogue of scenes. Nominal strength keeps distortions comparable
with one another, which full-reference measures do not; damage corrects for content.

These are not people's opinions, and nothing here was fitted to any.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

WEIGHTS = {
    "jitter": 0.75,
    "blur": 0.95,
    "exposure": 0.45,
    "color": 0.4,
    "downscaling": 0.92,
    "noise": 0.92,
    "banding": 0.8,
    "frame drop": 0.75,
    "freeze": 0.8,
    "shuffle": 0.85,
    "compression": 0.95,
}
"""Share of the quality that a distortion of severity 1 takes away.

Exposure and colour weigh little: who has not seen the original takes a dark or tinted clip in good
part for a dark or tinted scene, and so would any judge of clips alone, whom labels are for."""
DRAWN_WEIGHTS = WEIGHTS | {"exposure": 0.85, "color": 0.75}
"""By which strengths are drawn: exposure and colour come out about as strong as the others though
they cost less. By their own weights they would be nearly always extreme where they stand alone."""

KNOTS = (0.0, 0.25, 0.5, 0.75, 1.0)
TYPICAL = {
    "jitter": (0.177, 0.244, 0.341, 0.466, 0.568),
    "blur": (0.0175, 0.098, 0.228, 0.364, 0.468),
    "exposure": (0.162, 0.274, 0.427, 0.693, 1.03),
    "color": (0.0686, 0.129, 0.196, 0.292, 0.369),
    "downscaling": (0.031, 0.0957, 0.17, 0.275, 0.358),
    "noise": (0.0185, 0.056, 0.15, 0.296, 0.471),
    "banding": (0.0166, 0.0395, 0.0878, 0.198, 0.4),
    "frame drop": (0.0616, 0.134, 0.275, 0.342, 0.363),
    "freeze": (0.024, 0.0787, 0.181, 0.273, 0.349),
    "shuffle": (0.0724, 0.114, 0.173, 0.318, 0.413),
    "compression": (0.045, 0.0786, 0.114, 0.218, 0.301),
}
"""Median damage at the strengths `KNOTS` over 48 training scenes of three sizes, 36 frames each
(`python -m benchmarks.typical_damage`)."""

LOWEST_VISIBILITY, HIGHEST_VISIBILITY = 0.5, 1.25
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
GRADIENT_FLOOR = 170.0
"""Squared grey levels under which gradients are not told apart; the constant of the GMS index."""


def damage(before: np.ndarray, after: np.ndarray, num_compared: int) -> float:
    """How much two clips differ to the eye, frame by frame, from 0.

    The mean over frames and two scales of 1 - (2 g h + c) / (g^2 + h^2 + c), with gradient
    magnitudes g and h of the lightness (gradient magnitude similarity, Xue et al., 2014), plus
    three times the mean difference of the colours of 8 x 8 blocks on 0 to 1. Frames are compared
    at the same time, so that freezes and shuffles count as far as the picture moved.

    Args:
      before: uint8 [F, H, W, 3].
      after: uint8 [F, H, W, 3].
      num_compared: frames looked at, evenly spread.

    Raises:
      ValueError: clips of different shapes.
    """
    if before.shape != after.shape:
        raise ValueError(f"clips of different shapes: {before.shape} and {after.shape}")
    num = min(num_compared, len(before))
    places = ((np.arange(num) + 0.5) * len(before) / num).astype(int)
    same = [np.array_equal(before[i], after[i]) for i in places]
    losses = [
        _frame_damage(before[i], after[i]) for i, s in zip(places, same, strict=True) if not s
    ]
    return sum(losses) / num


def _frame_damage(before: np.ndarray, after: np.ndarray) -> float:
    blocks = [np.asarray(Image.fromarray(frame).reduce(8), np.float32) for frame in (before, after)]
    tone = np.abs(blocks[0] - blocks[1]).mean() / 255
    first, second = before @ LUMA, after @ LUMA
    if min(first.shape) > 400:
        first, second = _halved(first), _halved(second)
    fine = _gradient_loss(first, second)
    coarse = _gradient_loss(_halved(first), _halved(second))
    return float(0.5 * (fine + coarse) + 3 * tone)


def _halved(luma: np.ndarray) -> np.ndarray:
    height, width = (size // 2 * 2 for size in luma.shape)
    luma = luma[:height, :width]
    return (luma[::2, ::2] + luma[1::2, ::2] + luma[::2, 1::2] + luma[1::2, 1::2]) / 4


def _gradient_loss(first: np.ndarray, second: np.ndarray) -> float:
    squares = []
    for luma in (first, second):
        across = luma[1:-1, 2:] - luma[1:-1, :-2]
        down = luma[2:, 1:-1] - luma[:-2, 1:-1]
        squares.append(across * across + down * down)
    product = np.sqrt(squares[0] * squares[1])
    similarity = (2 * product + GRADIENT_FLOOR) / (squares[0] + squares[1] + GRADIENT_FLOOR)
    return float(1 - similarity.mean())


def frames_to_compare(name: str) -> int:
    """Frames to look at for `damage`: more where only some of the frames are touched."""
    return 16 if name in ("freeze", "frame drop", "shuffle") else 6


def visibility(name: str, strength: float, damage_done: float) -> float:
    """How much more or less a distortion shows here than on typical content: 0.5 to 1.25."""
    typical = float(np.interp(strength, KNOTS, TYPICAL[name]))
    return float(np.clip(np.sqrt(damage_done / typical), LOWEST_VISIBILITY, HIGHEST_VISIBILITY))


def severity(name: str, strength: float, damage_done: float) -> float:
    """Severity in 0 to 1 of a distortion that did this damage."""
    return float(np.clip(strength * visibility(name, strength, damage_done), 0, 1))


def pseudo_score(severities: Iterable[tuple[str, float]]) -> float:
    """1 + 4 product(1 - w s): the label of a clip.

    >>> pseudo_score([])
    5.0
    >>> round(pseudo_score([("blur", 0.5), ("freeze", 0.25)]), 3)
    2.68
    """
    return 1 + 4 * float(np.prod([1 - WEIGHTS[name] * s for name, s in severities]))


def draw_strengths(
    target: float, names: list[str], rng: np.random.Generator, smallest: float = 0.04
) -> list[float] | None:
    """Strengths that would give typical content the target score by `DRAWN_WEIGHTS`; None if no
    draw can.

    The loss -log((target - 1) / 4) is shared out at random among the distortions; none may come out
    weaker than `smallest`, which could not be seen, or stronger than 1.
    """
    loss = -np.log(max(target - 1, 1e-3) / 4)
    shares = rng.dirichlet(np.full(len(names), 2.0))
    weights = np.array([DRAWN_WEIGHTS[name] for name in names])
    strengths = (1 - np.exp(-shares * loss)) / weights
    if strengths.max() > 1 or strengths.min() < smallest:
        return None
    return strengths.tolist()
