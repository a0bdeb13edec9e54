"""Rollouts: every video encoded and prefilled once, its K responses decoded behind one prefix.

Clean and temporally perturbed responses share one decode loop. A perturbed clip is a gather on the
frame axis of the frames already encoded, plus one constant frame; only SlowFast runs again.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Shaped

from vqathinker_jax.data.perturb import VARIANTS, perturbation_indices
from vqathinker_jax.inference import EncodedVideos, clip_features, project, splice
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.parallel import num_shares
from vqathinker_jax.records import ClipFeatures, Generation
from vqathinker_jax.spec import VideoSpec


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How responses are sampled. Defaults: the paper's Table 6, perturbations once per video.

    Raises:
      ValueError: a single response per video (there would be no group), or a value out of range.
    """

    num_generations: int = 4
    """K: responses per video."""
    max_completion_length: int = 2048
    """C at most, in tokens, end token included."""
    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 1.0
    temporal: bool = True
    """Whether perturbed clips are asked about too (for the temporal reward)."""
    perturb_per: str = "video"
    """`video`: one perturbation per video, as the paper; `response`: one per response, as the
    published code."""
    perturbation_variant: str = "paper"

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations must be at least 2 (a group is compared with itself), "
                f"got {self.num_generations}"
            )
        if self.max_completion_length < 1:
            raise ValueError(
                f"max_completion_length must be at least 1, got {self.max_completion_length}"
            )
        if self.temperature <= 0:
            raise ValueError(f"rollouts sample: temperature must be > 0, got {self.temperature}")
        # What else decoding refuses is refused now, and not once a model is loaded.
        self.sampling(end_id=0, pad_id=0, suppressed_ids=())
        if self.perturb_per not in ("video", "response"):
            raise ValueError(f"perturb_per must be video or response, got {self.perturb_per!r}")
        if self.perturbation_variant not in VARIANTS:
            raise ValueError(
                f"perturbation_variant must be one of {VARIANTS}, got {self.perturbation_variant!r}"
            )

    def sampling(self, end_id: int, pad_id: int, suppressed_ids: tuple[int, ...]) -> SamplingConfig:
        """The decoding configuration."""
        return SamplingConfig(
            eos_id=end_id,
            pad_id=pad_id,
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            suppressed_ids=suppressed_ids,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """The responses to a batch of videos."""

    clean: Generation
    """`[N, K, C]`: trained on."""
    perturbed: Generation | None
    """`[N, K, C]` responses to the perturbed clips: only ever compared with."""
    frames: Int[Array, "N *K F"] | None
    """int32 frame indices of the perturbed clips, -1 for a blank frame."""
    features: ClipFeatures
    """Of the clean clips, for other passes of the step where encoders do not train."""


@functools.partial(jax.jit, static_argnames=("graphdef", "video"))
def encode_perturbed(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    pixels: Float[Array, "N I S S 3"],
    visual: Float[Array, "N I T D"],
    frames: Int[Array, "N F"],
    video: VideoSpec,
) -> EncodedVideos:
    """Perturbed clips from the encoded clean ones; extras stay those of the clean clip.

    Args:
      pixels: normalised pixels of the clean clips, extras included.
      visual: their visual tokens.
      frames: int32 indices of the frames to show, -1 for a frame whose normalised pixels are zero.
    """
    model = nnx.merge(graphdef, state)
    num, _, side = pixels.shape[:3]
    # One blank image per share of the batch: each device encodes its own, none waits for another.
    blank_pixels = jnp.zeros((num_shares(), 1, side, side, 3), pixels.dtype)
    blank = _repeat_rows(model.visual_tokens(blank_pixels), num // len(blank_pixels))
    blank_pixels = _repeat_rows(blank_pixels, num // len(blank_pixels))
    num_frames = video.num_frames
    shown = jnp.where(frames < 0, num_frames, frames)

    def gather(clip: Array, blank: Array) -> Array:
        clip = jnp.concatenate([clip[:, :num_frames], blank], axis=1)
        return jnp.take_along_axis(
            clip, shown.reshape(*shown.shape, *[1] * (clip.ndim - 2)), axis=1
        )

    motion = model.motion_token(gather(pixels, blank_pixels), video)
    extras = visual[:, num_frames:]
    return EncodedVideos(jnp.concatenate([gather(visual, blank), extras], axis=1), motion)


def roll_out(
    model: tuple[nnx.GraphDef, nnx.State],
    pixels: Float[Array, "N I S S 3"],
    input_ids: Int[Array, "N P"],
    lengths: Int[Array, "N"],
    keys: Key[Array, "N"],
    *,
    video: VideoSpec,
    context_id: int,
    cfg: RolloutConfig,
    sampling: SamplingConfig,
) -> Rollout:
    """Samples K responses to every video and, with `cfg.temporal`, to its perturbed clip.

    Args:
      model: `nnx.split` of a VQAThinker in the rollout layout.
      pixels: normalised pixels, compute dtype.
      input_ids: int32 prompts, padded on the right to their bucket.
      lengths: int32 real prompt lengths.
      keys: one key per video, folded from (root, purpose, step, video); every draw of a video
        depends on its key alone.
      video: the geometry.
      context_id: id of `<IMG_CONTEXT>`.
      cfg: what to sample.
      sampling: `cfg.sampling(...)` of this tokenizer.
    """
    graphdef, state = model
    decoder = nnx.merge(graphdef, state).decoder
    num, k = input_ids.shape[0], cfg.num_generations
    fold_each = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    clean_keys, perturbed_keys, draw_keys = (fold_each(keys, purpose) for purpose in range(3))

    def respond(encoded, ids, lengths, keys, num_samples: int) -> Generation:
        embeds = splice(graphdef, state, ids, lengths, encoded, context_id)
        return decode(decoder, prefill(decoder, embeds, lengths), keys, num_samples, sampling)

    features = clip_features(graphdef, state, pixels, video)
    clean = project(graphdef, state, features)
    if not cfg.temporal:
        return Rollout(respond(clean, input_ids, lengths, clean_keys, k), None, None, features)

    per_video = 1 if cfg.perturb_per == "video" else k
    draw_keys = _fold_samples(draw_keys, per_video)
    frames = perturbation_indices(draw_keys, video.num_frames, cfg.perturbation_variant)
    repeated = jax.tree.map(
        lambda a: _repeat_rows(a, per_video), (pixels, clean.visual, input_ids, lengths)
    )
    perturbed = encode_perturbed(graphdef, state, *repeated[:2], frames, video)
    if cfg.perturb_per == "video":
        # One loop for both: decoding streams the weights, so more rows are nearly free. A video
        # and its perturbed clip stand side by side, so that both stay on that video's devices.
        both = jax.tree.map(
            lambda a, b: jnp.stack([a, b], axis=1).reshape(2 * num, *a.shape[1:]),
            (clean, input_ids, lengths, clean_keys),
            (perturbed, input_ids, lengths, perturbed_keys),
        )
        generation = respond(*both, k)
        halves = [
            jax.tree.map(lambda a, i=i: a.reshape(num, 2, *a.shape[1:])[:, i], generation)
            for i in (0, 1)
        ]
        return Rollout(*halves, frames, features)
    other = respond(perturbed, *repeated[2:], _fold_samples(perturbed_keys, k), 1)
    return Rollout(
        respond(clean, input_ids, lengths, clean_keys, k),
        jax.tree.map(lambda a: a.reshape(num, k, *a.shape[2:]), other),
        frames.reshape(num, k, -1),
        features,
    )


def _repeat_rows(a: Shaped[Array, "N ..."], num: int) -> Shaped[Array, "M ..."]:
    """Every row `num` times, one copy after the other, on the devices of that row."""
    return jnp.broadcast_to(a[:, None], (len(a), num, *a.shape[1:])).reshape(-1, *a.shape[1:])


def _fold_samples(keys: Key[Array, "N"], num: int) -> Key[Array, "M"]:
    """`num` keys of each key, row after row."""
    each = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))
    return each(keys, jnp.arange(num)).reshape(-1)
