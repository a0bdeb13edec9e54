"""What a run with adapters starts from, and its sampler."""

import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from tests.rl.lora_states import flat
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.start import load_start, make_sampler


def test_the_decoder_is_there_once_and_as_stored(lora_start):
    trained, frozen, reference = (
        flat(s) for s in (lora_start.trained, lora_start.frozen, lora_start.reference)
    )
    assert {name.split(".")[0] for name in trained} == {
        "decoder", "projector", "motion_projector"
    }  # fmt: skip
    assert trained.keys() == reference.keys()
    assert all(".adapter." in name for name in trained if name.startswith("decoder."))
    assert {value.dtype for value in trained.values()} == {jnp.dtype("float32")}
    assert frozen["decoder.layers.mlp.down.kernel"].dtype == jnp.bfloat16
    assert not any(reference[name].any() for name in reference if name.endswith("adapter.b"))


def test_the_sampler_shares_what_is_frozen_in_the_compute_dtype(lora_start):
    sampler = flat(make_sampler(lora_start, lora_start.trained, make_mesh(), "bfloat16")[1])
    for name, value in flat(lora_start.frozen).items():
        if value.dtype == jnp.bfloat16:
            assert sampler[name].unsafe_buffer_pointer() == value.unsafe_buffer_pointer()
    assert sampler["decoder.layers.attn.q.adapter.b"].dtype == jnp.bfloat16


def test_a_kernel_for_other_devices_is_refused_before_the_model_is_split(lora_config, tmp_path):
    wanted = dataclasses.replace(lora_config.model, attention="splash")
    config = dataclasses.replace(lora_config, model=wanted)
    message = "model: attention splash runs on tpu, and the devices are cpu"
    with pytest.raises(TrainingError, match=message):
        load_start(config, make_mesh(), (), tmp_path)


def test_the_run_has_the_kernels_it_asks_for(lora_config, lora_start, tmp_path):
    assert lora_start.model.cfg.vision.attention == "head_by_head"
    wanted = dataclasses.replace(lora_config.model, attention="xla")
    start = load_start(dataclasses.replace(lora_config, model=wanted), make_mesh(), (), tmp_path)
    assert start.model.cfg.vision.attention == start.model.cfg.decoder.attention == "xla"
    graphdef = start.model.graphdef
    model = nnx.merge(graphdef, start.trained, start.frozen)
    assert model.vision.cfg.attention == model.decoder.cfg.attention == "xla"
