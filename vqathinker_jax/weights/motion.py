"""The motion parts of a folder that comes without them: as published before training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.mapping import SLOWFAST_PREFIX, slowfast_table
from vqathinker_jax.weights.pieces import check_names
from vqathinker_jax.weights.torch_pickle import read_torch_tensors

PYTH_PREFIX = "blocks."
UNTRAINED_MOTION = "untrained motion projector"
RANDOM_MOTION = "motion encoder not pretrained"


@dataclasses.dataclass(frozen=True)
class MotionStart:
    """Initial values of `motion_projector` and `slowfast`."""

    parameters: dict[str, np.ndarray]
    """Dotted path -> value."""
    counters: dict[str, np.ndarray]
    """Name in the official layout -> int64 scalar."""
    kind: str
    """How the folder is to be labelled."""


def initial_motion(
    cfg: VQAThinkerConfig, dtype: np.dtype, seed: int, slowfast_pyth: Path | None
) -> MotionStart:
    """Projector kernels uniform in [0, 0.01) with zero bias; SlowFast from its file, else random.

    Args:
      cfg: the architecture.
      dtype: of the parameters; the published file's float32 is rounded to it, as published.
      seed: of everything random.
      slowfast_pyth: `SLOWFAST_8x8_R50.pyth` of pytorchvideo.

    Raises:
      WeightsError: the file cannot be read, or holds another network.
    """
    width, feature = cfg.decoder.hidden_size, cfg.slowfast.feature_size
    rng = np.random.default_rng(seed)
    parameters = {
        "norm.scale": np.ones(feature),
        "norm.bias": np.zeros(feature),
        "fc1.kernel": rng.uniform(0, 0.01, (feature, width)),
        "fc1.bias": np.zeros(width),
        "fc2.kernel": rng.uniform(0, 0.01, (width, width)),
        "fc2.bias": np.zeros(width),
    }
    parameters = {
        f"motion_projector.{name}": value.astype(dtype) for name, value in parameters.items()
    }
    if slowfast_pyth is not None:
        encoder, counters = read_slowfast(cfg, slowfast_pyth)
        cast = {path: value.astype(dtype) for path, value in encoder.items()}
        return MotionStart({**parameters, **cast}, counters, UNTRAINED_MOTION)
    table = slowfast_table(cfg.slowfast, SLOWFAST_PREFIX)
    for piece in table.pieces:
        shape = piece.to_ours(np.empty(piece.shape, np.int8)).shape
        parameters[piece.path] = random_motion(piece.path, shape, rng).astype(dtype)
    counters = {name: np.zeros((), np.int64) for name in table.counters}
    return MotionStart(parameters, counters, RANDOM_MOTION)


def random_motion(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A start for one parameter of SlowFast: He for kernels, the identity for norms.

    Drawn by NumPy: the modules' own initialisation is compiled shape by shape, which takes a minute
    on a small machine.
    """
    match path.split(".")[-1]:
        case "kernel":
            return rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        case "scale" | "var":
            return np.ones(shape)
        case _:
            return np.zeros(shape)


def read_slowfast(
    cfg: VQAThinkerConfig, path: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """SlowFast's parameters by path, and its counters by official name, from the published file.

    The classifier (`blocks.6`) is not used.

    Raises:
      WeightsError: the file cannot be read, or its tensors are not those of `cfg.slowfast`.
    """
    stored = read_torch_tensors(path)
    tensors = {name: value for name, value in stored.items() if not name.startswith("blocks.6.")}
    table = slowfast_table(cfg.slowfast, PYTH_PREFIX)
    check_names(table, {name: value.shape for name, value in tensors.items()}, str(path))
    for piece in table.pieces:
        if tensors[piece.name].dtype.kind in "iub":
            raise WeightsError(f"{path}: {piece.name} holds integers")
    parameters = {piece.path: piece.to_ours(tensors[piece.name]) for piece in table.pieces}
    counters = {
        SLOWFAST_PREFIX + name.removeprefix(PYTH_PREFIX): tensors[name].astype(np.int64)
        for name in table.counters
    }
    return parameters, counters
