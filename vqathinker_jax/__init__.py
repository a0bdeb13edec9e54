"""VQAThinker in JAX: score the quality of a video from 1 to 5, with reasons.

    import vqathinker_jax as vqt
    model = vqt.from_pretrained("InternVL3-VQAThinker-8B")
    result = model.score("clip.mp4")
    print(result.score, result.reasoning)

Importing the package is cheap; JAX is imported when the first model is loaded.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from vqathinker_jax.spec import INFERENCE, TRAINING, VIDEO_SPECS, VideoSpec

if TYPE_CHECKING:
    from vqathinker_jax.api import VideoQualityModel, from_pretrained
    from vqathinker_jax.score_settings import ScoreSettings

__version__ = metadata.version("vqathinker_jax")

__all__ = [
    "INFERENCE",
    "TRAINING",
    "VIDEO_SPECS",
    "ScoreSettings",
    "VideoQualityModel",
    "VideoSpec",
    "from_pretrained",
]


def __getattr__(name: str):
    """Imports the parts that need JAX on first use."""
    if name in ("VideoQualityModel", "from_pretrained"):
        from vqathinker_jax import api

        return getattr(api, name)
    if name == "ScoreSettings":
        from vqathinker_jax.score_settings import ScoreSettings

        return ScoreSettings
    raise AttributeError(f"module 'vqathinker_jax' has no attribute {name!r}")
