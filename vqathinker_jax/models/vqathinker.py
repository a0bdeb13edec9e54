"""VQAThinker: vision tower, motion encoder and decoder, joined by the splice into the prompt."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.attention import choose_attention
from vqathinker_jax.models.internvit import InternViT, InternViTConfig, choose_image_attention
from vqathinker_jax.models.pixels import shown_images
from vqathinker_jax.models.projectors import MLPProjector, pixel_shuffle
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config
from vqathinker_jax.models.slowfast import SlowFast, SlowFastConfig
from vqathinker_jax.parallel import constrain
from vqathinker_jax.records import ClipFeatures
from vqathinker_jax.spec import VideoSpec


@dataclasses.dataclass(frozen=True)
class VQAThinkerConfig:
    """The architecture of one model folder.

    Raises:
      ValueError: an unknown pixel-shuffle version or a downsample ratio that is not 1 / integer.
    """

    vision: InternViTConfig = InternViTConfig()
    decoder: Qwen2Config = Qwen2Config()
    slowfast: SlowFastConfig = SlowFastConfig()
    select_layer: int = -1
    """Index into [embeddings, layer 1, ..., layer L] of the tower's output."""
    downsample_ratio: float = 0.5
    ps_version: str = "v2"
    """Pixel-shuffle order: `v2` row-major tokens, `v1` transposed."""

    def __post_init__(self) -> None:
        if self.ps_version not in ("v1", "v2"):
            raise ValueError(f"ps_version must be v1 or v2, got {self.ps_version!r}")
        if self.shuffle_factor < 1 or abs(self.shuffle_factor * self.downsample_ratio - 1) > 1e-6:
            raise ValueError(f"downsample_ratio must be 1 / integer, got {self.downsample_ratio}")

    @property
    def shuffle_factor(self) -> int:
        """How many patches a side merge into one token (2 as published)."""
        return round(1 / self.downsample_ratio)

    def tokens_per_frame(self, image_size: int) -> int:
        """T for frames of `image_size` pixels a side.

        Raises:
          ValueError: the size is not a whole number of merged patches.
        """
        step = self.vision.patch_size * self.shuffle_factor
        if image_size % step:
            raise ValueError(f"image_size {image_size} is not a multiple of {step}")
        return (image_size // step) ** 2

    def feature_shapes(self, video: VideoSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of `ClipFeatures.images` and `.motion` of one clip."""
        num_images = video.num_shown + video.num_views
        width = self.vision.hidden_size * self.shuffle_factor**2
        return (
            (num_images, self.tokens_per_frame(video.image_size), width),
            (int(video.has_motion), self.slowfast.feature_size),
        )


def with_attention(
    cfg: VQAThinkerConfig, platform: str, dtype: str, wanted: str = "auto"
) -> VQAThinkerConfig:
    """The architecture with the attention kernels for some devices, in tower and decoder.

    Args:
      cfg: the architecture.
      platform: of the devices that will run the programs (`parallel.platform_of`).
      dtype: compute dtype.
      wanted: `auto` or a kernel, as for `choose_attention`.

    Raises:
      ValueError: the wanted kernel does not suit the platform, dtype or head size.
    """
    vision = choose_image_attention(platform, dtype, wanted, cfg.vision.head_dim)
    decoder = choose_attention(platform, dtype, wanted, cfg.decoder.head_dim)
    return dataclasses.replace(
        cfg,
        vision=dataclasses.replace(cfg.vision, attention=vision),
        decoder=dataclasses.replace(cfg.decoder, attention=decoder),
    )


class VQAThinker(nnx.Module):
    """The whole model. Methods are pure: wrap them in `jax.jit` over `nnx.split(model)`.

    Compute dtype is the dtype of the pixels and embeddings passed in. Clips of one batch share
    their geometry; prompts are padded on the right.
    """

    def __init__(self, cfg: VQAThinkerConfig, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.cfg = cfg
        width = cfg.decoder.hidden_size
        self.vision = InternViT(cfg.vision, param_dtype=param_dtype, rngs=rngs)
        self.projector = MLPProjector(
            cfg.vision.hidden_size * cfg.shuffle_factor**2,
            width,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.slowfast = SlowFast(cfg.slowfast, param_dtype=param_dtype, rngs=rngs)
        self.motion_projector = MLPProjector(
            cfg.slowfast.feature_size, width, param_dtype=param_dtype, rngs=rngs
        )
        self.decoder = Qwen2(cfg.decoder, param_dtype=param_dtype, rngs=rngs)

    def visual_tokens(self, pixels: Float[Array, "N I S S 3"]) -> Float[Array, "N I T D"]:
        """Encodes every image, frames and extras alike: tower, pixel shuffle, projector."""
        return self.project_images(self.image_features(pixels))

    def image_features(self, pixels: Float[Array, "N I S S 3"]) -> Float[Array, "N I T V"]:
        """Tower and pixel shuffle."""
        num, count, side = pixels.shape[:3]
        images = constrain(pixels.reshape(num * count, side, side, 3), "batch", None, None, None)
        features = self.vision(images, self.cfg.select_layer)[:, 1:]
        grid = side // self.cfg.vision.patch_size
        features = features.reshape(num * count, grid, grid, -1)
        features = pixel_shuffle(features, self.cfg.shuffle_factor, self.cfg.ps_version)
        # No layout passes the barrier in the shuffle by itself.
        features = constrain(features, "batch", "tokens", None)
        return features.reshape(num, count, *features.shape[1:])

    def project_images(self, features: Float[Array, "N I T V"]) -> Float[Array, "N I T D"]:
        """The projector: visual tokens from `image_features`."""
        num, count = features.shape[:2]
        flat = features.reshape(num * count, *features.shape[2:])
        tokens = constrain(self.projector(flat), "batch", "tokens", None)
        return tokens.reshape(num, count, *tokens.shape[1:])

    def motion_feature(
        self, pixels: Float[Array, "N I S S 3"], video: VideoSpec
    ) -> Float[Array, "N M"]:
        """SlowFast features (M = 2304 as published) of the frames; extras are not looked at."""
        return self.slowfast(pixels[:, : video.num_frames], video.slow_divisor, video.motion_repeat)

    def motion_token(
        self, pixels: Float[Array, "N I S S 3"], video: VideoSpec
    ) -> Float[Array, "N m D"]:
        """The one extra token that carries motion; m is 0 where the geometry has no motion."""
        return self.project_motion(self._motion_features(pixels, video))

    def project_motion(self, features: Float[Array, "N m M"]) -> Float[Array, "N m D"]:
        """The motion projector: the motion token from `ClipFeatures.motion`."""
        if not features.shape[1]:
            return jnp.zeros((len(features), 0, self.cfg.decoder.hidden_size), features.dtype)
        return self.motion_projector(features[:, 0])[:, None]

    def clip_features(self, pixels: Float[Array, "N I S S 3"], video: VideoSpec) -> ClipFeatures:
        """Both encoders without their projectors."""
        images = self.image_features(shown_images(pixels, video))
        return ClipFeatures(images, self._motion_features(pixels, video))

    def _motion_features(
        self, pixels: Float[Array, "N I S S 3"], video: VideoSpec
    ) -> Float[Array, "N m M"]:
        if not video.has_motion:
            return jnp.zeros((len(pixels), 0, self.cfg.slowfast.feature_size), pixels.dtype)
        return self.motion_feature(pixels, video)[:, None]

    def prompt_embeds(
        self,
        input_ids: Int[Array, "N P"],
        lengths: Int[Array, " N"],
        visual: Float[Array, "N I T D"],
        motion: Float[Array, "N m D"],
        context_id: int,
    ) -> Float[Array, "N P D"]:
        """Embeds a prompt and splices the visual tokens and the motion token into it.

        The placeholders of a row take, in order, the row's visual tokens; the last takes the motion
        token. Only positions below the row's length are looked at.

        Args:
          input_ids: prompts, padded on the right.
          lengths: real tokens per row; each row must hold I * T + m placeholders
            (`check_placeholders` refuses others on the host).
          visual: from `visual_tokens`.
          motion: from `motion_token`.
          context_id: id of `<IMG_CONTEXT>`.
        """
        num, width = input_ids.shape
        embeds = self.decoder.embed_tokens(input_ids, visual.dtype)
        is_prompt = jnp.arange(width) < lengths[:, None]
        is_placeholder = (input_ids == context_id) & is_prompt
        features = jnp.concatenate([visual.reshape(num, -1, visual.shape[-1]), motion], axis=1)
        order = jnp.clip(jnp.cumsum(is_placeholder, axis=1) - 1, 0, features.shape[1] - 1)
        spliced = jnp.take_along_axis(features, order[..., None], axis=1)
        return jnp.where(is_placeholder[..., None], spliced, embeds)


def check_placeholders(
    input_ids: np.ndarray,
    num_images: int,
    tokens_per_frame: int,
    context_id: int,
    has_motion: bool = True,
) -> None:
    """Refuses prompts whose placeholders do not match the geometry.

    Args:
      input_ids: int [N, P] prompts; `context_id` marks placeholders.

    Raises:
      ValueError: a row without exactly `num_images * tokens_per_frame` placeholders and, with
        `has_motion`, one more.
    """
    wanted = num_images * tokens_per_frame + has_motion
    counts = (np.asarray(input_ids) == context_id).sum(axis=1)
    for row, count in enumerate(counts):
        if count != wanted:
            raise ValueError(
                f"prompt {row} has {count} <IMG_CONTEXT> placeholders; {num_images} images of "
                f"{tokens_per_frame} tokens and {'one' if has_motion else 'no'} motion token "
                f"need {wanted}"
            )
