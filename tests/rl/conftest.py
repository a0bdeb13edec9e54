"""Inputs for the small model."""

import numpy as np
import pytest

from tests.small import VIDEO


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


@pytest.fixture
def pixels() -> np.ndarray:
    shape = (3, VIDEO.num_frames, VIDEO.image_size, VIDEO.image_size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
