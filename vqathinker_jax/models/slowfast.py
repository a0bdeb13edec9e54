"""SlowFast: the motion encoder, from normalised pixels to one feature vector a clip.

Two residual networks read the same clip: the slow one few frames with many channels, the fast one
every frame with few channels. After the stem and after each of the first three stages a strided
convolution over time feeds the fast features into the slow ones (Feichtenhofer et al., 2019).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vqathinker_jax.models.layers import parameter
from vqathinker_jax.spec import VideoSpec

BATCH_NORM_EPS = 1e-5
FUSION_WINDOW = 7
"""Frames that one lateral convolution sees."""
FUSION_STRIDE = 4
"""Fast frames per slow frame that the lateral convolutions are built for."""
FUSION_RATIO = 2
"""Channels out of a lateral convolution per fast channel into it."""
SPATIAL_STRIDE = 32
"""Pixels per position of the last feature maps: five halvings, each rounded up."""
SLOW_DEPTH_A = (1, 1, 3, 3)
"""Frames that `conv_a` of the slow pathway sees, stage by stage; the fast one always sees 3."""
FAST_DEPTH_A = (3, 3, 3, 3)


@dataclasses.dataclass(frozen=True)
class SlowFastConfig:
    """Width, depth and pooling windows. Defaults are the published SlowFast-R50 8x8.

    Slow widths are `stem_width` in the stem and `stem_width * 4 * 2**s` after stage s; fast widths
    are those divided by `fast_ratio`.
    """

    stem_width: int = 64
    fast_ratio: int = 8
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Residual blocks of the four stages."""
    slow_pool: tuple[int, int, int] = (8, 7, 7)
    """Average-pooling window (time, height, width) of the slow feature map, stride 1."""
    fast_pool: tuple[int, int, int] = (32, 7, 7)
    """The same for the fast feature map."""

    def __post_init__(self) -> None:
        if self.stem_width % self.fast_ratio:
            raise ValueError(
                f"slowfast: stem_width {self.stem_width} is not divisible by "
                f"fast_ratio {self.fast_ratio}"
            )

    @property
    def feature_size(self) -> int:
        """Width of the motion feature: slow channels then fast channels (2304 as published)."""
        slow = self.stem_width * 32
        return slow + slow // self.fast_ratio


def slow_indices(num_frames: int, slow_divisor: int) -> np.ndarray:
    """The frames that the slow pathway sees, int32 [F // slow_divisor].

    `trunc(linspace(0, F - 1, F // slow_divisor))`, in float32 and counted from the nearer end, as
    `torch.linspace` does: the truncation makes a rounding error visible.
    """
    steps = num_frames // slow_divisor
    if steps == 1:
        return np.zeros(1, np.int32)
    last = np.float32(num_frames - 1)
    step = last / np.float32(steps - 1)
    forward = np.arange(steps, dtype=np.float32)
    points = np.where(
        forward < steps // 2, step * forward, last - step * (np.float32(steps - 1) - forward)
    )
    return points.astype(np.int32)


def pooling_weights(length: int, window: int, repeat: int = 1) -> np.ndarray:
    """Weight of each position in the mean over all stride-1 windows, float32 [length], sum 1.

    Each position is first repeated `repeat` times in a row. Inner positions lie in more windows, so
    they weigh more: this is not a global average.
    """
    extended = length * repeat
    num_windows = extended - window + 1
    coverage = np.convolve(np.ones(num_windows), np.ones(window)) / (window * num_windows)
    return coverage.reshape(length, repeat).sum(1).astype(np.float32)


def check_geometry(cfg: SlowFastConfig, spec: VideoSpec) -> None:
    """Says before any computation whether clips of this geometry pass through the encoder.

    A geometry without motion has no clips that do, and is always right.

    Raises:
      ValueError: slow and fused fast time differ, or a feature map is smaller than its pooling
        window; the message names what was found, what is needed and the fields to change.
    """
    if not spec.has_motion:
        return
    slow_frames = spec.num_frames // spec.slow_divisor
    fused_frames = math.ceil(spec.num_frames / FUSION_STRIDE)
    if slow_frames != fused_frames:
        raise ValueError(
            f"SlowFast: num_frames={spec.num_frames} with slow_divisor={spec.slow_divisor} gives "
            f"{slow_frames} slow frames, but the lateral convolution reduces the "
            f"{spec.num_frames} fast frames to {fused_frames}; choose VideoSpec.num_frames and "
            "VideoSpec.slow_divisor so that num_frames // slow_divisor = "
            f"ceil(num_frames / {FUSION_STRIDE})"
        )
    side = math.ceil(spec.image_size / SPATIAL_STRIDE)
    for name, frames, window in (
        ("slow", slow_frames, cfg.slow_pool),
        ("fast", spec.num_frames, cfg.fast_pool),
    ):
        if frames * spec.motion_repeat < window[0]:
            raise ValueError(
                f"SlowFast: the {name} feature map has {frames} positions in time, repeated "
                f"motion_repeat={spec.motion_repeat} times = {frames * spec.motion_repeat}, but "
                f"its pooling window {name}_pool={window} needs {window[0]}; raise "
                f"VideoSpec.motion_repeat to at least {math.ceil(window[0] / frames)}, or "
                "VideoSpec.num_frames"
            )
        needed = max(window[1:])
        if side < needed:
            raise ValueError(
                f"SlowFast: image_size={spec.image_size} gives a {side} x {side} feature map, but "
                f"the pooling window {name}_pool={window} needs {needed} x {needed}; raise "
                f"VideoSpec.image_size to at least {SPATIAL_STRIDE * (needed - 1) + 1}"
            )


class Conv3D(nnx.Module):
    """Convolution over (time, height, width) without bias, zero-padded by half its window.

    Parameter: `kernel` [t, h, w, channels in, channels out], initialised for ReLU (He).
    """

    def __init__(
        self,
        window: tuple[int, int, int],
        channels_in: int,
        channels_out: int,
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        shape = (*window, channels_in, channels_out)
        std = math.sqrt(2 / (math.prod(window) * channels_in))
        kernel = std * jax.random.normal(rngs.params(), shape, jnp.float32)
        axes = ("conv_window", "conv_window", "conv_window", "conv_in", "conv_out")
        self.kernel = parameter(kernel.astype(param_dtype), axes)

    def __call__(self, x: Float[Array, "N t h w I"]) -> Float[Array, "N u v z O"]:
        batch = x.shape[0]
        x = _stack_frames(x, self.kernel.shape[0], self.stride[0])
        # The frames of a window are channels now, so the rest is a convolution of images: XLA has
        # much faster code for it than for a convolution of volumes.
        kernel = jnp.concatenate(list(self.kernel[...].astype(x.dtype)), axis=2)
        y = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            kernel,
            window_strides=self.stride[1:],
            padding=[(size // 2, size // 2) for size in kernel.shape[:2]],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y.reshape(batch, -1, *y.shape[1:])


class StemConv(Conv3D):
    """The first convolution: many pixels go in, of stride 2 in space, and few channels come out.

    Computed in a form that takes a third of the time on a CPU: each frame is convolved once, with
    the filters of all frames of the window, and not once in every window that it is in; and squares
    of 2 x 2 pixels are made channels before, which does away with the stride.
    """

    def __init__(
        self,
        window: tuple[int, int, int],
        channels_in: int,
        channels_out: int,
        *,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            window,
            channels_in,
            channels_out,
            stride=(1, 2, 2),
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "N t h w I"]) -> Float[Array, "N t v z O"]:
        num, frames, height, width, channels = x.shape
        kernel = self.kernel[...].astype(x.dtype)
        window = len(kernel)
        kernel = jnp.concatenate(list(kernel), axis=-1)
        rows, columns = (halving_pads(size) for size in kernel.shape[:2])
        none = (0, 0)
        kernel = jnp.pad(kernel, (rows.kernel, columns.kernel, none, none))
        images = x.reshape(-1, height, width, channels)
        images = jnp.pad(images, (none, (0, height % 2), (0, width % 2), none))
        y = jax.lax.conv_general_dilated(
            _squares(images),
            _squares(kernel.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0),
            window_strides=(1, 1),
            padding=(rows.squares, columns.squares),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).astype(jnp.float32)
        y = y.reshape(num, frames, *y.shape[1:])
        y = jnp.pad(y, (none, (window // 2, window // 2), none, none, none))
        taps = jnp.split(y, window, axis=-1)
        return sum(tap[:, i : i + frames] for i, tap in enumerate(taps)).astype(x.dtype)


class HalvingPads(NamedTuple):
    """Zeros (before, after) along one axis."""

    kernel: tuple[int, int]
    """In pixels: the kernel is then a whole number of squares, and begins at one."""
    squares: tuple[int, int]
    """In squares of the image."""


def halving_pads(size: int) -> HalvingPads:
    """For a kernel of odd `size`, zero-padded by half of it, of stride 2.

    >>> halving_pads(7)
    HalvingPads(kernel=(1, 0), squares=(2, 1))
    """
    middle = size // 2
    before = -(-middle // 2)
    front = 2 * before - middle
    back = (size + front) % 2
    # As many squares come out as there are in the image.
    return HalvingPads((front, back), (before, (front + size + back) // 2 - 1 - before))


def _squares(x: Float[Array, "B h w I"]) -> Float[Array, "B v z J"]:
    """The pixels of each square of 2 x 2 as channels, J = 4 I."""
    num, height, width, channels = x.shape
    x = x.reshape(num, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return x.reshape(num, height // 2, width // 2, 4 * channels)


def _stack_frames(
    x: Float[Array, "N t h w I"], window: int, stride: int
) -> Float[Array, "N u h w WI"]:
    """Puts the frames of each window on the channel axis, zeros beyond both ends."""
    if window == 1:
        return x
    frames = x.shape[1]
    last = (frames - 1) // stride * stride
    x = jnp.pad(x, ((0, 0), (window // 2, window // 2), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([x[:, tap : tap + last + 1 : stride] for tap in range(window)], axis=-1)


class BatchNorm(nnx.Module):
    """`(x - mean) / sqrt(var + eps) * scale + bias` with stored statistics, in float32."""

    def __init__(self, channels: int, *, param_dtype: DTypeLike):
        self.scale = parameter(jnp.ones((channels,), param_dtype), ("norm",))
        self.bias = parameter(jnp.zeros((channels,), param_dtype), ("norm",))
        self.mean = parameter(jnp.zeros((channels,), param_dtype), ("norm",))
        self.var = parameter(jnp.ones((channels,), param_dtype), ("norm",))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        scale, bias, mean, var = (
            p[...].astype(jnp.float32) for p in (self.scale, self.bias, self.mean, self.var)
        )
        scale = scale * jax.lax.rsqrt(var + BATCH_NORM_EPS)
        return (x.astype(jnp.float32) * scale + (bias - mean * scale)).astype(x.dtype)


class StemPathway(nnx.Module):
    """Convolution of stride 2, norm, ReLU, then max pooling of stride 2."""

    def __init__(self, depth: int, channels: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = StemConv((depth, 7, 7), 3, channels, param_dtype=param_dtype, rngs=rngs)
        self.norm = BatchNorm(channels, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "N t h w 3"]) -> Float[Array, "N t v z C"]:
        x = jax.nn.relu(self.norm(self.conv(x)))
        padding = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 1, 3, 3, 1), (1, 1, 2, 2, 1), padding
        )


class ResidualBlock(nnx.Module):
    """Bottleneck a (over time), b (over space, strided), c (pointwise), added to its input.

    `branch1_conv` and `branch1_norm` project the input where the block changes its shape, and are
    None elsewhere.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        depth_a: int,
        spatial_stride: int,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        inner = channels_out // 4
        stride = (1, spatial_stride, spatial_stride)
        make = {"param_dtype": param_dtype, "rngs": rngs}
        self.branch1_conv = nnx.data(None)
        self.branch1_norm = nnx.data(None)
        if channels_in != channels_out or spatial_stride != 1:
            self.branch1_conv = Conv3D((1, 1, 1), channels_in, channels_out, stride=stride, **make)
            self.branch1_norm = BatchNorm(channels_out, param_dtype=param_dtype)
        self.conv_a = Conv3D((depth_a, 1, 1), channels_in, inner, **make)
        self.norm_a = BatchNorm(inner, param_dtype=param_dtype)
        self.conv_b = Conv3D((1, 3, 3), inner, inner, stride=stride, **make)
        self.norm_b = BatchNorm(inner, param_dtype=param_dtype)
        self.conv_c = Conv3D((1, 1, 1), inner, channels_out, **make)
        self.norm_c = BatchNorm(channels_out, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "N t h w I"]) -> Float[Array, "N t v z O"]:
        shortcut = x
        if self.branch1_conv is not None:
            shortcut = self.branch1_norm(self.branch1_conv(x))
        y = jax.nn.relu(self.norm_a(self.conv_a(x)))
        y = jax.nn.relu(self.norm_b(self.conv_b(y)))
        return jax.nn.relu(shortcut + self.norm_c(self.conv_c(y)))


class StagePathway(nnx.Module):
    """Residual blocks of one stage and pathway; only the first changes the shape."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        num_blocks: int,
        depth_a: int,
        spatial_stride: int,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.blocks = nnx.List(
            ResidualBlock(
                channels_out if index else channels_in,
                channels_out,
                depth_a=depth_a,
                spatial_stride=1 if index else spatial_stride,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for index in range(num_blocks)
        )

    def __call__(self, x: Float[Array, "N t h w I"]) -> Float[Array, "N t v z O"]:
        for block in self.blocks:
            x = block(x)
        return x


class TwoPathways(nnx.Module):
    """The slow and the fast half of one block of the network."""

    def __init__(self, slow: nnx.Module, fast: nnx.Module):
        self.slow = slow
        self.fast = fast


class Fusion(nnx.Module):
    """Lateral connection: a strided convolution over time brings fast features to slow time."""

    def __init__(self, fast_channels: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        channels = FUSION_RATIO * fast_channels
        self.conv = Conv3D(
            (FUSION_WINDOW, 1, 1),
            fast_channels,
            channels,
            stride=(FUSION_STRIDE, 1, 1),
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(channels, param_dtype=param_dtype)

    def __call__(
        self, slow: Float[Array, "N t h w C"], fast: Float[Array, "N F h w B"]
    ) -> Float[Array, "N t h w A"]:
        return jnp.concatenate([slow, jax.nn.relu(self.norm(self.conv(fast)))], axis=-1)


class SlowFast(nnx.Module):
    """The motion encoder: pooled slow features, then pooled fast features.

    Attributes: `stem` and the four `stages`, each with `.slow` and `.fast`; four `fusions`, the
    first after the stem, the others after the first three stages.
    """

    def __init__(self, cfg: SlowFastConfig, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.cfg = cfg
        make = {"param_dtype": param_dtype, "rngs": rngs}
        slow, fast = cfg.stem_width, cfg.stem_width // cfg.fast_ratio
        self.stem = TwoPathways(StemPathway(1, slow, **make), StemPathway(5, fast, **make))
        stages, fusions = [], []
        for index, num_blocks in enumerate(cfg.depths):
            fusions.append(Fusion(fast, **make))
            slow_out = cfg.stem_width * 4 * 2**index
            fast_out = slow_out // cfg.fast_ratio
            shape = {"num_blocks": num_blocks, "spatial_stride": 2 if index else 1, **make}
            stages.append(
                TwoPathways(
                    StagePathway(
                        slow + FUSION_RATIO * fast, slow_out, depth_a=SLOW_DEPTH_A[index], **shape
                    ),
                    StagePathway(fast, fast_out, depth_a=FAST_DEPTH_A[index], **shape),
                )
            )
            slow, fast = slow_out, fast_out
        self.stages = nnx.List(stages)
        self.fusions = nnx.List(fusions)

    def __call__(
        self, pixels: Float[Array, "N F S S 3"], slow_divisor: int, motion_repeat: int
    ) -> Float[Array, "N feature_size"]:
        """One motion feature a clip.

        Args:
          pixels: ImageNet-normalised frames; their dtype is the compute dtype.
          slow_divisor: the slow pathway sees `F // slow_divisor` of the frames.
          motion_repeat: times each position in time is repeated before pooling.

        Returns:
          Slow channels then fast channels, in the dtype of `pixels`.

        Raises:
          ValueError: frames that are not square, or what `check_geometry` raises.

        Source: the `slowfast` class of the published `modeling_internvl_chat.py`.
        """
        _, num_frames, height, width, _ = pixels.shape
        if height != width:
            raise ValueError(f"SlowFast: frames must be square, got {height} x {width} pixels")
        check_geometry(self.cfg, VideoSpec(num_frames, height, slow_divisor, motion_repeat))

        slow = pixels[:, slow_indices(num_frames, slow_divisor)]
        slow, fast = self.stem.slow(slow), self.stem.fast(pixels)
        for fusion, stage in zip(self.fusions, self.stages, strict=True):
            slow = fusion(slow, fast)
            slow, fast = stage.slow(slow), stage.fast(fast)
        pooled = [
            _pool(slow, self.cfg.slow_pool, motion_repeat),
            _pool(fast, self.cfg.fast_pool, motion_repeat),
        ]
        return jnp.concatenate(pooled, axis=-1)


def _pool(
    x: Float[Array, "N t h w C"], window: tuple[int, int, int], repeat: int
) -> Float[Array, "N C"]:
    """Repeats in time, averages over windows of stride 1, averages what is left; in float32.

    Both averages are linear, so together they are one weight per position and axis.
    """
    _, frames, height, width, _ = x.shape
    pooled = jnp.einsum(
        "nthwc,t,h,w->nc",
        x.astype(jnp.float32),
        jnp.asarray(pooling_weights(frames, window[0], repeat)),
        jnp.asarray(pooling_weights(height, window[1])),
        jnp.asarray(pooling_weights(width, window[2])),
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)
