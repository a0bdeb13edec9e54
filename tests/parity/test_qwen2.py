"""The decoder against transformers' Qwen2ForCausalLM: tiny random weights, eager, float32.

Largest differences measured: 1e-5 for hidden states and logits, 8e-6 for log-probs; the
tolerances leave a factor of about three for other machines.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.parity.torch_qwen2 import build_torch_qwen2, copy_qwen2, tiny_config
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.models.logprobs import sequence_logprobs
from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.models.visibility import Causal, Visibility

CASES = {
    "untied_dynamic": {},
    "tied": {"tie_word_embeddings": True},
    "default_rope": {"rope_type": "default", "rope_theta": 1e4, "num_key_value_heads": 3},
}


@functools.cache
def pair(case: str) -> tuple:
    cfg = tiny_config(**CASES[case])
    reference = build_torch_qwen2(cfg, seed=7, std=0.2)
    decoder = Qwen2(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    copy_qwen2(reference, decoder)
    return reference, decoder


def ragged_prompts(lengths: list[int], slots: int) -> tuple[np.ndarray, ...]:
    """The same prompts padded on the right, padded on the left, and the left mask."""
    rng = np.random.default_rng(3)
    right, left, mask = np.full((3, len(lengths), slots), 5)
    mask[:] = 0
    for row, length in enumerate(lengths):
        right[row, :length] = left[row, slots - length :] = rng.integers(0, 131, length)
        mask[row, slots - length :] = 1
    return right, left, mask


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_logits_and_logprobs(case):
    reference, decoder = pair(case)
    ids = np.random.default_rng(1).integers(0, 131, (2, 23))
    with torch.inference_mode():
        out = reference(torch.tensor(ids), output_hidden_states=True)

    @nnx.jit
    def ours(decoder, ids):
        embeds = decoder.embed_tokens(ids, jnp.float32)
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        hidden = decoder(embeds, positions, None)
        logprobs = sequence_logprobs(decoder, hidden[:, :-1], ids[:, 1:], chunk=5)
        return hidden, decoder.logits(hidden), logprobs

    hidden, logits, logprobs = ours(decoder, jnp.asarray(ids))
    np.testing.assert_allclose(hidden, out.hidden_states[-1].numpy(), atol=3e-5)
    np.testing.assert_allclose(logits[..., :131], out.logits.numpy(), atol=3e-5)
    assert (logits[..., 131:] == -jnp.inf).all() and logits.shape[-1] == 144
    expected = torch.log_softmax(out.logits[:, :-1], -1).gather(-1, torch.tensor(ids)[:, 1:, None])
    np.testing.assert_allclose(logprobs, expected[..., 0].numpy(), atol=3e-5)


def test_padding_mask_and_positions_match_a_left_padded_torch_batch():
    reference, decoder = pair("untied_dynamic")
    lengths = [19, 7, 13]
    right, left, mask = ragged_prompts(lengths, 23)
    with torch.inference_mode():
        positions = torch.tensor(mask).cumsum(-1).sub(1).clamp(min=0)
        out = reference.model(
            torch.tensor(left), attention_mask=torch.tensor(mask), position_ids=positions
        ).last_hidden_state
    embeds = decoder.embed_tokens(jnp.asarray(right), jnp.float32)
    key_mask = jnp.arange(23) < jnp.asarray(lengths)[:, None]
    positions = jnp.broadcast_to(jnp.arange(23), (3, 23))
    hidden = decoder(embeds, positions, Visibility(Causal(23), key_mask))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(hidden[row, :length], out[row, 23 - length :], atol=3e-5)
    assert np.isfinite(hidden).all()


@pytest.mark.parametrize("case", ["untied_dynamic", "tied"])
def test_greedy_tokens_equal_a_left_padded_torch_batch(case):
    reference, decoder = pair(case)
    lengths = [19, 7, 13]
    right, left, mask = ragged_prompts(lengths, 23)
    with torch.inference_mode():
        out = reference.generate(
            torch.tensor(left),
            attention_mask=torch.tensor(mask),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    expected = out.sequences[:, 23:].numpy()
    assert len(np.unique(expected)) > 10  # a constant answer would prove nothing
    prefix = prefill(
        decoder, decoder.embed_tokens(jnp.asarray(right), jnp.float32), jnp.asarray(lengths)
    )
    unused = int(np.setdiff1d(np.arange(131), expected)[0])
    sampling = SamplingConfig(eos_id=unused, pad_id=unused, max_new_tokens=24)
    generation = decode(decoder, prefix, None, 2, sampling)
    np.testing.assert_array_equal(generation.tokens[:, 0], expected)
    np.testing.assert_array_equal(generation.tokens[:, 1], expected)
    logprobs = torch.stack(out.logits, 1).log_softmax(-1).max(-1).values
    np.testing.assert_allclose(generation.logprobs[:, 0], logprobs, atol=3e-5)


def test_gradients_match():
    reference, decoder = pair("tied")
    ids = np.random.default_rng(2).integers(0, 131, (2, 11))
    reference.zero_grad()
    out = torch.log_softmax(reference(torch.tensor(ids)).logits[:, :-1], -1)
    out.gather(-1, torch.tensor(ids)[:, 1:, None]).mean().backward()

    @nnx.jit
    @nnx.grad
    def gradient(decoder, ids):
        positions = jnp.broadcast_to(jnp.arange(11), ids.shape)
        hidden = decoder(decoder.embed_tokens(ids, jnp.float32), positions, None)
        return sequence_logprobs(decoder, hidden[:, :-1], ids[:, 1:], chunk=4).mean()

    ours = gradient(decoder, jnp.asarray(ids))
    layer = reference.model.layers[1]
    pairs = {
        "embed": (ours.embed.embedding[...][:131], reference.model.embed_tokens.weight),
        "q bias": (ours.layers.attn.q.bias[...][1].reshape(-1), layer.self_attn.q_proj.bias),
        "k kernel": (
            ours.layers.attn.k.kernel[...][1].reshape(48, -1).T,
            layer.self_attn.k_proj.weight,
        ),
        "down": (ours.layers.mlp.down.kernel[...][1].T, layer.mlp.down_proj.weight),
        "norm": (ours.norm.scale[...], reference.model.norm.weight),
    }
    for name, (mine, theirs) in pairs.items():
        np.testing.assert_allclose(mine, theirs.grad.numpy(), atol=3e-5, err_msg=name)
    assert (ours.embed.embedding[...][131:] == 0).all()
    assert jax.tree.reduce(max, jax.tree.map(lambda g: float(abs(g).max()), ours)) > 0.01
