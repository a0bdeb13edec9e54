"""Tests run on the CPU, offline, on eight fake devices, with strict dtype promotion."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes and dtypes of the stages' annotations are checked at run time.
install_import_hook(
    [
        "vqathinker_jax.inference",
        "vqathinker_jax.models.packed",
        "vqathinker_jax.models.qwen2",
        "vqathinker_jax.models.vqathinker",
        "vqathinker_jax.rl.rollout",
    ],
    "beartype.beartype",
)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_threefry_partitionable", True)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Lets go of compiled programs after each file.

    Every one takes some of the memory maps that the system allows a process (65,530 by default);
    XLA crashes when there are no more.
    """
    yield
    jax.clear_caches()


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of real clips, absent outside the project's own machines."""
    folder = SHARED / "data" / "videos"
    if not folder.is_dir():
        pytest.skip("no folder of real clips beside the checkout")
    return folder


@pytest.fixture(scope="session")
def real_labels() -> Path:
    """Folder of published label files, absent outside the project's own machines."""
    folder = SHARED / "data" / "labels"
    if not folder.is_dir():
        pytest.skip("no folder of label files beside the checkout")
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A random model folder in the official layout, as small as the geometry admits."""
    from tests.small import CONFIG, VIDEO
    from vqathinker_jax.weights.tiny import make_tiny

    folder = tmp_path_factory.mktemp("small") / "model"
    make_tiny(folder, model=CONFIG, video=VIDEO)
    return folder


@pytest.fixture(scope="session")
def small_model(small_folder):
    """The model in `small_folder`, float32."""
    import vqathinker_jax as vqt

    return vqt.from_pretrained(small_folder, dtype="float32")
