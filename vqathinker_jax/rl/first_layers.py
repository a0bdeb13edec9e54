"""A tower that starts with statistics: each token holds the energies of its image's bands.

Its patch embedding gives bands (`whitening.py`), the MLP of its first layer starts as a rectifier
of each, and the attention of its second layer as means over all tokens: over all alike, and over
light, dark, rich and flat patches above all, by the place of the token that gets them. What is
wrong with a picture is then nearly linear in the tokens before anything is learnt; a random tower
needs thousands of steps to get as far.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.internvit import InternViT
from vqathinker_jax.rl.run_state import TrainingError

SHARPNESS = 4.0
"""Of the rectifier: |x| is told apart from about 1 / SHARPNESS on."""
BEND = 0.75
"""Size, in standard deviations of a token's channels, from which energies are flattened."""
FLATTENING = 0.9
"""Share of the slope that is lost there."""
RECTIFIER_GAIN = 3.0
"""How strongly energies stand beside what they are made from."""
MEAN_GAIN = 8.0
"""How strongly the mean over the tokens stands beside what is each token's own."""
OTHERS_GAIN = 0.1
"""How much what stays random in these two layers is weakened."""
SMALLEST_SCALE = 1e-3
"""A mean that does not vary is not amplified further."""
NUM_SIGNED = 3
"""Channels that are not rectified, the first ones: mean lightness and colour differences."""
NUM_BLIND = 4
"""Channels that no filter sees, the last ones: two that tell a token its class, two references."""
REFERENCE = 4.0
"""What two channels of the patch embedding always hold, one of them negated: beside it, the norms
leave a flat or dark patch smaller than a rich one, instead of bringing all to one size."""
LEAST_WIDTH = 2 * NUM_SIGNED + NUM_BLIND + 1
"""With one band besides those that stay signed and the same rectified."""
CODES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""What a class of tokens averages over, by the signs of two tilts: all patches alike, light ones or
dark ones, rich ones or flat ones above all."""
TILT = 1.0
"""A patch one standard deviation lighter, or richer, than the image weighs e^TILT times as much."""


def require_room(tower: InternViT, image_size: int) -> None:
    """Raises TrainingError if a tower has no room for `rectify` and `average`, or its positions are
    for images of another size.
    """
    layers, width, hidden = tower.layers.mlp.fc1.kernel.shape
    if layers < 2 or hidden < 4 * width or width < LEAST_WIDTH:
        raise TrainingError(
            f"model.whiten needs a tower of 2 layers, {LEAST_WIDTH} or more wide, with {4 * width} "
            f"hidden units at a width of {width}, and this one has {layers} with {hidden}"
        )
    if tower.cfg.grid_size < len(CODES) or image_size != tower.cfg.image_size:
        raise TrainingError(
            f"model.whiten needs images of the size that the preset's tower has positions for, "
            f"{len(CODES)} or more patches a side: that is {tower.cfg.image_size} pixels, "
            f"{tower.cfg.grid_size} patches, and video.image_size is {image_size}"
        )


def rectify(tower: InternViT) -> None:
    """Makes the MLP of the first layer start as a rectifier, in place.

    For each channel x of the normalised input it adds c(|x|), which rises by 1 up to `BEND` and by
    `1 - FLATTENING` beyond it, as a logarithm would: four hidden units a channel do it,
    gelu(+-s x) and gelu(+-s x - s BEND) with s = `SHARPNESS`. The channels that stay signed, and
    those that no filter sees, get nothing.
    """
    mlp, attention = tower.layers.mlp, tower.layers.attn
    fc1, fc2 = (np.array(linear.kernel.get_value()) for linear in (mlp.fc1, mlp.fc2))
    bias, out = np.array(mlp.fc1.bias.get_value()), np.array(attention.proj.kernel.get_value())
    width = fc1.shape[1]
    one = np.eye(width, dtype=fc1.dtype)
    scale = np.array(tower.layers.ls2.get_value())[0]
    fc1[0, :, : 4 * width] = SHARPNESS * np.concatenate([one, -one, one, -one], axis=1)
    bias[0, 2 * width : 4 * width] = -SHARPNESS * BEND
    rising = RECTIFIER_GAIN / SHARPNESS / scale * one
    rising[:NUM_SIGNED] = rising[-NUM_BLIND:] = 0
    falling = -FLATTENING * rising
    fc2[0, : 4 * width] = np.concatenate([rising, rising, falling, falling])
    fc2[0, 4 * width :] *= OTHERS_GAIN
    out[0] *= OTHERS_GAIN
    set_values(mlp.fc1.kernel, fc1)
    set_values(mlp.fc1.bias, bias)
    set_values(mlp.fc2.kernel, fc2)
    set_values(attention.proj.kernel, out)


def token_classes(grid: int) -> Int[np.ndarray, "T"]:
    """Which of `CODES` each patch of a grid belongs to: every class once in five in a row, and in a
    column."""
    row, column = np.divmod(np.arange(grid * grid), grid)
    return (row + 2 * column) % len(CODES)


def average(tower: InternViT, images: Float[np.ndarray, "N J S S 3"]) -> None:
    """Makes the attention of the second layer start as means over all tokens, in place.

    The position table tells each patch its class, and the tokens of a class average over the image
    with weights of their own (`CODES`): evenly, or with a weight that rises or falls with a patch's
    lightness, or with its energy. All means are centred and scaled over the images: `MEAN_GAIN`
    times numbers of mean 0 and variance 1 a channel.

    Args:
      tower: its first layer is that of `rectify`, and its position table is for these images.
      images: normalised pixels of N training clips, J kinds of images each.
    """
    attention = tower.layers.attn
    classes = token_classes(tower.cfg.grid_size)
    table = np.array(tower.position_embedding.get_value())
    table[1:, -NUM_BLIND:-2] = REFERENCE * np.array(CODES)[classes]
    set_values(tower.position_embedding, table)

    tokens = _second_layer_input(tower, images)
    queries, keys = _scaled_tilts(tokens, classes)
    weights = np.exp(np.einsum("njtc,njsc->njts", tokens[:, :, 1:] @ queries, tokens @ keys))
    means = np.einsum("njts,njsd->njtd", weights / weights.sum(-1, keepdims=True), tokens)
    means = np.stack([means[:, :, classes == i].mean(2) for i in range(len(CODES))], axis=2)
    centre = means.mean((0, 1, 2))
    # Among images of one kind (mosaics, whole frames, slices) and tokens of one class.
    scale = np.maximum(np.sqrt(means.var(0).mean((0, 1))), SMALLEST_SCALE)

    qkv, out, bias = (
        np.array(parameter.get_value())
        for parameter in (attention.qkv.kernel, attention.proj.kernel, attention.proj.bias)
    )
    one = np.eye(len(scale), dtype=qkv.dtype)
    gain = MEAN_GAIN / scale / np.array(tower.layers.ls1.get_value())[1]
    qkv[1, :, :2] *= OTHERS_GAIN
    # Attention divides by the root of its heads' width.
    qkv[1, :, 0, :, :2] = np.sqrt(qkv.shape[-1]) * queries[:, None]
    qkv[1, :, 1, :, :2] = keys[:, None]
    qkv[1, :, 2] = one.reshape(qkv[1, :, 2].shape)
    out[1] = (one * gain).reshape(out[1].shape)
    bias[1] = -centre * gain
    set_values(attention.qkv.kernel, qkv)
    set_values(attention.proj.kernel, out)
    set_values(attention.proj.bias, bias)


def _second_layer_input(
    tower: InternViT, images: Float[np.ndarray, "N J S S 3"]
) -> Float[np.ndarray, "N J T D"]:
    """What the second layer's attention gets, the class token first."""
    graphdef, state = nnx.split(tower)

    @jax.jit
    def run(state: nnx.State, clip: Array) -> Array:
        tower = nnx.merge(graphdef, state)
        layers, stacked = nnx.split(tower.layers)
        second = nnx.merge(layers, jax.tree.map(lambda a: a[1], stacked))
        return second.norm1(tower(clip, 1))

    return np.stack([np.asarray(run(state, jnp.asarray(clip))) for clip in images])


def _scaled_tilts(
    tokens: Float[np.ndarray, "N J T D"], classes: Int[np.ndarray, "T"]
) -> tuple[Float[np.ndarray, "D 2"], Float[np.ndarray, "D 2"]]:
    """Queries that read the codes of `CODES`, and keys that read lightness and energy.

    Their product is `TILT` times a code and the standard deviations by which a patch is lighter, or
    richer, than its image.
    """
    width = tokens.shape[-1]
    light, rich, plus, minus = range(width - NUM_BLIND, width)
    queries, keys = np.zeros((2, width, 2), np.float32)
    # The norm has shifted zero to the mean of the references.
    queries[[plus, minus]] = keys[[plus, minus]] = -0.5
    queries[[light, rich], [0, 1]] = 1
    keys[0, 0] = 1
    keys[2 * NUM_SIGNED : light, 1] = 1 / (light - 2 * NUM_SIGNED)
    spread = np.sqrt((tokens @ keys).var(2).mean((0, 1)))
    keys /= np.maximum(spread, SMALLEST_SCALE)
    coded = np.abs(tokens[:, :, 1:] @ queries).mean((0, 1, 2)) / np.abs(CODES)[classes].mean(0)
    return TILT * queries / coded, keys


def start_parameters(tower: InternViT) -> dict[str, nnx.Param]:
    """The parameters that `rectify` and `average` set, by name."""
    layers = tower.layers
    return {
        "fc1_kernel": layers.mlp.fc1.kernel,
        "fc1_bias": layers.mlp.fc1.bias,
        "fc2_kernel": layers.mlp.fc2.kernel,
        "qkv_kernel": layers.attn.qkv.kernel,
        "proj_kernel": layers.attn.proj.kernel,
        "proj_bias": layers.attn.proj.bias,
        "position_embedding": tower.position_embedding,
    }


def set_values(parameter: nnx.Param, values: np.ndarray) -> None:
    """Puts values in a parameter's shape, dtype and sharding."""
    old = parameter.get_value()
    parameter.set_value(jax.device_put(values.reshape(old.shape).astype(old.dtype), old.sharding))
