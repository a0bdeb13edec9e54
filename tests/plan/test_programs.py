"""What a run would hold, counted by hand on a tiny model."""

import dataclasses

import jax
import pytest

from tests.plan.plans import write_config
from tests.small import CONFIG, VIDEO
from vqathinker_jax.config import load_config
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.plan.abstract_run import abstract_run, bytes_per_chip
from vqathinker_jax.plan.job import PHASES, Job
from vqathinker_jax.plan.programs import make_program, mesh_of, phases_of

MODEL = dataclasses.replace(
    CONFIG, vision=dataclasses.replace(CONFIG.vision, num_attention_heads=2)
)


def make_job(tmp_path, phase: str = "update", *overrides: str) -> Job:
    config = load_config(write_config(tmp_path), overrides)
    return Job(
        "cpu:8", phase, dataclasses.replace(config, video=VIDEO), MODEL, "float32", 30, 16, "xla"
    )


def count(state) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def test_full_training_holds_twelve_bytes_a_parameter_over_all_chips(tmp_path):
    job = make_job(tmp_path, "update", "--mesh.fsdp", "1")
    run = abstract_run(job, make_mesh(fsdp=1))
    trained = count(run.trained)
    assert bytes_per_chip(run.trained) == 4 * trained
    # Two moments, and two counters of 4 bytes.
    assert bytes_per_chip(run.opt_state) == 8 * trained + 8
    assert bytes_per_chip(run.reference) == 4 * trained
    assert bytes_per_chip(run.sampler) == 2 * (trained + count(run.frozen))


def test_fsdp_divides_what_trains_and_not_what_rollouts_read(tmp_path):
    one = abstract_run(make_job(tmp_path), make_mesh(fsdp=8))
    whole = abstract_run(make_job(tmp_path, "update", "--mesh.fsdp", "1"), make_mesh(fsdp=1))
    halves = abstract_run(
        make_job(tmp_path, "update", "--mesh.rollout_tensor", "2"), make_mesh(fsdp=8)
    )
    # Norms and biases lie on every chip.
    assert 1 / 8 < bytes_per_chip(one.trained) / bytes_per_chip(whole.trained) < 1 / 5
    assert bytes_per_chip(one.sampler) == bytes_per_chip(whole.sampler)
    decoders = [bytes_per_chip(run.sampler["decoder"]) for run in (halves, whole)]
    assert 1 / 2 < decoders[0] / decoders[1] < 0.55


def test_adapters_train_alone_and_the_decoder_is_there_once(tmp_path):
    options = ("--model.lora.rank", "3", "--model.vision", "frozen", "--mesh.fsdp", "1")
    lora = abstract_run(make_job(tmp_path, "update", *options), make_mesh(fsdp=1))
    full = abstract_run(make_job(tmp_path, "update", "--mesh.fsdp", "1"), make_mesh(fsdp=1))
    cfg = MODEL.decoder
    d, ffn, kv = cfg.hidden_size, cfg.intermediate_size, cfg.num_key_value_heads * cfg.head_dim
    sides = 4 * d + 2 * (d + kv) + 3 * (d + ffn)
    assert count(lora.trained) == cfg.num_hidden_layers * 3 * sides
    assert count(lora.trained) + count(lora.frozen) == count(full.sampler) + count(lora.trained)
    # float32 in the folder, bfloat16 in rollouts: nothing is shared.
    assert bytes_per_chip(lora.own_frozen) == 4 * count(lora.frozen)
    shared = dataclasses.replace(make_job(tmp_path, "update", *options), stored_dtype="bfloat16")
    assert abstract_run(shared, make_mesh(fsdp=1)).own_frozen == []


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_traces_and_knows_what_lies_beside_it(tmp_path, phase):
    mesh = make_mesh(fsdp=8)
    run = abstract_run(make_job(tmp_path, phase), mesh)
    with jax.set_mesh(mesh_of(run, phase)):
        program = make_program(run, phase)
        jaxpr = program.trace().jaxpr
    assert jaxpr.jaxpr.eqns
    trained = bytes_per_chip(run.trained)
    expected = {
        "reference": {"training parameters": trained, "optimizer": bytes_per_chip(run.opt_state)},
        "update": {"reference": trained},
    }
    rollout = {**expected["reference"], **expected["update"]}
    for name, size in expected.get(phase, rollout).items():
        assert program.resident[name] == size
    assert (program.loop_trips == 16) == (phase == "decode")


def test_decoding_reads_all_weights_but_the_token_table(tmp_path):
    run = abstract_run(make_job(tmp_path, "decode", "--mesh.fsdp", "1"), make_mesh(fsdp=1))
    with jax.set_mesh(run.rollout_mesh):
        program = make_program(run, "decode")
    decoder, cfg = run.sampler["decoder"], MODEL.decoder
    # 16 rows of 32 prompt slots, and of half of 16 response slots for each of 2 responses.
    per_slot = 2 * cfg.num_hidden_layers * cfg.num_key_value_heads * cfg.head_dim * 2
    cache = 16 * (32 + 2 * 16 // 2) * per_slot
    small = 16 * (cfg.hidden_size * 2 + 4)
    weights = bytes_per_chip(decoder) - bytes_per_chip(decoder["embed"])
    assert program.streamed_bytes == weights + cache + small


def test_steps_have_the_phases_that_they_need():
    assert phases_of("sft", True, 0.04) == ("update",)
    assert phases_of("grpo", False, 0.0) == ("encode", "project", "prefill", "decode", "update")
    assert phases_of("grpo", True, 0.04) == PHASES
