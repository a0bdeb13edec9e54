"""A demonstration in miniature, and its findings made up."""

from pathlib import Path

from vqathinker_jax.demo.folder import DemoFolder
from vqathinker_jax.demo.handful import HandfulConfig, Treatment, make_handful
from vqathinker_jax.demo.outcome import Demo, Row
from vqathinker_jax.results import ScoreResult

THREE = HandfulConfig(
    seed=3,
    treatments=(
        Treatment("clean", 0),
        Treatment("strong blur", 0, (("blur", 0.9),)),
        Treatment("noise, compression", 1, (("noise", 0.4), ("compression", 0.6))),
    ),
    height=60,
    width=80,
    num_frames=7,
)
WARNING = "model nano is a nano model trained on synthetic distortions: not calibrated to people"


def make_demo(path: Path, scores: tuple[float | None, ...] = (4.5, 1.25, 2.0), **changes) -> Demo:
    """The three clips, and results as if a model had given them; `changes` to the results."""
    folder = DemoFolder(path)
    folder.begin(THREE.file_names())
    clips = make_handful(THREE, path, lambda done, total: None)
    rows = []
    for clip, score in zip(clips, scores, strict=True):
        fields = {
            "path": clip.file,
            "status": "ok",
            "score": score,
            "parseable": score is not None,
            "reasoning": None if score is None else f"The video shows {clip.title}.",
            "frames": (1, 3, 5),
            "model_kind": "nano",
        }
        rows.append(Row(clip, ScoreResult(**{**fields, **changes})))
    return Demo(tuple(rows), "nano", "nano", WARNING, seed=3, seconds=12.3)
