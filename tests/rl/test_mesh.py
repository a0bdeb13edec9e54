"""A mesh changes where numbers are, not what they are, and copies nothing large by accident."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.rl.lora_states import LORA, flat
from vqathinker_jax.layouts import place_batch, rollout_mesh
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.lora import add_adapters
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.parallel import make_mesh, named_sharding
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
    return Static(graphdef, VIDEO, CONTEXT_ID, ObjectiveConfig(logprob_chunk=7), micro_batch, C)


def one_update(shape, micro_batch: int, lora: bool) -> Outcome:
    mesh = make_mesh(*shape)
    with jax.set_mesh(mesh):
        graphdef, trained, frozen = start(mesh, lora)
        static = compile_for(micro_batch, graphdef)
        batch = place_batch(make_batch(), mesh)
        opt_state = OPTIMIZER.initial_state(trained, mesh, 0)
        before = flat(trained)
        lowered = update.lower(trained, frozen, opt_state, batch, static, OPTIMIZER)
        # Speed of what is compiled here does not matter, that of compiling does.
        compiled = lowered.compile({"xla_llvm_disable_expensive_passes": True})
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
def alone() -> dict[bool, Outcome]:
    return {lora: one_update((1, 1, 1), NUM, lora) for lora in (False, True)}


@pytest.mark.parametrize(
    ("shape", "micro_batch", "lora"),
    [
        ((2, 2, 2), 4, False),
        ((1, 8, 1), 8, False),
        ((1, 2, 4), 8, False),
        ((8, 1, 1), 8, False),
        ((2, 2, 2), 8, True),
    ],
)
def test_an_update_is_the_same_on_every_mesh(alone, shape, micro_batch, lora):
    one, many = alone[lora], one_update(shape, micro_batch, lora)
    print("loss", abs(many.loss - one.loss) / abs(one.loss), "kl", abs(many.kl - one.kl) / one.kl)
    for what in ("gradients", "trained"):
        a, b = getattr(one, what), getattr(many, what)
        print(what, max((float(np.abs(a[n] - b[n]).max()), float(np.abs(a[n]).max()), n) for n in a),
         max((float(np.abs(a[n] - b[n]).max()/ (np.abs(a[n]).max()+1e-12)), n) for n in a))
    for name, value in many.after.items():
        for other in (many.before[name], many.moments[name]):
            assert value.sharding.is_equivalent_to(other.sharding, value.ndim), name
    open(f"/tmp/hlo_{shape}_{lora}.txt", "w").write(many.hlo)
