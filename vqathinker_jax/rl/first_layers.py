"""A tower that starts with statistics: each token holds the energies of its image's bands.

Its patch embedding gives bands (`whitening.py`), the MLP of its first layer starts as a rectifier
of each, and the attention of its second layer as the mean over all tokens. What is wrong with a
picture is then nearly linear in every token before anything is learnt; a random tower needs
thousands of steps to get as far.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

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


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of what the second layer's attention averages, over training images."""

    centre: Float[np.ndarray, "D"]
    scale: Float[np.ndarray, "D"]
    """Standard deviation among images of one kind (mosaics, whole frames, slices)."""


def require_room(tower: InternViT) -> None:
    """Raises TrainingError if a tower lacks the layers or the width of `rectify` and `average`."""
    layers, width, hidden = tower.layers.mlp.fc1.kernel.shape
    if layers < 2 or hidden < 4 * width:
        raise TrainingError(
            f"model.whiten needs a tower of 2 layers with {4 * width} hidden units at a width of "
            f"{width}, and this one has {layers} with {hidden}"
        )


def rectify(tower: InternViT) -> None:
    """Makes the MLP of the first layer start as a rectifier, in place.

    For each channel x of the normalised input it adds c(|x|), which rises by 1 up to `BEND` and by
    `1 - FLATTENING` beyond it, as a logarithm would: four hidden units a channel do it,
    gelu(+-s x) and gelu(+-s x - s BEND) with s = `SHARPNESS`.
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
    falling = -FLATTENING * rising
    fc2[0, : 4 * width] = np.concatenate([rising, rising, falling, falling])
    fc2[0, 4 * width :] *= OTHERS_GAIN
    out[0] *= OTHERS_GAIN
    set_values(mlp.fc1.kernel, fc1)
    set_values(mlp.fc1.bias, bias)
    set_values(mlp.fc2.kernel, fc2)
    set_values(attention.proj.kernel, out)


def measure_statistics(tower: InternViT, images: Float[np.ndarray, "N J S S 3"]) -> Statistics:
    """What `average` has to centre and scale; the first layer is that of `rectify`.

    Args:
      tower: the tower.
      images: normalised pixels of N clips, J kinds of images each.
    """
    graphdef, state = nnx.split(tower)

    @jax.jit
    def means(state: nnx.State, images: Array) -> Array:
        tower = nnx.merge(graphdef, state)
        layers, stacked = nnx.split(tower.layers)
        second = nnx.merge(layers, jax.tree.map(lambda a: a[1], stacked))
        return second.norm1(tower(images, 1)).mean(1)

    seen = np.stack([np.asarray(means(state, jnp.asarray(clip))) for clip in images])
    scale = np.sqrt(seen.var(axis=0).mean(axis=0))
    return Statistics(seen.mean(axis=(0, 1)), np.maximum(scale, SMALLEST_SCALE))


def average(tower: InternViT, statistics: Statistics) -> None:
    """Makes the attention of the second layer start as the mean over all tokens, in place.

    Each token then holds the energy of every band, centred and scaled over the training images:
    `MEAN_GAIN` times a number of mean 0 and variance 1 a channel.
    """
    attention = tower.layers.attn
    qkv, out, bias = (
        np.array(parameter.get_value())
        for parameter in (attention.qkv.kernel, attention.proj.kernel, attention.proj.bias)
    )
    one = np.eye(qkv.shape[1], dtype=qkv.dtype)
    gain = MEAN_GAIN / statistics.scale / np.array(tower.layers.ls1.get_value())[1]
    qkv[1, :, :2] *= OTHERS_GAIN
    qkv[1, :, 2] = one.reshape(qkv[1, :, 2].shape)
    out[1] = (one * gain).reshape(out[1].shape)
    bias[1] = -statistics.centre * gain
    set_values(attention.qkv.kernel, qkv)
    set_values(attention.proj.kernel, out)
    set_values(attention.proj.bias, bias)


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
    }


def set_values(parameter: nnx.Param, values: np.ndarray) -> None:
    """Puts values in a parameter's shape, dtype and sharding."""
    old = parameter.get_value()
    parameter.set_value(jax.device_put(values.reshape(old.shape).astype(old.dtype), old.sharding))
