"""The page of a demonstration: one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from vqathinker_jax.data.clip import printable
from vqathinker_jax.demo.outcome import (
    NOT_OPINIONS,
    Demo,
    Row,
    agreement_text,
    change_text,
    reason,
    shown,
)
from vqathinker_jax.reports.page import environment
from vqathinker_jax.reports.pictures import jpeg_uri
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.synthetic.encoding import read_video

STRIP_WIDTH = 96
"""Pixels of the small pictures."""
MOST_SMALL = 8
PICTURE_QUALITY, STRIP_QUALITY = 88, 78
"""Of JPEG: high for the large picture, so that what is seen is the clip's damage."""
PLOT = (600, 90)
"""Width and height of the plot of rewards, in its own units."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A score on the line from 1 to 5."""

    text: str
    percent: float | None
    """From the left end; None without a score."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One clip as the page shows it."""

    title: str
    done: str
    scene: str
    pseudo: Place
    before: Place
    after: Place | None
    reason: str
    reason_after: str | None
    warnings: tuple[str, ...]
    picture: str
    """A data URI."""
    strip: tuple[str, ...]
    """Data URIs of the frames that the model was shown."""


def render_page(demo: Demo, folder: Path) -> str:
    """The page.

    Args:
      demo: what was found.
      folder: that holds its clips.

    Raises:
      OSError: a clip cannot be read.
    """
    cards = [make_card(row, folder) for row in demo.rows]
    # Python's sort is stable: equal scores stay in the order in which the clips were made.
    ranked = sorted(zip(cards, demo.rows, strict=True), key=lambda pair: -pair[1].clip.pseudo_score)
    template = environment("vqathinker_jax.demo", "").get_template("page.html")
    return template.render(
        demo=demo,
        model_name=printable(demo.model_name),
        warning=None if demo.warning is None else printable(demo.warning),
        cards=cards,
        ranked=[card for card, _ in ranked],
        scenes=list(dict.fromkeys(card.scene for card in cards)),
        agreement=demo.agreement,
        agreement_text=agreement_text(demo.agreement),
        shown_srcc=shown(demo.agreement.srcc),
        shown_distance=shown(demo.agreement.distance),
        change_text=None if demo.training is None else change_text(demo),
        plot=None if demo.training is None else plot_points(demo.training.rewards),
        not_opinions=NOT_OPINIONS,
    )


def make_card(row: Row, folder: Path) -> Card:
    """What the page shows of one clip."""
    frames = list(read_video(folder / row.clip.file))
    after = row.after
    warnings = (*row.before.warnings, *(() if after is None else after.warnings))
    return Card(
        title=row.clip.title,
        done=row.clip.done,
        scene=row.clip.scene,
        pseudo=place(row.clip.pseudo_score),
        before=place_result(row.before),
        after=None if after is None else place_result(after),
        reason=reason(row.before),
        reason_after=None if after is None else reason(after),
        warnings=tuple(dict.fromkeys(map(printable, warnings))),
        picture=data_uri(frames[len(frames) // 2], PICTURE_QUALITY),
        strip=tuple(
            data_uri(frames[index], STRIP_QUALITY, STRIP_WIDTH)
            for index in strip_indices(row.before.frames, len(frames))
        ),
    )


def strip_indices(seen: tuple[int, ...], num_frames: int) -> list[int]:
    """Indices of the frames to show small: those the model saw, at most `MOST_SMALL` of them.

    >>> strip_indices((3, 10, 17), 20)
    [3, 10, 17]
    """
    chosen = [index for index in seen if index < num_frames]
    if len(chosen) > MOST_SMALL:
        places = np.linspace(0, len(chosen) - 1, MOST_SMALL).round().astype(int)
        chosen = [chosen[place] for place in places.tolist()]
    return chosen


def place(score: float) -> Place:
    """Where a score lies; beyond the ends it is drawn at the end.

    >>> place(2.0)
    Place(text='2.00', percent=25.0)
    """
    return Place(f"{score:.2f}", round(float(np.clip((score - 1) / 4, 0, 1)) * 100, 2))


def place_result(result: ScoreResult) -> Place:
    """Where a result's score lies, or why there is none."""
    if result.status != "ok":
        return Place("error", None)
    return Place("no score", None) if result.score is None else place(result.score)


def data_uri(frame: np.ndarray, quality: int, width: int | None = None) -> str:
    """A frame uint8 [H, W, 3] as a JPEG inside a data URI, reduced to `width` pixels if given."""
    image = Image.fromarray(frame)
    if width is not None:
        image = image.resize((width, max(1, round(image.height * width / image.width))))
    return jpeg_uri(image, quality)


def plot_points(values: tuple[float, ...]) -> list[list[float]]:
    """The points, each x and y, of a line through values: evenly spaced, in an SVG of size `PLOT`.

    >>> plot_points((1.0, 2.0))
    [[8.0, 80.0], [592.0, 10.0]]
    """
    low, high = min(values), max(values)
    x = np.linspace(8, PLOT[0] - 8, len(values)) if len(values) > 1 else np.array([PLOT[0] / 2])
    span = high - low
    heights = (np.array(values) - low) / span if span > 0 else np.full(len(values), 0.5)
    y = PLOT[1] - 10 - heights * (PLOT[1] - 20)
    return np.stack([x, y], axis=-1).round(1).tolist()
