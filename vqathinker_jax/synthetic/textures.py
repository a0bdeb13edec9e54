"""Materials: pictures made of noise, waves and cells.

A picture is a function of a random generator and a size; it returns RGB uint8 [height, width, 3].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.ndimage
from PIL import Image
from scipy.spatial import cKDTree

Picture = Callable[[np.random.Generator, int, int], np.ndarray]


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, slope: float = 1.0
) -> np.ndarray:
    """Gaussian noise with amplitude 1 / frequency^slope: float32 [height, width], mean 0, std 1.

    Natural pictures have a slope near 1.
    """
    rows = scipy.fft.next_fast_len(height, real=True)
    columns = scipy.fft.next_fast_len(width, real=True)
    vertical = scipy.fft.fftfreq(rows).astype(np.float32)[:, None]
    horizontal = scipy.fft.rfftfreq(columns).astype(np.float32)
    frequency = np.sqrt(vertical**2 + horizontal**2)
    frequency[0, 0] = 1.0
    amplitude = frequency**-slope
    amplitude[0, 0] = 0.0
    spectrum = scipy.fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32))
    noise = scipy.fft.irfft2(spectrum * amplitude, s=(rows, columns))[:height, :width]
    return (noise - noise.mean()) / noise.std()


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel in units of the shorter side: float32 [H, 1] and [1, W]."""
    side = np.float32(min(height, width))
    rows = np.arange(height, dtype=np.float32)[:, None] / side
    return rows, np.arange(width, dtype=np.float32)[None] / side


def palette(rng: np.random.Generator, num: int = 4, hue: float | None = None) -> np.ndarray:
    """Colours from dark to light around one or two hues: float32 [num, 3] in 0 to 1."""
    hue = rng.random() if hue is None else hue
    hues = (hue + rng.choice([0.0, 0.08, 0.5], num) + rng.normal(0, 0.03, num)) % 1
    low, high = rng.uniform(0.03, 0.3), rng.uniform(0.7, 1.0)
    value = np.linspace(low, high, num) + rng.normal(0, 0.04, num)
    saturation = 0.75 * rng.beta(1.3, 2.2, num)
    return hsv_to_rgb(hues, saturation, value)


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """RGB float32 [..., 3] of colours given by hue, saturation and value, each in 0 to 1."""
    corners = np.asarray([5.0, 3.0, 1.0])
    place = (corners + np.asarray(hue)[..., None] * 6) % 6
    ramp = np.clip(np.minimum(place, 4 - place), 0, 1)
    value = np.clip(np.asarray(value), 0, 1)[..., None]
    return (value * (1 - np.clip(np.asarray(saturation), 0, 1)[..., None] * ramp)).astype(
        np.float32
    )


def colourise(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours along a ramp: values [H, W] in 0 to 1 (clipped) to float32 [H, W, 3]."""
    places = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(colours))
    table = np.stack([np.interp(places, stops, colours[:, c]) for c in range(3)], axis=-1)
    index = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return table.astype(np.float32)[index]


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """RGB float [H, W, 3] in 0 to 1 as uint8."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def squash(values: np.ndarray) -> np.ndarray:
    """A zero-mean field of std 1 brought to 0 to 1."""
    return 0.5 + values / 4.5


def textured(rng: np.random.Generator, picture: np.ndarray, strength: float) -> np.ndarray:
    """The picture with light fractal shading, as real surfaces have: float [H, W, 3]."""
    height, width = picture.shape[:2]
    shade = 1 + strength * fractal_noise(rng, height, width, rng.uniform(0.6, 1.1))
    return picture * shade[..., None]


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clouds on a sky that pales towards the horizon."""
    rows, _ = grid(height, width)
    sky = colourise(
        np.broadcast_to(rows / rows.max(), (height, width)),
        palette(rng, 3, rng.choice([0.58, 0.6, 0.04, 0.95])),
    )
    cover = squash(fractal_noise(rng, height, width, rng.uniform(1.4, 1.8)))
    cover = np.clip((cover - rng.uniform(0.3, 0.55)) * rng.uniform(2, 4), 0, 1)[..., None]
    light = 0.75 + 0.25 * squash(fractal_noise(rng, height, width, 1.3))[..., None]
    return to_uint8(sky * (1 - cover) + cover * light)


def plasma(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth swirls of colour, finely grained."""
    rows, columns = grid(height, width)
    field = np.zeros((height, width), np.float32)
    for _ in range(5):
        angle, frequency = rng.uniform(0, 2 * np.pi), rng.uniform(2, 18)
        place = np.cos(angle) * rows + np.sin(angle) * columns
        field += np.sin(frequency * place + 2.5 * np.sin(field + rng.uniform(0, 6))).astype(
            np.float32
        )
    picture = colourise(squash(field / field.std()), palette(rng, 6))
    return to_uint8(textured(rng, picture, 0.06))


def cells(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Voronoi cells with borders, such as cracked earth, scales or stained glass."""
    num = int(rng.integers(60, 900))
    points = rng.random((num, 2)) * (height, width)
    half = np.indices(((height + 1) // 2, (width + 1) // 2)).reshape(2, -1).T * 2.0
    distance, nearest = cKDTree(points).query(half, k=2)
    shape = ((height + 1) // 2, (width + 1) // 2)
    border = (distance[:, 1] - distance[:, 0]).reshape(shape).astype(np.float32)
    border = np.asarray(Image.fromarray(border).resize((width, height), Image.Resampling.BICUBIC))
    colours = colourise(rng.random(num)[:, None], palette(rng, 5))[:, 0]
    fill = to_uint8(colours[nearest[:, 0]].reshape(*shape, 3))
    fill = np.asarray(Image.fromarray(fill).resize((width, height), Image.Resampling.NEAREST))
    line = np.clip(border / rng.uniform(2, 9), 0, 1)[..., None] ** 0.7
    picture = textured(rng, fill / np.float32(255), rng.uniform(0.05, 0.2))
    return to_uint8(picture * line + (1 - line) * rng.uniform(0, 0.9))


def mosaic(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Square, brick or checked tiles, some slanted, with grout."""
    rows, columns = grid(height, width)
    angle = rng.choice([0.0, rng.uniform(-0.7, 0.7)])
    count = rng.uniform(6, 30)
    across = (np.cos(angle) * columns + np.sin(angle) * rows) * count + 40
    down = (np.cos(angle) * rows - np.sin(angle) * columns) * count * rng.choice([1, 1, 2]) + 80
    row = np.floor(down).astype(int)
    across = across + rng.choice([0.0, 0.5]) * (row % 2)
    column = np.floor(across).astype(int)
    table = rng.random((256, 256)).astype(np.float32)
    tone = table[row % 256, column % 256]
    if rng.random() < 0.3:
        tone = ((row + column) % 2) * 0.8 + 0.2 * tone
    gap = np.minimum.reduce([across % 1, 1 - across % 1, down % 1, 1 - down % 1])
    edge = np.clip(gap * min(height, width) / count - rng.uniform(0, 2), 0, 1)[..., None]
    picture = textured(rng, colourise(tone, palette(rng, 5)), rng.uniform(0.03, 0.2))
    return to_uint8(picture * edge + (1 - edge) * rng.uniform(0.05, 0.9))


def gratings(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stripes, rings and chirps in panels, as on a test chart."""
    rows, columns = grid(height, width)
    panels = rng.integers(2, 5, 2)
    picture = np.zeros((height, width, 3), np.float32)
    for top in range(panels[0]):
        for left in range(panels[1]):
            y = slice(top * height // panels[0], (top + 1) * height // panels[0])
            x = slice(left * width // panels[1], (left + 1) * width // panels[1])
            down, across = rows[y] - rows[y].mean(), columns[:, x] - columns[:, x].mean()
            angle, frequency = rng.uniform(0, np.pi), 2 * np.pi * 10 ** rng.uniform(0.5, 1.9)
            place = np.cos(angle) * across + np.sin(angle) * down
            match int(rng.integers(4)):
                case 0:
                    wave = np.sin(frequency * place)
                case 1:
                    wave = np.tanh(6 * np.sin(frequency * place))
                case 2:
                    wave = np.sin(frequency * 2 * (across**2 + down**2))
                case _:
                    wave = np.sin(frequency * place * (1 + place))
            picture[y, x] = colourise(0.5 + 0.5 * wave, palette(rng, 3))
    return to_uint8(textured(rng, picture, 0.04))


def water(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ridged and stretched noise: waves, caustics."""
    stretch = rng.uniform(1, 4)
    lines = np.zeros((height, width), np.float32)
    for slope in (1.5, 1.2):
        noise = fractal_noise(rng, height, max(8, int(width / stretch)), slope)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        lines += np.exp(-4 * np.abs(np.asarray(image) * rng.uniform(0.8, 2)))
    depth = squash(fractal_noise(rng, height, width, 1.8))
    colours = palette(rng, 4, rng.uniform(0.42, 0.64))
    value = 0.55 * depth + 0.45 * lines / lines.max()
    return to_uint8(textured(rng, colourise(value, colours), 0.04))


def wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grain of wood, or veins of marble."""
    rows, columns = grid(height, width)
    warp = fractal_noise(rng, height, width, 1.8) * rng.uniform(0.02, 0.12)
    if rng.random() < 0.5:
        centre = rng.uniform(-1, 1, 2)
        squeeze = rng.uniform(3, 8)
        place = np.hypot((rows - centre[0]), (columns - centre[1]) * squeeze / 6)
        rings = np.sin(2 * np.pi * (place + warp * 0.5) * rng.uniform(8, 30))
        colours = palette(rng, 4, rng.uniform(0.04, 0.11))
    else:
        angle = rng.uniform(0, np.pi)
        place = np.cos(angle) * rows + np.sin(angle) * columns + warp * 6
        rings = 1 - 2 * np.abs(np.sin(place * rng.uniform(5, 14))) ** 0.4
        colours = palette(rng, 4)
    pores = fractal_noise(rng, max(8, height // 12), width, 0.5)
    pores = Image.fromarray(pores).resize((width, height), Image.Resampling.BICUBIC)
    value = 0.5 + 0.3 * rings + 0.05 * np.asarray(pores)
    return to_uint8(textured(rng, colourise(value, colours), 0.06))


def fabric(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Woven threads with stripes or checks."""
    rows, columns = grid(height, width)
    threads = rng.uniform(50, 160)
    warp = fractal_noise(rng, height, width, 2.0) * 0.006
    across, down = (columns + warp) * threads, (rows + warp) * threads
    over = (np.floor(across) + np.floor(down)) % 2
    round_ = np.where(over > 0, np.sin(np.pi * (across % 1)), np.sin(np.pi * (down % 1)))
    stripes = colourise(rng.random(64)[:, None], palette(rng, 5))[:, 0]
    period = rng.uniform(2, 12)
    vertical = stripes[(across / period).astype(int) % int(rng.integers(3, 12))]
    horizontal = stripes[(down / period).astype(int) % int(rng.integers(3, 12))]
    picture = np.where(over[..., None] > 0, vertical, horizontal)
    folds = 1 + 0.22 * fractal_noise(rng, height, width, 2.2)
    picture = picture * ((0.55 + 0.45 * round_) * folds)[..., None]
    return to_uint8(picture.astype(np.float32))


def spots(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Spots and stripes of animals' coats: band-passed noise, thresholded, with hair."""
    size = rng.uniform(4, 18)
    stretch = rng.choice([1.0, 1.0, rng.uniform(2, 5)])
    small = rng.standard_normal((height // 2 + 1, width // 2 + 1), dtype=np.float32)
    near = scipy.ndimage.gaussian_filter(small, (size / 2, size / 2 * stretch), truncate=2.5)
    far = scipy.ndimage.gaussian_filter(small, (size, size * stretch), truncate=2.5)
    band = near / near.std() - far / far.std()
    band = Image.fromarray(band / band.std()).resize((width, height), Image.Resampling.BICUBIC)
    value = 0.5 + 0.5 * np.tanh(rng.uniform(1, 8) * (np.asarray(band) - rng.uniform(-0.6, 0.8)))
    hair = fractal_noise(rng, height, max(8, width // 6), 0.4)
    hair = Image.fromarray(hair).resize((width, height), Image.Resampling.BICUBIC)
    picture = colourise(value, palette(rng, 4)) * (1 + 0.09 * np.asarray(hair)[..., None])
    return to_uint8(textured(rng, picture, 0.1))


MATERIALS: dict[str, Picture] = {
    "clouds": clouds,
    "plasma": plasma,
    "cells": cells,
    "mosaic": mosaic,
    "gratings": gratings,
    "water": water,
    "wood": wood,
    "fabric": fabric,
    "spots": spots,
}
"""Kinds of material by name."""
