"""Things: pictures drawn from overlapping shapes, with edges, occlusion and light.

Overlapping opaque shapes whose sizes follow a power law ("dead leaves") have the edges and the
scale invariance of natural pictures; several kinds here are variations of them. Shapes are drawn at
twice the size and reduced, so that edges are smooth.
"""

from __future__ import annotations

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vqathinker_jax.synthetic.textures import (
    Picture,
    colourise,
    fractal_noise,
    grid,
    hsv_to_rgb,
    palette,
    squash,
    textured,
    to_uint8,
)

Colour = tuple[int, int, int]
OVERSAMPLING = 2


class Drawing:
    """A canvas to draw on at twice its size; coordinates are those of the reduced picture."""

    def __init__(self, height: int, width: int, background: Colour | np.ndarray):
        size = (width * OVERSAMPLING, height * OVERSAMPLING)
        if isinstance(background, np.ndarray):
            self.image = Image.fromarray(background).resize(size, Image.Resampling.BILINEAR)
        else:
            self.image = Image.new("RGB", size, background)
        self.pen = ImageDraw.Draw(self.image)

    def ellipse(self, x: float, y: float, a: float, b: float, colour: Colour) -> None:
        k = OVERSAMPLING
        self.pen.ellipse(((x - a) * k, (y - b) * k, (x + a) * k, (y + b) * k), fill=colour)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        k = OVERSAMPLING
        self.pen.rectangle((x * k, y * k, (x + width) * k, (y + height) * k), fill=colour)

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        self.pen.polygon([tuple(p) for p in (points * OVERSAMPLING).tolist()], fill=colour)

    def line(self, points: np.ndarray, width: float, colour: Colour) -> None:
        points = [tuple(p) for p in (points * OVERSAMPLING).tolist()]
        self.pen.line(points, fill=colour, width=max(1, round(width * OVERSAMPLING)))

    def text(self, x: float, y: float, text: str, size: float, colour: Colour) -> None:
        font = ImageFont.load_default(max(6, round(size)) * OVERSAMPLING)
        self.pen.text((x * OVERSAMPLING, y * OVERSAMPLING), text, fill=colour, font=font)

    def finish(self) -> np.ndarray:
        """The picture, float32 [H, W, 3] in 0 to 1."""
        return np.asarray(self.image.reduce(OVERSAMPLING), np.float32) / 255


def ink(colour: np.ndarray) -> Colour:
    """A colour [3] in 0 to 1 as Pillow wants it."""
    red, green, blue = (np.clip(colour, 0, 1) * 255).astype(int).tolist()
    return red, green, blue


def pick(rng: np.random.Generator, colours: np.ndarray, spread: float = 0.06) -> Colour:
    """One of the colours, varied a little in lightness and hue."""
    colour = colours[int(rng.integers(len(colours)))]
    return ink(colour * (1 + rng.normal(0, 2 * spread)) + rng.normal(0, spread, 3))


def power_law_sizes(
    rng: np.random.Generator, num: int, low: float, high: float, exponent: float = 3.0
) -> np.ndarray:
    """Sizes with density proportional to size^-exponent, largest first: float [num]."""
    power = 1 - exponent
    sizes = (low**power + rng.random(num) * (high**power - low**power)) ** (1 / power)
    return np.sort(sizes)[::-1]


def leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dead leaves of discs and ellipses."""
    side = min(height, width)
    colours = palette(rng, 6)
    drawing = Drawing(height, width, ink(colours[2]))
    for size in power_law_sizes(rng, 1500, side / 120, side / 3.5, 2.6):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        flat = rng.uniform(0.5, 1.5)
        drawing.ellipse(x, y, size, size * flat, pick(rng, colours))
    return to_uint8(textured(rng, drawing.finish(), rng.uniform(0.03, 0.2)))


def shards(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dead leaves of boxes, triangles and bars: clutter of a desk or a street."""
    side = min(height, width)
    colours = np.concatenate([palette(rng, 4), palette(rng, 3)])
    drawing = Drawing(height, width, ink(colours[1]))
    for size in power_law_sizes(rng, 900, side / 90, side / 2.5, 2.4):
        centre = rng.random(2) * (width, height)
        corners = int(rng.choice([3, 4, 4, 4, 6]))
        angles = np.sort(rng.uniform(0, 0.5) + np.arange(corners) / corners * 2 * np.pi)
        points = np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.2, 1)], axis=-1)
        turn = rng.uniform(0, np.pi)
        turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        drawing.polygon(centre + size * 0.12 + size * turned, (20, 20, 24))
        drawing.polygon(centre + size * turned, pick(rng, colours))
    return to_uint8(textured(rng, drawing.finish(), rng.uniform(0.02, 0.15)))


def foliage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Pointed leaves with veins, lit from one side, near ones larger and lighter."""
    side = min(height, width)
    hue = rng.choice([0.25, 0.3, 0.22, 0.08, 0.04, 0.9])
    drawing = Drawing(height, width, ink(hsv_to_rgb(hue, 0.6, 0.08)))
    lean = rng.uniform(0, 2 * np.pi)
    along = np.linspace(0, 1, 9)
    half = np.sin(np.pi * along) * rng.uniform(0.15, 0.35)
    outline = np.concatenate(
        [np.stack([along, half], -1), np.stack([along, -half], -1)[::-1]], axis=0
    )
    sizes = power_law_sizes(rng, 1400, side / 40, side / 4, 2.2)[::-1]
    for depth, size in zip(np.linspace(0.15, 1, len(sizes)), sizes, strict=True):
        angle = lean + rng.normal(0, 0.9)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        place = rng.uniform(-0.05, 1.05, 2) * (width, height)
        value = depth * rng.uniform(0.5, 1)
        colour = hsv_to_rgb((hue + rng.normal(0, 0.025)) % 1, rng.uniform(0.3, 0.9), value)
        drawing.polygon(place + size * outline @ turn, ink(colour))
        drawing.line(
            place + size * np.array([[0.0, 0.0], [0.95, 0.0]]) @ turn, 0.8, ink(colour * 1.35)
        )
    return to_uint8(textured(rng, drawing.finish(), 0.08))


def landscape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ridges of hills fading into haze, with trees in front."""
    rows, _ = grid(height, width)
    hue = rng.choice([0.55, 0.6, 0.07, 0.95])
    sky = palette(rng, 3, hue)[::-1]
    light = np.broadcast_to(rows / rows.max(), (height, width))
    picture = colourise(1 - light, sky)
    picture += 0.05 * squash(fractal_noise(rng, height, width, 1.6))[..., None]
    ground = hsv_to_rgb(rng.uniform(0.05, 0.4), rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.6))
    ridges = int(rng.integers(4, 8))
    texture = fractal_noise(rng, height, width, 0.9)[..., None]
    for i in range(ridges):
        near = (i + 1) / ridges
        profile = fractal_noise(rng, 4, width, rng.uniform(1.3, 1.8))[0] * (0.06 + 0.08 * near)
        level = 0.25 + 0.75 * near**1.2 + profile
        if near > 0.6:
            level -= 0.05 * near * np.abs(fractal_noise(rng, 4, width, 0.4)[0]) ** 2
        mask = np.clip((rows - level) * min(height, width), 0, 1)[..., None]
        colour = ground * (0.5 + 0.5 * near) * near + sky[0] * (1 - near)
        shade = 1 + 0.22 * near * np.roll(texture, int(rng.integers(width)), axis=1)
        picture = picture * (1 - mask) + mask * colour * shade
    return to_uint8(picture)


def facade(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Houses with rows of windows under a sky."""
    colours = palette(rng, 6)
    sky = colourise(
        np.broadcast_to(np.linspace(1, 0.3, height, dtype=np.float32)[:, None], (height, width)),
        palette(rng, 3, 0.58),
    )
    drawing = Drawing(height, width, to_uint8(sky))
    left = -20.0
    while left < width:
        breadth, top = rng.uniform(0.12, 0.35) * width, rng.uniform(0.02, 0.45) * height
        wall = pick(rng, colours)
        drawing.box(left, top, breadth, height, wall)
        step_x, step_y = rng.uniform(18, 60), rng.uniform(22, 70)
        frame, glass, lit = pick(rng, colours), pick(rng, colours), (250, 225, 150)
        for y in np.arange(top + step_y * 0.4, height, step_y):
            drawing.box(left, y - step_y * 0.25, breadth, 1.5, frame)
            for x in np.arange(left + step_x * 0.3, left + breadth - step_x * 0.8, step_x):
                drawing.box(x - 2, y - 2, step_x * 0.55 + 4, step_y * 0.6 + 4, frame)
                pane = lit if rng.random() < 0.12 else glass
                drawing.box(x, y, step_x * 0.55, step_y * 0.6, pane)
                drawing.box(x + step_x * 0.26, y, 1.2, step_y * 0.6, frame)
        left += breadth * rng.uniform(0.8, 1.1)
    return to_uint8(textured(rng, drawing.finish(), rng.uniform(0.04, 0.14)))


def text_card(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lines of words in several sizes, on paper or dark ground."""
    side = min(height, width)
    colours = palette(rng, 5)[:: int(rng.choice([1, -1]))]
    drawing = Drawing(height, width, ink(colours[-1]))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        drawing.box(
            x, y, rng.uniform(0.1, 0.5) * width, rng.uniform(0.05, 0.3) * height, pick(rng, colours)
        )
    top = rng.uniform(0, 0.05) * height
    while top < height:
        size = side * rng.choice([0.025, 0.03, 0.03, 0.045, 0.08])
        letters = rng.choice(list(string.ascii_letters), 400)
        lengths = rng.integers(2, 10, 60)
        words, start = [], 0
        for length in lengths:
            words.append("".join(letters[start : start + length]))
            start += int(length)
        colour = ink(colours[0]) if rng.random() < 0.8 else pick(rng, colours[:2])
        drawing.text(
            rng.uniform(0.01, 0.05) * width,
            top,
            " ".join(words)[: int(1.9 * width / size)],
            size,
            colour,
        )
        top += size * rng.uniform(1.2, 1.8)
    return to_uint8(textured(rng, drawing.finish(), rng.uniform(0.0, 0.06)))


def night(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lamps, stars and their glow over a dark town."""
    side = min(height, width)
    base = palette(rng, 3, rng.uniform(0.55, 0.75)) * rng.uniform(0.08, 0.3)
    field = colourise(squash(fractal_noise(rng, height, width, 1.5)), base)
    drawing = Drawing(height, width, to_uint8(field))
    horizon = rng.uniform(0.3, 0.8) * height
    for _ in range(int(rng.integers(0, 40))):
        x, tall = rng.uniform(0, width), rng.uniform(0.05, 0.4) * height
        drawing.box(
            x, horizon - tall, rng.uniform(0.02, 0.1) * width, height, pick(rng, base, 0.01)
        )
    for size in power_law_sizes(rng, int(rng.integers(150, 700)), side / 700, side / 25, 3.0):
        colour = hsv_to_rgb(
            rng.choice([0.08, 0.12, 0.6, 0.0, 0.35]), rng.uniform(0, 0.7), rng.uniform(0.5, 1)
        )
        drawing.ellipse(rng.uniform(0, width), rng.uniform(0, height), size, size, ink(colour))
    picture = drawing.finish()
    bright = Image.fromarray(to_uint8(picture * (picture > 0.4)))
    glow = bright.reduce(4).filter(ImageFilter.GaussianBlur(side / 80)).resize((width, height))
    return to_uint8(picture + np.asarray(glow, np.float32) / 255 * rng.uniform(0.8, 2))


def portrait(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Heads and shoulders, softly lit, with hair, before an unsharp background."""
    side = min(height, width)
    back = leaves(rng, height // 8, width // 8)
    back = Image.fromarray(back).filter(ImageFilter.GaussianBlur(2)).resize((width, height))
    drawing = Drawing(height, width, np.asarray(back))
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.7) * height
        r = rng.uniform(0.14, 0.28) * side
        skin = hsv_to_rgb(rng.uniform(0.03, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.35, 0.95))
        hair = hsv_to_rgb(rng.uniform(0, 0.12), rng.uniform(0.1, 0.8), rng.uniform(0.05, 0.6))
        cloth = pick(rng, palette(rng, 4))
        drawing.ellipse(x, y + 2.1 * r, 1.7 * r, 1.1 * r, cloth)
        drawing.box(x - 0.3 * r, y + 0.6 * r, 0.6 * r, 0.7 * r, ink(skin * 0.75))
        drawing.ellipse(x, y - 0.25 * r, 0.95 * r, 1.1 * r, ink(hair * 0.7))
        for step in np.linspace(1, 0.2, 9):
            shift = 0.16 * r * (1 - step)
            drawing.ellipse(
                x - shift, y - shift, 0.78 * r * step, r * step, ink(skin * (1.12 - 0.3 * step))
            )
        for eye in (-0.32, 0.32):
            drawing.ellipse(x + eye * r, y - 0.1 * r, 0.14 * r, 0.08 * r, (240, 240, 238))
            drawing.ellipse(x + eye * r, y - 0.1 * r, 0.06 * r, 0.07 * r, (30, 25, 25))
        drawing.ellipse(x, y + 0.5 * r, 0.25 * r, 0.06 * r, ink(skin * np.array([0.8, 0.45, 0.45])))
        for angle in rng.uniform(np.pi, 2 * np.pi, 160):
            root = np.array([x, y - 0.15 * r]) + r * np.array(
                [0.75 * np.cos(angle), 0.8 * np.sin(angle)]
            )
            tip = root + r * rng.uniform(0.1, 0.4) * np.array(
                [np.cos(angle) + rng.normal(0, 0.3), np.sin(angle)]
            )
            drawing.line(np.stack([root, tip]), 0.8, ink(hair * rng.uniform(0.5, 1.6)))
    return to_uint8(textured(rng, drawing.finish(), 0.04))


def crowd(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Rows of people seen from a stand, far ones smaller."""
    side = min(height, width)
    colours = np.concatenate([palette(rng, 4), palette(rng, 4)])
    drawing = Drawing(height, width, ink(colours[0]))
    top = 0.03 * height
    while top < height * 1.1:
        size = side * (0.012 + 0.035 * top / height)
        for x in np.arange(-size, width + size, size * rng.uniform(1.7, 2.6)):
            x, y = x + rng.normal(0, size * 0.4), top + rng.normal(0, size * 0.4)
            drawing.ellipse(x, y + 2 * size, size * 0.95, size * 1.5, pick(rng, colours))
            drawing.ellipse(
                x, y, size * 0.55, size * 0.7, ink(hsv_to_rgb(0.07, 0.4, rng.uniform(0.3, 0.95)))
            )
            drawing.ellipse(
                x,
                y - 0.35 * size,
                size * 0.55,
                size * 0.45,
                ink(hsv_to_rgb(0.08, 0.5, rng.uniform(0.05, 0.5))),
            )
        top += size * 2.2
    return to_uint8(textured(rng, drawing.finish(), 0.1))


def branches(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bare trees against the sky."""
    light = np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))
    sky = colourise(0.4 + 0.6 * light, palette(rng, 3, rng.choice([0.58, 0.05, 0.1])))
    sky *= 1 + 0.05 * fractal_noise(rng, height, width, 1.6)[..., None]
    drawing = Drawing(height, width, to_uint8(sky))
    bark = hsv_to_rgb(rng.uniform(0.02, 0.12), 0.4, rng.uniform(0.05, 0.35))
    spread = rng.uniform(0.3, 0.55)
    for x in rng.uniform(0, width, int(rng.integers(3, 6))):
        tips = [(np.array([x, height * 1.02]), -np.pi / 2, height * rng.uniform(0.16, 0.28))]
        thickness = height * 0.022
        for _ in range(8):
            grown = []
            for root, angle, length in tips:
                tip = root + length * np.array([np.cos(angle), np.sin(angle)])
                drawing.line(np.stack([root, tip]), thickness, ink(bark * rng.uniform(0.7, 1.4)))
                for side in (-1, 1):
                    turn = angle + side * spread * rng.uniform(0.4, 1.4)
                    grown.append((tip, turn, length * rng.uniform(0.62, 0.86)))
            tips, thickness = grown, thickness * 0.66
    return to_uint8(textured(rng, drawing.finish(), 0.03))


def screen(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Windows, icons, charts and words of a desktop or a game."""
    side = min(height, width)
    colours = np.concatenate([palette(rng, 5), palette(rng, 3)])
    drawing = Drawing(
        height,
        width,
        to_uint8(colourise(grid(height, width)[0] + 0 * grid(height, width)[1], colours[:3])),
    )
    for _ in range(int(rng.integers(6, 14))):
        x, y = rng.uniform(-0.1, 0.85) * width, rng.uniform(-0.1, 0.85) * height
        w, h = rng.uniform(0.15, 0.45) * width, rng.uniform(0.15, 0.5) * height
        front, back = ink(colours[0]), pick(rng, colours[2:])
        drawing.box(x - 1, y - 1, w + 2, h + 2, front)
        drawing.box(x, y, w, h, back)
        drawing.box(x, y, w, side * 0.035, pick(rng, colours))
        if rng.random() < 0.5:
            points = np.stack(
                [
                    np.linspace(x, x + w, 40),
                    y + h * (0.5 + 0.12 * np.cumsum(rng.normal(0, 0.4, 40)).clip(-3, 3)),
                ],
                axis=-1,
            )
            drawing.line(points, rng.uniform(0.8, 3), pick(rng, colours))
        else:
            for row in np.arange(y + side * 0.05, y + h - side * 0.04, side * 0.035):
                word = "".join(rng.choice([*string.ascii_lowercase, " ", " "], int(w / side * 55)))
                drawing.text(x + side * 0.01, row, word, side * 0.024, front)
        for i in range(int(rng.integers(0, 6))):
            drawing.ellipse(
                x + w - side * 0.03 * (i + 1),
                y + side * 0.018,
                side * 0.01,
                side * 0.01,
                pick(rng, colours),
            )
    return to_uint8(drawing.finish())


THINGS: dict[str, Picture] = {
    "leaves": leaves,
    "shards": shards,
    "foliage": foliage,
    "landscape": landscape,
    "facade": facade,
    "text": text_card,
    "night": night,
    "portrait": portrait,
    "crowd": crowd,
    "branches": branches,
    "screen": screen,
}
"""Kinds of scenery by name."""
