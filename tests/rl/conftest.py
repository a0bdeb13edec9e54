"""Inputs for the small model, and the start of a run with adapters."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.rl.lora_states import LORA
from tests.rl.train_runs import make_config
from tests.small import VIDEO
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.start import Start, load_start


@pytest.fixture
def prompts(small_model) -> tuple[np.ndarray, np.ndarray]:
    """Three padded prompts of different length with garbage in the pads, and their lengths."""
    rows = [small_model.build_prompt(question) for question in (None, "Is it sharp?", "Good?")]
    lengths = np.array([len(row) for row in rows], np.int32)
    assert len(set(lengths.tolist())) == 3
    padded = np.full((3, lengths.max() + 3), small_model.loaded.context_id, np.int32)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return padded, lengths


@pytest.fixture(scope="module")
def quickly_compiled():
    """Programs are compiled without optimisation: what is compiled here runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def pixels() -> np.ndarray:
    shape = (3, VIDEO.num_frames, VIDEO.image_size, VIDEO.image_size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="session")
def lora_config(small_folder, tmp_path_factory):
    labels = tmp_path_factory.mktemp("data") / "labels.jsonl"
    config = make_config(small_folder, labels)
    model = dataclasses.replace(config.model, lora=LORA, vision="projector", dtype="bfloat16")
    return dataclasses.replace(config, model=model)


@pytest.fixture(scope="session")
def lora_start(lora_config, tmp_path_factory) -> Start:
    return load_start(lora_config, make_mesh(), (), tmp_path_factory.mktemp("run"))
