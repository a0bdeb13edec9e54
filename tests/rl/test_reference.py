"""The KL reference: its dtype and memory, and a KL of exactly 0 at the start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.rl.lora_states import flat
from tests.rl.test_mesh import CONFIG, CONTEXT_ID, OPTIMIZER, VIDEO, C, make_batch
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.reference import make_reference, on_devices
from vqathinker_jax.rl.start import copied
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.rl.update import ObjectiveConfig, Static, response_logprobs, update
from vqathinker_jax.weights.initial import InitialSource
from vqathinker_jax.weights.readers import abstract_model, fill_model, parameter_shapes


def as_stored(dtype: str, mesh) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    # Positions made for another grid than the images' are resampled, in their stored dtype.
    vision = dataclasses.replace(CONFIG.vision, image_size=42)
    graphdef, state = abstract_model(dataclasses.replace(CONFIG, vision=vision))
    source = InitialSource(parameter_shapes(state), 3)
    return split_trained(fill_model(graphdef, state, source, mesh, dtype), "full")


pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.mark.parametrize(
    ("stored_dtype", "dtype", "kept"),
    [("bfloat16", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32")],
)
def test_kl_is_exactly_zero_at_the_start(stored_dtype, dtype, kept):
    graphdef, stored, frozen = as_stored(stored_dtype, make_mesh())
    trained = copied(stored, "float32")
    reference = make_reference(stored, "float32", dtype, "host")
    assert {leaf.dtype for leaf in jax.tree.leaves(reference)} == {jnp.dtype(kept)}
    batch = jax.tree.map(jnp.asarray, make_batch())
    batch = dataclasses.replace(batch, pixels=batch.pixels.astype(dtype), reference_logprobs=None)
    static = Static(graphdef, VIDEO, CONTEXT_ID, ObjectiveConfig(logprob_chunk=7), 8, C)
    found = response_logprobs(on_devices(reference), frozen, batch, static)
    batch = dataclasses.replace(batch, reference_logprobs=found)
    opt_state = OPTIMIZER.make().init(trained)
    # jax's attention mixes dtypes in its bfloat16 gradient, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        _, _, metrics = update(trained, frozen, opt_state, batch, static, OPTIMIZER)
    assert float(metrics.kl_token_mean) == 0.0 and float(metrics.grad_norm) > 0


def test_it_waits_on_the_host_and_comes_back_in_its_layout():
    mesh = make_mesh(fsdp=4)
    stored = as_stored("bfloat16", mesh)[1]
    device = flat(make_reference(stored, "float32", "bfloat16", "device"))
    waiting = make_reference(stored, "float32", "bfloat16", "host")
    with (
        jax.transfer_guard_host_to_device("disallow"),
        jax.transfer_guard_device_to_host("disallow"),
    ):
        back = flat(on_devices(waiting))
    for name, value in flat(waiting).items():
        assert value.sharding.memory_kind == "pinned_host", name
        assert back[name].sharding.is_equivalent_to(device[name].sharding, value.ndim), name
        np.testing.assert_array_equal(back[name], device[name])
    # What keeps its dtype and memory is not copied.
    for name, value in flat(stored).items():
        assert device[name] is value, name


def test_what_was_stored_in_full_is_kept_as_it_trains():
    stored = as_stored("float32", make_mesh())[1]
    for param_dtype in ("float32", "bfloat16"):
        reference = make_reference(stored, param_dtype, "bfloat16", "device")
        trained = copied(stored, param_dtype)
        for name, value in flat(reference).items():
            assert value.dtype == jnp.dtype(param_dtype)
            np.testing.assert_array_equal(value, flat(trained)[name])
