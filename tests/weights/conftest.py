"""One small folder per layout, made once."""

import shutil
from pathlib import Path

import pytest

from tests.weights.small_model import SMALL
from vqathinker_jax.weights.convert import convert
from vqathinker_jax.weights.tiny import make_tiny


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> Path:
    """A folder in the published layout: bfloat16, two weight files, int64 counters."""
    folder = tmp_path_factory.mktemp("folders") / "official"
    make_tiny(folder, seed=3, model=SMALL)
    return folder


@pytest.fixture(scope="session")
def native(official, tmp_path_factory) -> Path:
    """The same without motion parts, under transformers' own names."""
    folder = tmp_path_factory.mktemp("folders") / "native"
    convert(official, folder, "hf", layout="hf")
    return folder


@pytest.fixture(scope="session")
def checkpoint(official, tmp_path_factory) -> Path:
    """The official folder as our checkpoint."""
    folder = tmp_path_factory.mktemp("folders") / "checkpoint"
    convert(official, folder, "jax")
    return folder


@pytest.fixture
def broken(official, tmp_path) -> Path:
    """A copy of the official folder to damage."""
    return Path(shutil.copytree(official, tmp_path / "broken"))
