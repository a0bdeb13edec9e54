"""What a run with adapters starts from, and its sampler."""

import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from tests.rl.lora_states import flat
from tests.small import CONFIG
from vqathinker_jax.config import MeshConfig
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.start import check_layouts, load_start, make_sampler


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


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        # Four heads in two groups.
        ({"tensor": 4}, "mesh: parameter decoder.layers.attn.k.bias: axis 'kv_heads' of size 2"),
        ({"fsdp": 4, "rollout_tensor": 4}, "mesh.rollout_tensor 4: parameter decoder.layers.attn"),
        ({"fsdp": 5}, r"of size 32 cannot be split over mesh axes \('fsdp',\) \(5 devices\)"),
    ],
)
def test_a_model_that_does_not_split_is_refused_before_its_weights_are_read(
    lora_config, mesh, said
):
    config = dataclasses.replace(
        lora_config,
        mesh=MeshConfig(**mesh),
        run=dataclasses.replace(lora_config.run, videos_per_step=20, micro_batch=20),
    )
    sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    with pytest.raises(TrainingError, match=said):
        check_layouts(CONFIG, config, make_mesh(*sizes))


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    said = "mesh data=2 x fsdp=3 x tensor=4 needs 24 devices, there are 8"
    with pytest.raises(ValueError, match=said):
        make_mesh(2, 3, 4)
