"""A model ready to answer: its parameters, its tokenizer, and the jitted programs over them.

Each phase is its own compiled program: encode frames, splice and prefill, decode. They take the
parameters as an argument, so one compiled program serves every model of the same architecture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8
from transformers import PreTrainedTokenizerBase

from vqathinker_jax.calibration import Calibration
from vqathinker_jax.data.prompt import build_prompt_text, encode_prompt
from vqathinker_jax.models.generate import (
    SamplingConfig,
    bucket_length,
    decode,
    prefill,
)
from vqathinker_jax.models.logprobs import sequence_logprobs
from vqathinker_jax.models.pixels import normalize_pixels, shown_images
from vqathinker_jax.models.vqathinker import VQAThinkerConfig, check_placeholders
from vqathinker_jax.parallel import named_sharding, num_shares
from vqathinker_jax.records import ClipFeatures, Generation, Prefix
from vqathinker_jax.spec import VideoSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncodedVideos:
    """What the decoder sees of N videos."""

    visual: Float[Array, "N I T D"]
    """Visual tokens of every image, the frames' before the extras', compute dtype."""
    motion: Float[Array, "N m D"]
    """The motion token, compute dtype; m is 0 where the geometry has no motion."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Everything that asking the model needs. Not a pytree: `state` holds the arrays."""

    graphdef: nnx.GraphDef
    state: nnx.State
    cfg: VQAThinkerConfig
    video: VideoSpec
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    """Compute dtype: `float32` or `bfloat16`."""
    name: str
    kind: str
    """`published`, or the folder's own label such as `random` or `nano`."""
    fingerprint: str
    """Changes whenever the folder's weights or config change."""
    prompt_style: str
    reasoning: bool
    """Whether it is asked to think before it answers."""
    context_id: int
    end_id: int
    pad_id: int
    suppressed_ids: tuple[int, ...]
    """`<img>`, `</img>`, `<IMG_CONTEXT>`: never sampled."""
    aggregate: str = "mean"
    """What of its answers becomes the score where nothing else is asked for."""
    calibration: Calibration | None = None
    """A map of its scores to somebody's opinion scores; results keep the plain score beside it."""
    mesh: Mesh | None = None
    """The devices that batches are spread over; None: one device."""

    @property
    def tokens_per_frame(self) -> int:
        return self.cfg.tokens_per_frame(self.video.image_size)

    @property
    def num_shares(self) -> int:
        """Devices that a batch is spread over."""
        return 1 if self.mesh is None else num_shares(self.mesh)

    def placed(self, frames: UInt8[np.ndarray, "N I S S 3"]) -> UInt8[Array, "N I S S 3"]:
        """Images of a batch on the devices; N is a multiple of `num_shares`.

        Of several processes each needs to hold the rows of its own devices only.
        """
        if self.mesh is None:
            return jnp.asarray(frames)
        axes = ("batch", "frames", None, None, None)
        sharding = named_sharding(self.mesh, axes, frames.shape)
        return jax.make_array_from_callback(frames.shape, sharding, lambda index: frames[index])

    def build_prompt(
        self, question: str | None = None, num_frames: int | None = None, style: str | None = None
    ) -> np.ndarray:
        """Token ids int32 [P] of the published prompt for this geometry."""
        text = build_prompt_text(
            num_frames=self.video.num_shown if num_frames is None else num_frames,
            tokens_per_frame=self.tokens_per_frame,
            style=self.prompt_style if style is None else style,
            question=question,
            num_extras=self.video.num_views,
            has_motion=self.video.has_motion,
            reasoning=self.reasoning,
        )
        return encode_prompt(self.tokenizer, text)

    def precision(self) -> contextlib.AbstractContextManager:
        """float32 models multiply in full float32 (accelerators would round inputs by default)."""
        if self.dtype == "float32":
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """`precision`, and the mesh of the devices that share batches: kernels that the compiler
        cannot split over devices need to know it."""
        mesh = contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
        with self.precision(), mesh:
            yield

    def check_pixels(self, pixels: np.ndarray | Array) -> Float[Array, "N I S S 3"]:
        """Casts normalised pixels to the compute dtype.

        Raises:
          TypeError: integer pixels, which have not been normalised, or no array.
          ValueError: a shape other than [N, I, S, S, 3] of this model's geometry.
        """
        if not isinstance(pixels, np.ndarray | jax.Array):
            raise TypeError(f"pixels must be a NumPy or JAX array, got {type(pixels).__name__}")
        if not np.issubdtype(pixels.dtype, np.floating) and pixels.dtype != jnp.bfloat16:
            raise TypeError(
                f"pixels must be normalised floats, got {pixels.dtype}; "
                "vqathinker_jax.models.pixels.normalize_pixels makes them from uint8 frames"
            )
        side = self.video.image_size
        wanted = (self.video.num_images, side, side, 3)
        if pixels.ndim != 5 or pixels.shape[1:] != wanted or not len(pixels):
            raise ValueError(
                f"pixels must be [N, {', '.join(map(str, wanted))}], got {list(pixels.shape)}"
            )
        return jnp.asarray(pixels).astype(self.dtype)

    def check_prompts(self, input_ids: np.ndarray, num_videos: int) -> Int[np.ndarray, "N P"]:
        """One row (used for every video) or N equal-length rows of prompt ids, as int32 [N, P].

        Raises:
          ValueError: another shape, an id outside the vocabulary, or a wrong number of
            placeholders.
        """
        ids = np.asarray(input_ids)
        if ids.ndim == 1:
            ids = ids[None]
        if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"input_ids must be integers [P] or [N, P], got {ids.dtype} {ids.shape}"
            )
        if len(ids) not in (1, num_videos):
            raise ValueError(f"{len(ids)} prompts for {num_videos} videos")
        if ids.min() < 0 or ids.max() >= self.cfg.decoder.vocab_size:
            raise ValueError(f"token ids must lie in [0, {self.cfg.decoder.vocab_size})")
        check_placeholders(
            ids,
            self.video.num_shown + self.video.num_views,
            self.tokens_per_frame,
            self.context_id,
            self.video.has_motion,
        )
        return np.broadcast_to(ids.astype(np.int32), (num_videos, ids.shape[1]))


# -- compiled programs -----------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="dtype")
def normalize(frames: UInt8[Array, "N I S S 3"], dtype: str) -> Float[Array, "N I S S 3"]:
    """uint8 images to normalised pixels of the compute dtype."""
    return normalize_pixels(frames).astype(dtype)


@functools.partial(jax.jit, static_argnames="graphdef")
def visual_tokens(
    graphdef: nnx.GraphDef, state: nnx.State, pixels: Float[Array, "N I S S 3"]
) -> Float[Array, "N I T D"]:
    """`VQAThinker.visual_tokens`, compiled."""
    return nnx.merge(graphdef, state).visual_tokens(pixels)


@functools.partial(jax.jit, static_argnames=("graphdef", "video"))
def motion_feature(
    graphdef: nnx.GraphDef, state: nnx.State, pixels: Float[Array, "N I S S 3"], video: VideoSpec
) -> Float[Array, "N M"]:
    """`VQAThinker.motion_feature`, compiled."""
    return nnx.merge(graphdef, state).motion_feature(pixels, video)


@functools.partial(jax.jit, static_argnames=("graphdef", "video"))
def encode(
    graphdef: nnx.GraphDef, state: nnx.State, pixels: Float[Array, "N I S S 3"], video: VideoSpec
) -> EncodedVideos:
    """Both encoders: images to visual tokens, the clip to its motion token."""
    model = nnx.merge(graphdef, state)
    visual = model.visual_tokens(shown_images(pixels, video))
    return EncodedVideos(visual, model.motion_token(pixels, video))


@functools.partial(jax.jit, static_argnames=("graphdef", "video"))
def clip_features(
    graphdef: nnx.GraphDef, state: nnx.State, pixels: Float[Array, "N I S S 3"], video: VideoSpec
) -> ClipFeatures:
    """`VQAThinker.clip_features`, compiled: `encode` without the projectors."""
    return nnx.merge(graphdef, state).clip_features(pixels, video)


@functools.partial(jax.jit, static_argnames="graphdef")
def project(graphdef: nnx.GraphDef, state: nnx.State, features: ClipFeatures) -> EncodedVideos:
    """The projectors: what `encode` would have given."""
    model = nnx.merge(graphdef, state)
    return EncodedVideos(
        model.project_images(features.images), model.project_motion(features.motion)
    )


@functools.partial(jax.jit, static_argnames=("graphdef", "context_id"))
def splice(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    input_ids: Int[Array, "N P"],
    lengths: Int[Array, "N"],
    encoded: EncodedVideos,
    context_id: int,
) -> Float[Array, "N P D"]:
    """`VQAThinker.prompt_embeds`, compiled."""
    model = nnx.merge(graphdef, state)
    return model.prompt_embeds(input_ids, lengths, encoded.visual, encoded.motion, context_id)


@functools.partial(jax.jit, static_argnames="graphdef")
def all_logits(
    graphdef: nnx.GraphDef, state: nnx.State, embeds: Float[Array, "N L D"]
) -> Float[Array, "N L V"]:
    """Float32 logits after every position, padded vocabulary removed. For inspection only."""
    decoder = nnx.merge(graphdef, state).decoder
    num, length = embeds.shape[:2]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (num, length))
    logits = decoder.logits(decoder(embeds, positions, None))
    return logits[..., : decoder.cfg.vocab_size]


LOGPROB_CHUNK = 256
"""Rows per video whose logits exist at one time."""


@functools.partial(jax.jit, static_argnames=("graphdef", "context_id"))
def completion_logprobs(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    input_ids: Int[Array, "N P"],
    completion_ids: Int[Array, "N C"],
    encoded: EncodedVideos,
    context_id: int,
) -> Float[Array, "N C"]:
    """Float32 log-probability of every completion token after its prompt.

    Placeholder ids inside a completion are ordinary tokens: only the prompt is spliced.
    """
    model = nnx.merge(graphdef, state)
    num, prompt = input_ids.shape
    ids = jnp.concatenate([input_ids, completion_ids], axis=1)
    lengths = jnp.full((num,), prompt, jnp.int32)
    embeds = model.prompt_embeds(ids, lengths, encoded.visual, encoded.motion, context_id)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    hidden = model.decoder(embeds, positions, None)[:, prompt - 1 : -1]
    return sequence_logprobs(model.decoder, hidden, completion_ids, LOGPROB_CHUNK)


# -- from frames to responses ----------------------------------------------------------------------


def prompt_prefix(
    model: LoadedModel, input_ids: Int[np.ndarray, "N P"], encoded: EncodedVideos
) -> Prefix:
    """Pads the prompts to their bucket, splices and prefills them.

    Args:
      model: the model.
      input_ids: int32 prompts of equal length.
      encoded: of the same N videos.
    """
    num, length = input_ids.shape
    padded = np.full((num, bucket_length(length)), model.pad_id, np.int32)
    padded[:, :length] = input_ids
    lengths = jnp.full((num,), length, jnp.int32)
    embeds = splice(model.graphdef, model.state, padded, lengths, encoded, model.context_id)
    return prefill(nnx.merge(model.graphdef, model.state).decoder, embeds, lengths)


def respond(
    model: LoadedModel,
    input_ids: Int[np.ndarray, "N P"],
    encoded: EncodedVideos,
    keys: Array | None,
    num_samples: int,
    sampling: SamplingConfig,
) -> Generation:
    """K responses to each of N videos.

    Args:
      model: the model.
      input_ids: int32 prompts of equal length.
      encoded: from `encode`.
      keys: one typed random key per video; None when greedy.
      num_samples: K.
      sampling: how tokens are chosen.
    """
    prefix = prompt_prefix(model, input_ids, encoded)
    decoder = nnx.merge(model.graphdef, model.state).decoder
    return decode(decoder, prefix, keys, num_samples, sampling)


def decode_text(model: LoadedModel, token_ids: np.ndarray) -> str:
    """The text of one response: special tokens dropped, cut at the end token, stripped."""
    text = model.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True)
    return text.split("<|im_end|>")[0].strip()
