"""The kernels of attention against plain XLA with a dense mask, and how one is chosen.

Splash runs interpreted here, and the form that is made for cuDNN on XLA: what differs on a real
device is the kernel alone.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_decoder import make_decoder
from vqathinker_jax import parallel
from vqathinker_jax.models import attention, splash
from vqathinker_jax.models.attention import choose_attention, make_attend
from vqathinker_jax.models.packed import packed_logprobs, packed_visibility
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.visibility import Causal, Full, Group, Visibility
from vqathinker_jax.models.vqathinker import with_attention
from vqathinker_jax.parallel import platform_of

LENGTHS = np.array([97, 41], np.int32)
PROMPT, HEADS, KV_HEADS, SIZE = 99, 6, 2, 8


@pytest.fixture
def interpreted(monkeypatch):
    """Splash on the CPU, in blocks so small that several are needed and some are skipped."""
    made = functools.partial(splash.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash, "make_splash_mha", made)
    monkeypatch.setattr(splash, "LARGEST_BLOCK", 128)


def packed(num_responses: int, slots: int) -> Visibility:
    return packed_visibility(jnp.asarray(LENGTHS), Group(PROMPT, num_responses, slots))


VISIBILITIES = {
    "one response": packed(1, 43),
    "two responses, even": packed(2, 30),
    "three responses": packed(3, 60),
    "four responses": packed(4, 29),
    "a group without pads": Visibility(Group(PROMPT, 2, 20)),
    "causal": Visibility(Causal(141)),
    "an image": Visibility(Full(131)),
}


def inputs(visibility: Visibility, garbage: float = 0.0) -> list[jax.Array]:
    """Queries, keys, values and weights of the result; `garbage` in the slots that are not real."""
    length = visibility.pattern.length
    keys = jax.random.split(jax.random.key(7), 4)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    arrays = [
        jax.random.normal(key, (len(LENGTHS), length, h, SIZE))
        for key, h in zip(keys, heads, strict=True)
    ]
    if visibility.key_mask is None:
        return arrays
    is_real = visibility.key_mask[..., None, None]
    q, k, v = (jnp.where(is_real, x, garbage) for x in arrays[:3])
    return [q, k, v, jnp.where(is_real, arrays[3], 0.0)]


def outcome(attend, arrays: list[jax.Array]) -> list[jax.Array]:
    """The result where it counts, and the gradients of queries, keys and values."""
    q, k, v, weights = arrays

    def loss(q, k, v):
        out = attend(q, k, v)
        return (out * weights).sum(), jnp.where(weights == 0, 0.0, out)

    gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [out, *gradients]


def by_hand(visibility: Visibility, arrays: list[jax.Array]) -> list[jax.Array]:
    """`attend` with a dense mask written out slot by slot."""
    length = visibility.pattern.length
    mask = np.zeros((len(LENGTHS), length, length), bool)
    pattern = visibility.pattern
    for slot in range(length):
        for other in range(length):
            if isinstance(pattern, Group) and other >= PROMPT:
                start = PROMPT + (slot - PROMPT) // pattern.response_slots * pattern.response_slots
                mask[:, slot, other] = start <= other <= slot
            else:
                mask[:, slot, other] = isinstance(pattern, Full) or other <= slot
    if visibility.key_mask is not None:
        mask &= np.asarray(visibility.key_mask)[:, None]
    mask |= np.eye(length, dtype=bool)
    return outcome(functools.partial(attention.attend, mask=jnp.asarray(mask)[:, None]), arrays)


def assert_equal_outcomes(found: list[jax.Array], expected: list[jax.Array]) -> None:
    """Measured: at most 7e-7 of the largest value, as sums are made in another order."""
    for value, wanted in zip(found, expected, strict=True):
        atol = 3e-6 * float(jnp.abs(wanted).max())
        np.testing.assert_allclose(value, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("name", VISIBILITIES)
def test_every_kernel_equals_a_dense_mask_whatever_the_pads_hold(name, interpreted):
    visibility = VISIBILITIES[name]
    expected = by_hand(visibility, inputs(visibility))
    arrays = inputs(visibility, garbage=50.0)
    assert_equal_outcomes(outcome(make_attend("splash", visibility, "out"), arrays), expected)
    # Of these jax makes the gradients; ours is the mask.
    for attend in (
        make_attend("xla", visibility, "out"),
        attention.cudnn_attend(visibility, implementation="xla"),
    ):
        out = jax.jit(attend)(*arrays[:3])
        assert_equal_outcomes([jnp.where(arrays[3] == 0, 0.0, out)], expected[:1])


def test_splash_in_bfloat16_rounds_and_nothing_else(interpreted):
    visibility = VISIBILITIES["two responses, even"]
    arrays = inputs(visibility)
    expected = by_hand(visibility, arrays)
    attend = make_attend("splash", visibility, "out")

    def rounded(q, k, v):
        return attend(*(x.astype(jnp.bfloat16) for x in (q, k, v))).astype(jnp.float32)

    for value, wanted in zip(outcome(rounded, arrays), expected, strict=True):
        # Measured: 0.7 %, a bfloat16 having 8 bits.
        atol = 0.02 * float(jnp.abs(wanted).max())
        np.testing.assert_allclose(value, wanted, rtol=0, atol=atol)


def test_blocks_that_hold_nothing_are_skipped(interpreted):
    """Of 4 x 4 blocks a causal group needs the lower ones, less those between its responses."""
    attend = make_attend("splash", Visibility(Group(128, 3, 128)), "out")
    kernel = jax.tree.unflatten(attend.structure, attend.blocks)
    assert (np.asarray(kernel.fwd_mask_info.block_mask) > 0).sum() == 7


def test_xla_leaves_out_what_a_group_hides():
    """Of 384 x 384 scores a group of this shape needs 128 x 128 and 8 x 32 x 160: 0.39."""
    group = Visibility(Group(128, 8, 32))
    arrays = inputs(group)[:3]
    mask = group.mask(group.pattern.length)
    dense = functools.partial(attention.attend, mask=mask)
    ours, whole = (
        jax.jit(attend).lower(*arrays).compile().cost_analysis()["flops"]
        for attend in (make_attend("xla", group, "out"), dense)
    )
    assert ours / whole == pytest.approx((128**2 + 256 * 160) / 384**2, rel=0.01)


CFG = Qwen2Config(
    vocab_size=37,
    hidden_size=24,
    intermediate_size=34,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_multiple=8,
)


def training_pass(kernel: str, remat: str):
    """Loss and gradients of a packed group, as a function of parameters and embeddings."""
    decoder = make_decoder(dataclasses.replace(CFG, attention=kernel, remat=remat), std=0.1)
    graphdef, state = nnx.split(decoder)
    embeds = jax.random.normal(jax.random.key(3), (2, PROMPT, CFG.hidden_size))
    responses = jax.random.randint(jax.random.key(4), (2, 3, 19), 0, CFG.vocab_size)

    def loss(state, embeds):
        decoder = nnx.merge(graphdef, state)
        out = packed_logprobs(decoder, embeds, jnp.asarray(LENGTHS), responses, chunk=16)
        return (out.logprobs * out.entropy).sum()

    return jax.value_and_grad(loss, argnums=(0, 1)), (state, embeds)


def test_the_training_pass_is_the_same_on_splash(interpreted):
    function, arguments = training_pass("xla", "none")
    loss, gradients = jax.jit(function)(*arguments)
    function, arguments = training_pass("splash", "names")
    splash_loss, splash_gradients = jax.jit(function)(*arguments)
    np.testing.assert_allclose(splash_loss, loss, rtol=1e-6)
    pairs = zip(jax.tree.leaves(splash_gradients), jax.tree.leaves(gradients), strict=True)
    for value, wanted in pairs:
        atol = 1e-5 * float(jnp.abs(wanted).max())
        np.testing.assert_allclose(value, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize(("kernel", "num"), [("splash", 4), ("cudnn", 4), ("cudnn", 3)])
def test_devices_attend_to_their_own_part(kernel, num, interpreted):
    """Rows over two axes, heads over the third; rows that do not divide are computed by all."""
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    group = Group(PROMPT, 2, 20)
    make = {
        "splash": lambda visibility: make_attend("splash", visibility, "out"),
        "cudnn": lambda visibility: attention.cudnn_attend(visibility, implementation="xla"),
    }[kernel]
    lengths = jnp.arange(num) * 7 + 60
    keys = jax.random.split(jax.random.key(1), 3)
    heads = (HEADS, KV_HEADS, KV_HEADS)
    q, k, v = (
        jax.random.normal(key, (num, group.length, h, SIZE))
        for key, h in zip(keys, heads, strict=True)
    )
    expected = make_attend("xla", packed_visibility(lengths, group), "out")(q, k, v)

    @jax.jit
    def run(lengths, q, k, v):
        return make(packed_visibility(lengths, group))(q, k, v)

    with jax.set_mesh(mesh):
        out = run(lengths, q, k, v)
    is_real = packed_visibility(lengths, group).key_mask[..., None, None]
    np.testing.assert_allclose(
        jnp.where(is_real, out, 0), jnp.where(is_real, expected, 0), atol=3e-6
    )
    parts = {shard.data.shape for shard in out.addressable_shards}
    rows = 1 if num == 4 else num
    assert parts == {(rows, group.length, HEADS // 2, SIZE)}


# -- the choice ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "dtype", "head_size", "kernel"),
    [
        ("cpu", "float32", 128, "xla"),
        ("cpu", "bfloat16", 128, "xla"),
        ("cuda", "bfloat16", 128, "cudnn"),
        ("cuda", "float16", 64, "cudnn"),
        ("cuda", "float32", 128, "xla"),
        ("cuda", "bfloat16", 12, "xla"),
        ("cuda", "bfloat16", 256, "xla"),
        ("tpu", "bfloat16", 64, "splash"),
        ("tpu", "float32", 12, "splash"),
        ("gpu", "bfloat16", 128, "xla"),
    ],
)
def test_what_auto_means(platform, dtype, head_size, kernel):
    assert choose_attention(platform, dtype, "auto", head_size) == kernel
    assert choose_attention(platform, dtype, kernel, head_size) == kernel
    assert choose_attention(platform, dtype, "xla", head_size) == "xla"


@pytest.mark.parametrize(
    ("platform", "dtype", "wanted", "head_size", "message"),
    [
        ("cpu", "bfloat16", "cudnn", 128, "cudnn runs on cuda, and the devices are cpu"),
        ("cuda", "bfloat16", "splash", 128, "splash runs on tpu, and the devices are cuda"),
        ("cuda", "float32", "cudnn", 128, "takes bfloat16 and float16, dtype is float32"),
        ("cuda", "bfloat16", "cudnn", 20, "multiple of 8 up to 128, the model's are 20 wide"),
        ("cpu", "bfloat16", "flash", 128, "must be one of"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(platform, dtype, wanted, head_size, message):
    with pytest.raises(ValueError, match=message):
        choose_attention(platform, dtype, wanted, head_size)


def test_tower_and_decoder_get_the_kernels_of_the_devices():
    cfg = PRESETS["internvl3-8b"]
    chosen = {
        platform: with_attention(cfg, platform, "bfloat16") for platform in ("cpu", "cuda", "tpu")
    }
    kernels = {name: (c.vision.attention, c.decoder.attention) for name, c in chosen.items()}
    assert kernels == {
        "cpu": ("head_by_head", "xla"),
        "cuda": ("cudnn", "cudnn"),
        "tpu": ("splash", "splash"),
    }
    assert chosen["cpu"] == cfg
    assert with_attention(cfg, "cpu", "float32", "xla").vision.attention == "xla"


@pytest.mark.parametrize(
    ("platform", "capability", "name"),
    [("gpu", "9.0", "cuda"), ("gpu", "7.5", "gpu"), ("gpu", "gfx942", "gpu"), ("tpu", "", "tpu")],
)
def test_cards_of_other_makers_and_old_ones_have_no_fused_attention(platform, capability, name):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert platform_of(device) == name
