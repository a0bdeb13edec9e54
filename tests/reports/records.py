"""Small evaluations and results to make pages of."""

import dataclasses
import math
from pathlib import Path

import av
import numpy as np

from vqathinker_jax.data.video import FrameRequest, read_clip
from vqathinker_jax.evaluation.outcome import (
    Agreement,
    BenchmarkOutcome,
    BenchmarkRow,
    Estimate,
    Evaluation,
)
from vqathinker_jax.results import ScoreResult, file_stamp

EVIL = "</p><script>alert(1)</script><img src=http://x/> & \x1b[31m"
WARNING = "model m holds random weights: its answers mean nothing"
NAN = Estimate(math.nan, math.nan, math.nan)
LOGISTIC = (5.0, 1.0, 3.0, 0.5)


def write_clip(path: Path, num_frames: int = 12, size: tuple[int, int] = (64, 48)) -> Path:
    """A clip whose frames get brighter, so that each can be told from the others."""
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for place in range(num_frames):
            shade = np.full((height, width, 3), 20 * place, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())
    return path


def result_of(path: Path, score: float | None, num_frames: int = 6, **changes) -> ScoreResult:
    """What scoring a clip would give."""
    clip = read_clip(path, FrameRequest(num_frames, 32))
    size, mtime_ns = file_stamp(path)
    made = ScoreResult(
        str(path),
        "ok",
        score=score,
        parseable=score is not None,
        reasoning="sharp, but noisy",
        response="<think>sharp, but noisy</think>",
        frames=tuple(clip.indices.tolist()),
        video=dataclasses.asdict(clip.facts),
        model="m",
        model_kind="random",
        size=size,
        mtime_ns=mtime_ns,
    )
    return dataclasses.replace(made, **changes)


def rows_of(labels, predictions, results=None) -> tuple[BenchmarkRow, ...]:
    """Rows `v0.mp4`, `v1.mp4`, ...; None as prediction is a missing file."""
    results = [None] * len(labels) if results is None else results
    return tuple(
        BenchmarkRow(
            f"v{place}.mp4",
            f"/videos/v{place}.mp4",
            float(label),
            None if prediction is None else float(prediction),
            "missing" if prediction is None else "ok",
            result,
        )
        for place, (label, prediction, result) in enumerate(
            zip(labels, predictions, results, strict=True)
        )
    )


def outcome_of(
    rows, name="made", domain="custom", srcc=0.8, logistic=LOGISTIC, **changes
) -> BenchmarkOutcome:
    """An outcome with statistics of our choice."""
    num_scored = sum(row.prediction is not None for row in rows)
    known = Estimate(srcc, srcc - 0.1, srcc + 0.1)
    agreement = Agreement(num_scored, known, known, known, known, known, logistic, None)
    made = BenchmarkOutcome(
        name=name,
        domain=domain,
        num_labels=len(rows),
        num_missing=len(rows) - num_scored,
        num_failed=0,
        num_unparseable=0,
        num_out_of_range=0,
        rows=tuple(rows),
        agreement=agreement,
    )
    return dataclasses.replace(made, **changes)


def evaluation_of(*outcomes, warning=WARNING, model="m") -> Evaluation:
    """An evaluation of these."""
    settings = {"bootstrap": {"draws": 200, "level": 0.9, "seed": 0}, "jax": "0.10.2"}
    return Evaluation(model, "random", warning, settings, tuple(outcomes))
