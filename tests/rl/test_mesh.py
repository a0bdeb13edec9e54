"""A mesh changes where numbers are, not what they are, and copies nothing large by accident."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_decoder import make_decoder
from tests.rl.lora_states import LORA, flat
from vqathinker_jax.layouts import place_batch, place_state, rollout_mesh
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill, start_decode
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.lora import add_adapters
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.parallel import make_mesh, state_shardings
from vqathinker_jax.records import Generation
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.rl.update import (
    ObjectiveConfig,
    Static,
    UpdateBatch,
    response_logprobs,
    update,
)
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.initial import InitialSource
from vqathinker_jax.weights.readers import abstract_model, fill_model, parameter_shapes

VIDEO = VideoSpec(num_frames=2, image_size=28, has_motion=False)
# Every width divides by eight, heads and groups by four, and no two of them are equal.
CONFIG = VQAThinkerConfig(
    vision=InternViTConfig(
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        remat="names",
    ),
    decoder=Qwen2Config(
        vocab_size=101,
        vocab_multiple=8,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        remat="names",
    ),
    slowfast=SlowFastConfig(
        stem_width=8, depths=(1, 1, 1, 1), slow_pool=(2, 1, 2), fast_pool=(5, 2, 1)
    ),
)
V = CONFIG.decoder.padded_vocab_size
NUM, K, C, P, CONTEXT_ID = 8, 3, 5, 9, 100
CHUNK = 7
pytestmark = pytest.mark.usefixtures("quickly_compiled")
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, total_steps=10, max_grad_norm=1e9)


def make_batch() -> UpdateBatch:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CONTEXT_ID, (NUM, P))
    ids[:, 2:4] = CONTEXT_ID  # one visual token of each of two frames
    return UpdateBatch(
        pixels=rng.standard_normal((NUM, 2, 28, 28, 3), np.float32),
        prompt_ids=ids.astype(np.int32),
        prompt_lengths=rng.integers(5, P + 1, NUM).astype(np.int32),
        responses=rng.integers(0, CONTEXT_ID, (NUM, K, C)).astype(np.int32),
        response_mask=np.arange(C) < rng.integers(1, C + 1, (NUM, K, 1)),
        advantages=rng.standard_normal((NUM, K), np.float32),
        reference_logprobs=-4.6 - rng.random((NUM, K, C), np.float32),
    )


def start(mesh, lora: bool):
    graphdef, state = abstract_model(CONFIG)
    source = InitialSource(parameter_shapes(state), 3)
    model = fill_model(graphdef, state, source, mesh, "float32")
    if lora:
        add_adapters(model.decoder, LORA, "float32", 5, mesh)
    return split_trained(model, "projector" if lora else "full")


@dataclasses.dataclass
class Outcome:
    """One update, and what was compiled for it."""

    loss: float
    kl: float
    gradients: dict[str, np.ndarray]
    trained: dict[str, np.ndarray]
    before: dict[str, jax.Array]
    after: dict[str, jax.Array]
    moments: dict[str, jax.Array]
    hlo: str


def compile_for(micro_batch: int, graphdef) -> Static:
    return Static(graphdef, VIDEO, CONTEXT_ID, ObjectiveConfig(logprob_chunk=CHUNK), micro_batch, C)


def one_update(shape, micro_batch: int, lora: bool) -> Outcome:
    mesh = make_mesh(*shape)
    with jax.set_mesh(mesh):
        graphdef, trained, frozen = start(mesh, lora)
        static = compile_for(micro_batch, graphdef)
        batch = place_batch(make_batch(), mesh)
        opt_state = OPTIMIZER.initial_state(trained, mesh, 0)
        before = flat(trained)
        compiled = update.lower(trained, frozen, opt_state, batch, static, OPTIMIZER).compile()
        trained, opt_state, metrics = compiled(trained, frozen, opt_state, batch)
    moments = flat(opt_state[1][0].mu)
    return Outcome(
        loss=float(metrics.loss),
        kl=float(metrics.kl_token_mean),
        # The first moment after one update is a tenth of the gradient, which was not clipped.
        gradients={name: np.asarray(value) / 0.1 for name, value in moments.items()},
        trained={name: np.asarray(value) for name, value in flat(trained).items()},
        before=before,
        after=flat(trained),
        moments=moments,
        hlo=compiled.as_text(),
    )


@pytest.fixture(scope="module")
def alone(quickly_compiled) -> dict[bool, Outcome]:
    return {lora: one_update((1, 1, 1), NUM, lora) for lora in (False, True)}


@pytest.mark.parametrize(
    ("shape", "micro_batch", "lora"),
    [
        ((2, 2, 2), 4, False),
        ((1, 8, 1), 8, False),
        ((1, 2, 4), 8, False),
        ((2, 2, 2), 8, True),
    ],
)
def test_an_update_is_the_same_on_every_mesh(alone, shape, micro_batch, lora):
    one, many = alone[lora], one_update(shape, micro_batch, lora)
    # Sums in another order: gradients of up to 0.25 differ by 5e-7 at most, the loss by 1e-7.
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-6)
    for name, gradient in one.gradients.items():
        np.testing.assert_allclose(many.gradients[name], gradient, rtol=1e-4, atol=3e-6)
        # Adam's first step is the learning rate, 0.01, times the sign of g: of noise, where g is
        # nothing else.
        moves = np.abs(gradient) > 1e-4
        np.testing.assert_allclose(many.trained[name][moves], one.trained[name][moves], atol=1e-5)
    if micro_batch == NUM:  # its mean is one of the means of micro-batches
        np.testing.assert_allclose(many.kl, one.kl, rtol=1e-5)
    for name, value in many.after.items():
        for other in (many.before[name], many.moments[name]):
            assert value.sharding.is_equivalent_to(other.sharding, value.ndim), name
    check_nothing_large_is_whole(many.hlo, shape, micro_batch)


def check_nothing_large_is_whole(hlo: str, shape, micro_batch: int) -> None:
    """Logits, gradients and their sums are split as far as the mesh goes."""
    data, fsdp, tensor = shape
    assert f"f32[{micro_batch // data},{CHUNK},{V // (fsdp * tensor)}]" in hlo
    layers, width, wide = (
        CONFIG.decoder.num_hidden_layers,
        CONFIG.decoder.hidden_size,
        CONFIG.decoder.intermediate_size,
    )
    assert f"f32[{layers},{width // fsdp},{wide // tensor}]" in hlo
    if fsdp * tensor > 1:
        assert f",{V}]" not in hlo
        assert f"f32[{layers},{width},{wide}]" not in hlo


def test_logprobs_are_those_of_one_device_in_the_order_of_the_videos():
    found = []
    for shape, micro_batch in (((1, 1, 1), NUM), ((2, 2, 2), NUM // 2)):
        mesh = make_mesh(*shape)
        with jax.set_mesh(mesh):
            graphdef, trained, frozen = start(mesh, lora=False)
            batch = place_batch(make_batch(), mesh)
            static = compile_for(micro_batch, graphdef)
            found.append(np.asarray(response_logprobs(trained, frozen, batch, static)))
    # Measured: 1e-6.
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert np.abs(found[0][0] - found[0][1]).max() > 0.1


@pytest.mark.parametrize("tensor", [1, 4])
def test_greedy_tokens_are_those_of_one_device(greedy_alone, tensor):
    mesh = make_mesh(2, 2, 2)
    there = rollout_mesh(mesh, tensor)
    copies = mesh.size // tensor
    decoder, embeds, lengths = prompts()
    graphdef, state = nnx.split(decoder)
    state = jax.device_put(state, state_shardings(state, mesh))
    with jax.set_mesh(there):
        state = place_state(state, there)
        prefix = prefill(nnx.merge(graphdef, state), *place_batch((embeds, lengths), there))
        begun = start_decode(graphdef, state, prefix, None, 2, GREEDY.max_new_tokens, GREEDY)
        out = decode(nnx.merge(graphdef, state), prefix, None, 2, GREEDY)
    cache, suffix = prefix.cache.keys, begun.suffix[0].keys
    layers, groups, size = 3, 4 // tensor, 6
    assert cache.sharding.shard_shape(cache.shape) == (layers, NUM // copies, groups, size, P)
    assert suffix.sharding.shard_shape(suffix.shape) == (NUM // copies, groups, 2, size, 4)
    assert out.tokens.sharding.shard_shape(out.tokens.shape) == (NUM // copies, 2, 4)
    np.testing.assert_array_equal(out.tokens, greedy_alone.tokens)
    # Measured: 2e-6.
    np.testing.assert_allclose(out.logprobs, greedy_alone.logprobs, atol=2e-5)


GREEDY = SamplingConfig(eos_id=99, pad_id=98, max_new_tokens=4)


def prompts() -> tuple[Qwen2, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    embeds = rng.standard_normal((NUM, P, CONFIG.decoder.hidden_size), np.float32)
    return make_decoder(CONFIG.decoder), embeds, rng.integers(3, P + 1, NUM).astype(np.int32)


@pytest.fixture(scope="module")
def greedy_alone(quickly_compiled) -> Generation:
    decoder, embeds, lengths = prompts()
    out = decode(decoder, prefill(decoder, embeds, jnp.asarray(lengths)), None, 2, GREEDY)
    assert len({tuple(row) for row in np.asarray(out.tokens)[:, 0].tolist()}) > 3
    return out
