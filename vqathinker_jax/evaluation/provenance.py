"""What an evaluation was made with."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from typing import Any

from vqathinker_jax import __version__
from vqathinker_jax.api import VideoQualityModel
from vqathinker_jax.evaluation.statistics import BootstrapConfig
from vqathinker_jax.scoring import ScoreSettings

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "av", "pillow")


def settings_of_judging(bootstrap: BootstrapConfig) -> dict[str, Any]:
    """Settings and versions of a judgement without a model."""
    return {
        "bootstrap": dataclasses.asdict(bootstrap),
        "versions": {
            "vqathinker_jax": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def settings_of_asking(
    model: VideoQualityModel, settings: ScoreSettings, bootstrap: BootstrapConfig, processes: int
) -> dict[str, Any]:
    """Settings and versions of an evaluated model."""
    return {
        **settings_of_judging(bootstrap),
        "scoring": dataclasses.asdict(settings.of(model.loaded)),
        "video": dataclasses.asdict(model.video),
        "dtype": model.loaded.dtype,
        "prompt_style": settings.prompt_style or model.loaded.prompt_style,
        "fingerprint": model.settings_fingerprint(settings),
        "processes": processes,
        "devices_per_process": model.loaded.num_shares,
    }
