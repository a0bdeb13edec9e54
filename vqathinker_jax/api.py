"""The Python API: load a model folder, score files, look inside.

import vqathinker_jax as vqt
model = vqt.from_pretrained("InternVL3-VQAThinker-8B")
result = model.score("clip.mp4")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vqathinker_jax import inference
from vqathinker_jax.bundled import find_model, model_name
from vqathinker_jax.calibration import CALIBRATION_NAME, Calibration, read_calibration
from vqathinker_jax.data.prompt import IMAGE_END, IMAGE_START, IMAGE_TOKEN, PAD, TURN_END
from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.models.generate import SamplingConfig
from vqathinker_jax.models.pixels import shown_images
from vqathinker_jax.models.slowfast import check_geometry
from vqathinker_jax.models.vqathinker import with_attention
from vqathinker_jax.parallel import platform_of
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.score_settings import ScoreSettings, settings_fingerprint
from vqathinker_jax.scoring import StreamEvent, score_many, stream_one
from vqathinker_jax.spec import VIDEO_SPECS, VideoSpec
from vqathinker_jax.weights.load import folder_fingerprint, load_any
from vqathinker_jax.weights.readers import abstract_model
from vqathinker_jax.weights.tokenizer import load_tokenizer

LABELS = {
    "random": "holds random weights: its answers mean nothing",
    "trained": "was trained by this package: trust it as far as its validation goes",
    "trained from random": "was trained from random weights: not calibrated to people",
    "nano": "is a nano model trained on synthetic distortions: not calibrated to people",
    "trained from nano": "was trained from the nano model: trust it as far as its validation goes",
}
"""What is said of a folder that labels itself."""


class VideoQualityModel:
    """A loaded model: `score`, `score_many`, and an inspection API on arrays.

    Inspection methods take normalised pixels, float [N, F, S, S, 3] channels last (NumPy or JAX;
    integers are a TypeError), and give float32.
    """

    def __init__(self, loaded: LoadedModel):
        self.loaded = loaded

    # -- facts -------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The folder or hub id it was loaded from; `nano` for the bundled model."""
        return self.loaded.name

    @property
    def video(self) -> VideoSpec:
        """The geometry clips are seen in."""
        return self.loaded.video

    @property
    def tokenizer(self):
        """The folder's tokenizer (transformers)."""
        return self.loaded.tokenizer

    @property
    def warning(self) -> str | None:
        """One line a person must know before trusting a score; None for published weights."""
        if self.loaded.kind == "published":
            return None
        said = LABELS.get(self.loaded.kind, f"is labelled {self.loaded.kind!r}")
        return f"model {self.name} {said}"

    @property
    def calibration(self) -> Calibration | None:
        """The map to somebody's opinion scores that results are given, where there is one."""
        return self.loaded.calibration

    def settings_fingerprint(self, settings: ScoreSettings) -> str:
        """Digest of this model and every setting that can change an answer."""
        return settings_fingerprint(self.loaded, settings)

    # -- scoring -----------------------------------------------------------------------------------

    def score(self, path: str | os.PathLike, settings: ScoreSettings | None = None) -> ScoreResult:
        """Scores one video or still image.

        A file that cannot be decoded gives a result with `status == "error"` and the reason in
        `error`; nothing is raised.
        """
        (result,) = self.score_many([path], settings)
        return result

    def score_many(
        self, paths: Sequence[str | os.PathLike], settings: ScoreSettings | None = None
    ) -> Iterator[ScoreResult]:
        """Scores files and yields a result for each, in order; decoding runs ahead."""
        settings = ScoreSettings() if settings is None else settings
        return score_many(self.loaded, [os.fspath(path) for path in paths], settings)

    def stream(
        self, path: str | os.PathLike, settings: ScoreSettings | None = None
    ) -> Iterator[StreamEvent]:
        """Scores one file and tells what happens meanwhile.

        First a `frames` event with the images the model is shown, uint8 [I, S, S, 3]; then `text`
        events with the first answer so far, while all samples are generated; `timeline` events with
        the segments so far, where there are any; last a `result` event with what `score` gives. A
        file that cannot be decoded has the last one alone.
        """
        settings = ScoreSettings() if settings is None else settings
        return stream_one(self.loaded, os.fspath(path), settings)

    # -- inspection --------------------------------------------------------------------------------

    def build_prompt(
        self, question: str | None = None, num_frames: int | None = None, style: str | None = None
    ) -> np.ndarray:
        """Ids, int32 [P], of the published prompt.

        Args:
          question: asked instead of the published question.
          num_frames: F; default, that of `video`.
          style: `test` or `train` wording; default, the folder's.
        """
        return self.loaded.build_prompt(question, num_frames, style)

    def visual_tokens(self, pixels: Float[Array, "N I S S 3"]) -> Float[Array, "N I T D"]:
        """Tower, pixel shuffle and projector: T tokens of decoder width for every image
        that the tower sees (all of them, but for geometries with bursts)."""
        model = self.loaded
        with model.computing():
            tokens = inference.visual_tokens(
                model.graphdef, model.state, shown_images(model.check_pixels(pixels), model.video)
            )
        return tokens.astype(jnp.float32)

    def motion_feature(self, pixels: Float[Array, "N I S S 3"]) -> Float[Array, "N M"]:
        """Pooled SlowFast features, slow channels then fast (M = 2304 as published)."""
        model = self.loaded
        with model.computing():
            feature = inference.motion_feature(
                model.graphdef, model.state, model.check_pixels(pixels), model.video
            )
        return feature.astype(jnp.float32)

    def motion_token(self, pixels: Float[Array, "N I S S 3"]) -> Float[Array, "N m D"]:
        """The motion features projected to decoder width: m = 1 token, or none where the geometry
        has no motion."""
        return self._encode(pixels).motion.astype(jnp.float32)

    def logits(
        self, input_ids: Int[Array, "N P"], pixels: Float[Array, "N I S S 3"]
    ) -> Float[Array, "N P V"]:
        """Logits after every prompt position.

        Args:
          input_ids: one prompt [P] or N equal-length prompts without padding; see `build_prompt`.
          pixels: normalised pixels.

        Raises:
          ValueError: a wrong number of placeholders, an id outside the vocabulary, other shapes.
          TypeError: integer pixels.
        """
        model = self.loaded
        ids = model.check_prompts(input_ids, len(pixels))
        encoded = self._encode(pixels)
        lengths = jnp.full((len(ids),), ids.shape[1], jnp.int32)
        with model.computing():
            embeds = inference.splice(
                model.graphdef, model.state, ids, lengths, encoded, model.context_id
            )
            return inference.all_logits(model.graphdef, model.state, embeds)

    def logprobs(
        self,
        input_ids: Int[Array, "N P"],
        completion_ids: Int[Array, "N C"],
        pixels: Float[Array, "N I S S 3"],
    ) -> Float[Array, "N C"]:
        """Log-probability, natural log at temperature 1, of each completion token.

        Args:
          input_ids: one prompt [P] or N equal-length prompts.
          completion_ids: [N, C] ids that follow them; nothing is masked after an end token.
          pixels: normalised pixels.

        Raises:
          ValueError: as `logits`.
        """
        model = self.loaded
        ids = model.check_prompts(input_ids, len(pixels))
        completion = np.atleast_2d(np.asarray(completion_ids))
        if (
            completion.ndim != 2
            or not completion.size
            or not np.issubdtype(completion.dtype, np.integer)
        ):
            raise ValueError(
                f"completion_ids must be integers [C] or [N, C], got {completion.dtype} "
                f"{completion.shape}"
            )
        if len(completion) != len(ids):
            raise ValueError(f"{len(completion)} completions for {len(ids)} videos")
        if completion.min() < 0 or completion.max() >= model.cfg.decoder.vocab_size:
            raise ValueError(f"token ids must lie in [0, {model.cfg.decoder.vocab_size})")
        encoded = self._encode(pixels)
        with model.computing():
            return inference.completion_logprobs(
                model.graphdef,
                model.state,
                ids,
                completion.astype(np.int32),
                encoded,
                model.context_id,
            )

    def generate(
        self,
        input_ids: Int[Array, "N P"],
        pixels: Float[Array, "N I S S 3"],
        *,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_k: int = 50,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> np.ndarray:
        """The new ids, int32 [N, C]: the first end token included, then the pad id.

        Greedy at temperature 0 (the published argmax over the whole vocabulary); otherwise sampled,
        with image placeholders never drawn. C is the longest response.

        Raises:
          ValueError: as `logits`, or a sampling value outside its range.
        """
        model = self.loaded
        sampling = SamplingConfig(
            eos_id=model.end_id,
            pad_id=model.pad_id,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            suppressed_ids=model.suppressed_ids,
        )
        ids = model.check_prompts(input_ids, len(pixels))
        keys = None
        if not sampling.is_greedy:
            root = jax.random.key(seed)
            keys = jax.vmap(lambda row: jax.random.fold_in(root, row))(jnp.arange(len(ids)))
        with model.computing():
            generation = inference.respond(model, ids, self._encode(pixels), keys, 1, sampling)
        longest = int(generation.lengths.max())
        return np.asarray(generation.tokens)[:, 0, :longest]

    def decode(self, token_ids: Int[Array, "C"]) -> str:
        """The text of generated ids, as results show it."""
        return inference.decode_text(self.loaded, np.asarray(token_ids))

    def _encode(self, pixels: Float[Array, "N I S S 3"]) -> inference.EncodedVideos:
        model = self.loaded
        with model.computing():
            return inference.encode(
                model.graphdef, model.state, model.check_pixels(pixels), model.video
            )


def video_spec(
    model: str | os.PathLike | None = None,
    geometry: str | None = None,
    overrides: dict[str, int] | None = None,
) -> VideoSpec:
    """The geometry to see clips in.

    Args:
      model: the folder or hub id, whose own geometry is the default; None: the bundled model.
      geometry: a name in `VIDEO_SPECS` to start from instead.
      overrides: fields of `VideoSpec` to change.

    Raises:
      ValueError: an impossible combination, or a folder that cannot be read.
    """
    import dataclasses

    from vqathinker_jax.weights.load import read_any_config

    base = VIDEO_SPECS[geometry] if geometry else read_any_config(find_model(model)).video
    return dataclasses.replace(base, **(overrides or {}))


def from_pretrained(
    model: str | os.PathLike | None = None,
    *,
    dtype: str = "auto",
    video: VideoSpec | None = None,
    mesh: Mesh | None = None,
    calibration: str | os.PathLike = "auto",
) -> VideoQualityModel:
    """Loads a model; without argument, the bundled nano model.

    Args:
      model: a folder in the published layout, a plain InternVL3 folder, a transformers-native
        (-hf) folder, or a checkpoint made by `convert`; an existing path wins, `owner/name` that is
        no path is a hub id. None: the small model that ships inside the package, trained on
        synthetic distortions and not calibrated to people.
      dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on accelerators, float32 on a CPU.
      video: the geometry; default, the folder's own, which is the published inference geometry
        unless it says otherwise.
      mesh: where the parameters live (`parallel.make_mesh`), and the devices that score a batch
        together, each its share of the videos; default, one device.
      calibration: a file that `vqathinker calibrate` wrote, `none`, or `auto`: that in the model's
        folder, where there is one. Scores stay as they are; results have `calibrated` beside them.

    Raises:
      ValueError: a folder or calibration that cannot be read, a geometry that the model cannot see,
        or None where the package was installed without its model.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype must be auto, float32 or bfloat16, got {dtype!r}")
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    folder = find_model(model)
    loaded = load_any(folder, mesh=mesh, dtype=dtype)
    tokenizer = load_tokenizer(loaded.source_files)
    config = loaded.config
    video = config.video if video is None else video
    config.model.tokens_per_frame(video.image_size)
    check_geometry(config.model.slowfast, video)
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    model_cfg = with_attention(config.model, platform_of(device), dtype)

    def token_id(token: str) -> int:
        return tokenizer.convert_tokens_to_ids(token)

    context_id = token_id(IMAGE_TOKEN)
    return VideoQualityModel(
        LoadedModel(
            graphdef=abstract_model(model_cfg)[0],
            state=nnx.state(loaded.model),
            cfg=model_cfg,
            video=video,
            tokenizer=tokenizer,
            dtype=dtype,
            name=model_name(model),
            kind=config.kind,
            fingerprint=folder_fingerprint(folder),
            prompt_style=config.prompt_style,
            reasoning=config.reasoning,
            context_id=context_id,
            end_id=token_id(TURN_END),
            pad_id=token_id(PAD),
            suppressed_ids=(token_id(IMAGE_START), token_id(IMAGE_END), context_id),
            aggregate=config.aggregate,
            calibration=_find_calibration(folder, calibration),
            mesh=mesh,
        )
    )


def _find_calibration(folder: Path, calibration: str | os.PathLike) -> Calibration | None:
    if calibration == "none":
        return None
    if calibration != "auto":
        return read_calibration(calibration)
    own = folder / CALIBRATION_NAME
    return read_calibration(own) if own.exists() else None
