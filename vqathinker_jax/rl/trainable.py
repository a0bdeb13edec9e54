"""Which parameters of the model a run trains, by part and by name."""

from __future__ import annotations

from flax import nnx

from vqathinker_jax.models.lora import has_adapters, is_adapter
from vqathinker_jax.models.vqathinker import VQAThinker

VISION_PARTS = {
    "full": ("vision", "projector", "motion_projector", "decoder"),
    "layers": ("vision", "projector", "motion_projector", "decoder"),
    "projector": ("projector", "motion_projector", "decoder"),
    "frozen": ("decoder",),
}
"""What trains for each value of `vision`, SlowFast apart; `layers` keeps the patch embedding."""
MOTION = ("frozen", "layers")
"""Values of `motion`: whether SlowFast trains. `layers` keeps its stems."""
STATISTICS = ("mean", "var")
"""Stored statistics of norms: never trained by gradient."""


def is_trained(vision: str, motion: str, path: tuple, adapters: bool = False) -> bool:
    """Whether the parameter at `path` trains; see `split_trained`.

    Args:
      vision, motion: as there.
      path: of the parameter in the model.
      adapters: whether the decoder has adapters, which then train in its place.
    """
    if path[0] == "decoder" and adapters:
        return is_adapter(path)
    if path[0] == "slowfast":
        return motion == "layers" and path[1] != "stem" and path[-1] not in STATISTICS
    is_embedding = path[:2] == ("vision", "patch_embedding")
    return path[0] in VISION_PARTS[vision] and not (vision == "layers" and is_embedding)


def are_encoders_frozen(vision: str, motion: str) -> bool:
    """Whether neither the tower nor SlowFast trains, whatever their projectors do."""
    return "vision" not in VISION_PARTS[vision] and motion == "frozen"


def split_trained(
    model: VQAThinker, vision: str, motion: str = "frozen"
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The model as its structure, the parameters that train and those that do not.

    A decoder with adapters (`models/lora.py`) trains these and keeps its own parameters.

    Args:
      model: the model.
      vision: a key of `VISION_PARTS`.
      motion: one of `MOTION`.

    Raises:
      ValueError: an unknown value of `vision` or `motion`.
    """
    for name, value, known in (("vision", vision, VISION_PARTS), ("motion", motion, MOTION)):
        if value not in known:
            raise ValueError(f"{name} must be one of {tuple(known)}, got {value!r}")
    adapters = has_adapters(model.decoder)
    return nnx.split(model, lambda path, _: is_trained(vision, motion, path, adapters), ...)
