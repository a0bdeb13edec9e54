"""Known distortions of a clip.

Every distortion is a pure function of frames uint8 [F, H, W, 3], a strength in 0 to 1 and a
generator; it returns new frames of the same shape and one line that says what was done. Strength 0
is about the least that can be seen and 1 is awful; in between, parameters grow geometrically where
the eye judges ratios (widths, amplitudes, factors) and linearly where it judges differences (rate
factors, shares of time). Lengths are fractions of the frame's shorter side, because viewers and
models see clips scaled to one size. How a strength becomes an opinion score: `opinions.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from vqathinker_jax.synthetic.encoding import recompressed

Distort = Callable[[np.ndarray, float, np.random.Generator], tuple[np.ndarray, str]]


@dataclasses.dataclass(frozen=True)
class Distortion:
    """One kind of distortion, by the name that reasoning texts use."""

    name: str
    category: str
    """`blur`, `noise`, `artifact`, `color` or `temporal`: the groups of the FineVD data set."""
    apply: Distort
    mapping: str
    """What strength s means."""


def geometric(low: float, high: float, strength: float) -> float:
    """low (high / low)^strength."""
    return low * (high / low) ** strength


def each_frame(frames: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """The clip with every frame changed by Pillow."""
    changed = np.empty_like(frames)
    for i, frame in enumerate(frames):
        changed[i] = np.asarray(change(Image.fromarray(frame)))
    return changed


def side_of(frames: np.ndarray) -> int:
    """The shorter side of the frames, pixels."""
    return min(frames.shape[1:3])


def blur(frames: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Gaussian blur, or blur along a line as of a moving camera."""
    sigma = geometric(0.0018, 0.025, strength) * side_of(frames)
    if rng.random() < 0.7:
        kernel = ImageFilter.GaussianBlur(sigma)
        return each_frame(frames, lambda frame: frame.filter(kernel)), f"gaussian {sigma:.2f} px"
    length, angle = 4.5 * sigma, rng.uniform(0, np.pi)
    steps = int(np.clip(np.ceil(length), 2, 16))
    places = (np.arange(steps) - (steps - 1) / 2) * length / (steps - 1)
    reach = int(np.ceil(length / 2)) + 1
    edges = ((reach, reach), (reach, reach), (0, 0))
    height, width = frames.shape[1:3]
    blurred = np.empty_like(frames)
    for i, frame in enumerate(frames):
        padded = np.pad(frame, edges, mode="edge")
        total = np.zeros(frame.shape, np.uint16)
        for place in places:
            top = reach - round(place * np.sin(angle))
            left = reach - round(place * np.cos(angle))
            total += padded[top : top + height, left : left + width]
        blurred[i] = total // steps
    return blurred, f"motion {length:.1f} px"


def noise(frames: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Sensor noise, new in every frame: even, or stronger in bright parts as photons make it.

    One plane of noise is drawn for the clip and read from a new place in every frame: drawing each
    value anew would take longer than all the rest.
    """
    deviation = geometric(2.5, 45.0, strength)
    is_shot = rng.random() < 0.4
    height, width = frames.shape[1:3]
    plane = rng.standard_normal((2 * height, 2 * width, 3), dtype=np.float32)
    # Cameras' noise is mostly in lightness: a third of each channel's is its own.
    plane = 0.85 * plane[..., :1] + 0.53 * plane
    noisy = np.empty_like(frames)
    response = np.sqrt(np.arange(256, dtype=np.float32) / 128) if is_shot else None
    for i, frame in enumerate(frames):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        grain = deviation * plane[top : top + height, left : left + width]
        if response is not None:
            grain = grain * response[frame]
        noisy[i] = np.clip(frame + grain + 0.5, 0, 255)
    return noisy, f"{'shot' if is_shot else 'gaussian'} {deviation:.1f} of 255"


def compression_strength_to_crf(codec: str, strength: float) -> float:
    """Constant rate factor: H.264 24 to 49, VP9 34 to 63, linearly."""
    return 24 + 25 * strength if codec == "h264" else 34 + 29 * strength


def compression_settings(strength: float, rng: np.random.Generator) -> tuple[str, float]:
    """Codec, H.264 for seven clips of ten, and constant rate factor."""
    codec = "h264" if rng.random() < 0.7 else "vp9"
    return codec, compression_strength_to_crf(codec, strength)


def compression(
    frames: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Encodes the whole clip with H.264 or VP9 and decodes it."""
    codec, crf = compression_settings(strength, rng)
    return recompressed(frames, 30.0, codec, crf), f"{codec} crf {crf:.0f}"


def downscaling(
    frames: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Reduces every frame and enlarges it again, as a player shows a small clip."""
    factor = geometric(1.3, 8.0, strength)
    height, width = frames.shape[1:3]
    small = max(2, round(width / factor)), max(2, round(height / factor))
    enlarge = rng.choice([Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])

    def change(frame: Image.Image) -> Image.Image:
        reduced = frame.resize(small, Image.Resampling.BICUBIC)
        return reduced.resize((width, height), Image.Resampling(enlarge))

    return each_frame(frames, change), f"by {factor:.2f}"


def color(frames: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A colour cast, a turn of hues, or colours too pale or too strong."""
    amount = geometric(0.1, 0.65, strength)
    grey = np.full((3, 3), 1 / 3)
    kind = rng.choice(["cast", "hue", "saturation"], p=[0.6, 0.25, 0.15])
    if kind == "cast":
        angle = rng.uniform(0, 2 * np.pi)
        gains = np.exp(amount * np.cos(angle + np.arange(3) * 2 * np.pi / 3))
        matrix = np.diag(gains / gains.mean())
    elif kind == "hue":
        turn = rng.choice([-1, 1]) * 2.6 * amount
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
        matrix = np.cos(turn) * np.eye(3) + np.sin(turn) * cross + (1 - np.cos(turn)) * grey
    else:
        saturation = 1 - 1.6 * amount if rng.random() < 0.5 else 1 + 4 * amount
        matrix = grey + max(saturation, 0.0) * (np.eye(3) - grey)
    weights = np.concatenate([matrix, np.full((3, 1), 0.5)], axis=1).ravel().tolist()
    return each_frame(frames, lambda frame: frame.convert("RGB", weights)), f"{kind} {amount:.2f}"


def exposure(
    frames: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Too dark or too bright by some stops, or washed out."""
    kind = rng.choice(["under", "over", "low contrast"], p=[0.4, 0.4, 0.2])
    level = np.arange(256) / 255
    stops = geometric(0.4, 3.2 if kind == "under" else 2.2, strength)
    if kind == "low contrast":
        contrast = 1 - geometric(0.25, 0.88, strength)
        level = rng.uniform(0.35, 0.65) * (1 - contrast) + contrast * level
        done = f"{kind} {contrast:.2f}"
    else:
        gain = 2.0 ** (-stops if kind == "under" else stops)
        level = np.clip(level**2.2 * gain, 0, 1) ** (1 / 2.2)
        done = f"{kind} {stops:.2f} stops"
    return (255 * level + 0.5).astype(np.uint8)[frames], done


def banding(
    frames: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Too few levels in every channel: steps in smooth parts."""
    levels = geometric(36.0, 4.0, strength)
    place = np.arange(256) / 255 * (levels - 1) + rng.uniform(-0.25, 0.25)
    table = np.clip(np.round(place) / (levels - 1), 0, 1)
    return (255 * table + 0.5).astype(np.uint8)[frames], f"{levels:.1f} levels"


def freeze(frames: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The picture stands still once to three times, then jumps to where it should be."""
    num = len(frames)
    runs = int(rng.integers(1, 4)) if num >= 12 else 1
    frozen = min(num - 1, max(runs, round(num * (0.08 + 0.62 * strength))))
    lengths = np.maximum(1, np.round(frozen * rng.dirichlet(np.full(runs, 4.0)))).astype(int)
    source = np.arange(num)
    spare = max(0, num - 1 - int(lengths.sum()))
    gaps = np.floor(spare * rng.dirichlet(np.full(runs + 1, 2.0))).astype(int)
    start = 1
    for gap, length in zip(gaps[:runs], lengths, strict=True):
        start += int(gap)
        source[start : start + length] = start - 1
        start += int(length)
    return frames[source], f"{runs} x, {int(lengths.sum())} of {num} frames"


def frame_drop(
    frames: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Frames are lost and the last one is held: at a regular pace, or here and there."""
    num = len(frames)
    if rng.random() < 0.5:
        hold = geometric(2.0, 14.0, strength)
        source = np.floor(np.floor(np.arange(num) / hold) * hold).astype(int)
        return frames[source], f"one of {hold:.1f} shown"
    share = 0.25 + 0.68 * strength
    kept = rng.random(num) >= share
    kept[0] = True
    return frames[np.maximum.accumulate(np.where(kept, np.arange(num), 0))], f"{share:.0%} lost"


def shuffle(
    frames: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Frames change places within windows."""
    num = len(frames)
    window = min(num, max(2, round(geometric(2.0, 24.0, strength))))
    share = 0.3 + 0.7 * strength
    source = np.arange(num)
    windows = [slice(start, start + window) for start in range(0, num, window)]
    forced = int(rng.integers(max(1, num // window)))
    for i, place in enumerate(windows):
        if i == forced or rng.random() < share:
            source[place] = _deranged(source[place], rng)
    return frames[source], f"windows of {window}"


def _deranged(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The values in another order, whenever there is one."""
    if len(values) < 2:
        return values
    order = rng.permutation(len(values))
    if np.array_equal(order, np.arange(len(values))):
        order = np.roll(order, 1)
    return values[order]


def jitter(frames: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The camera shakes: a new displacement in every frame, half of it kept from the last."""
    amplitude = geometric(0.004, 0.05, strength) * side_of(frames)
    reach = max(1, int(np.ceil(3 * amplitude)))
    reach = min(reach, side_of(frames) - 1)
    moved = np.empty_like(frames)
    place = np.zeros(2)
    height, width = frames.shape[1:3]
    for i, frame in enumerate(frames):
        place = 0.5 * place + 0.87 * amplitude * rng.standard_normal(2)
        down, right = np.clip(np.round(place), -reach, reach).astype(int)
        padded = np.pad(frame, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        top, left = reach + down, reach + right
        moved[i] = padded[top : top + height, left : left + width]
    return moved, f"{amplitude:.1f} px"


DISTORTIONS = {
    distortion.name: distortion
    for distortion in (
        Distortion("jitter", "temporal", jitter, "rms shift side * 0.004 * 12.5^s, every frame"),
        Distortion("blur", "blur", blur, "sigma side * 0.0018 * 13.9^s; motion: length 4.5 sigma"),
        Distortion("exposure", "color", exposure, "0.4 to 3.2 stops; contrast 0.75 to 0.12"),
        Distortion("color", "color", color, "amount 0.1 * 6.5^s of cast, hue or saturation"),
        Distortion("downscaling", "blur", downscaling, "by 1.3 * 6.2^s and back"),
        Distortion("noise", "noise", noise, "standard deviation 2.5 * 18^s of 255"),
        Distortion("banding", "artifact", banding, "36 * 9^-s levels a channel"),
        Distortion(
            "frame drop", "temporal", frame_drop, "one frame of 2 * 7^s, or 25 % + 68 % s lost"
        ),
        Distortion("freeze", "temporal", freeze, "8 % + 62 % s of the time, in 1 to 3 runs"),
        Distortion(
            "shuffle", "temporal", shuffle, "windows of 2 * 12^s frames, 30 % + 70 % s of them"
        ),
        Distortion(
            "compression", "artifact", compression, "H.264 crf 24 + 25 s, VP9 crf 34 + 29 s"
        ),
    )
}
"""By name, in the order in which a mixture applies them: camera, processing, network, codec."""
