"""The small model that ships inside the package."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.huggingface import resolve_model

BUNDLED_NAME = "nano"
"""What outputs call it; its folder is wherever the package was installed."""


def bundled_model() -> Path:
    """The folder of the bundled model, in the published layout.

    Raises:
      WeightsError: the package was installed without it.
    """
    folder = Path(str(importlib.resources.files("vqathinker_jax"))) / "assets" / BUNDLED_NAME
    if not (folder / "config.json").is_file():
        raise WeightsError(
            "this installation lacks the bundled nano model; name a model with --model DIR, or "
            "make a random one to try: vqathinker make-tiny DIR"
        )
    return folder


def find_model(model: str | os.PathLike | None) -> Path:
    """The folder of a model: the bundled one for None, else as `resolve_model`.

    Raises:
      WeightsError: there is none.
    """
    return bundled_model() if model is None else resolve_model(model)


def model_name(model: str | os.PathLike | None) -> str:
    """What outputs call a model: `nano` for None, else as it was named."""
    return BUNDLED_NAME if model is None else os.fspath(model)
