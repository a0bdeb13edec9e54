"""What a run starts from: a model folder or a random model, split into what trains and what not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import UInt8
from transformers import PreTrainedTokenizerBase

from vqathinker_jax.config import ModelConfig, TrainConfig
from vqathinker_jax.data.dataset import VideoStream
from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.data.prompt import IMAGE_END, IMAGE_START, IMAGE_TOKEN, PAD, TURN_END
from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.layouts import place_state, rollout_mesh
from vqathinker_jax.models.lora import add_adapters
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.slowfast import check_geometry
from vqathinker_jax.models.vqathinker import VQAThinkerConfig, with_attention
from vqathinker_jax.parallel import platform_of, state_shardings
from vqathinker_jax.rl.reference import make_reference
from vqathinker_jax.rl.run_folder import FILTERS
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.rl.vocabulary import small_tokenizer
from vqathinker_jax.rl.whitening import NUM_CLIPS, whiten_once
from vqathinker_jax.weights.config_json import FolderConfig, trained_kind
from vqathinker_jax.weights.huggingface import LoadedFolder, resolve_model
from vqathinker_jax.weights.initial import InitialSource
from vqathinker_jax.weights.load import folder_fingerprint, load_any, read_any_config
from vqathinker_jax.weights.mapping import make_table
from vqathinker_jax.weights.readers import abstract_model, fill_model, parameter_shapes
from vqathinker_jax.weights.tokenizer import load_tokenizer

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Start:
    """A model about to be trained. Not a pytree: three states hold the arrays."""

    model: LoadedModel
    """Everything but the parameters: geometry, tokenizer, ids, structure."""
    trained: nnx.State
    """Storage dtype `param_dtype`; nothing else refers to these arrays, so they may be donated."""
    frozen: nnx.State
    """As stored in the folder."""
    reference: nnx.State | None
    """The trained parameters as they were at the start (`rl/reference.py`), perhaps in host memory;
    None without KL. Of a decoder with adapters these alone, with B = 0 that makes them the base
    model: it is there only once."""
    folder: FolderConfig
    counters: dict[str, np.ndarray]
    source_files: Path


def load_start(
    config: TrainConfig, mesh: Mesh, videos: Sequence[LabelledVideo], run_dir: Path
) -> Start:
    """Loads the model of a run onto its mesh.

    Args:
      config: of the run.
      mesh: where the parameters go.
      videos: the training videos, which whitened filters are made from.
      run_dir: of the run, which keeps whitened filters, and the tokenizer of a preset that names
        none.

    Raises:
      WeightsError: a folder that cannot be read or written.
      TrainingError: a geometry that the model cannot see, or options that exclude each other.
    """
    cfg = config.model
    if cfg.path is not None:
        folder = resolve_model(cfg.path)
        check_layouts(read_any_config(folder).model, config, mesh)
        pyth = None if cfg.slowfast is None else Path(cfg.slowfast)
        loaded = load_any(folder, mesh=mesh, seed=config.run.seed, slowfast_pyth=pyth)
        fingerprint = folder_fingerprint(folder)
        tokenizer = load_tokenizer(loaded.source_files)
    else:
        folder = small_tokenizer(run_dir) if cfg.tokenizer is None else Path(cfg.tokenizer)
        tokenizer = load_tokenizer(folder)
        model_cfg = preset_config(cfg.preset, len(tokenizer))
        check_layouts(model_cfg, config, mesh)
        loaded = random_start(cfg, model_cfg, folder, config.run.seed, mesh)
        fingerprint = f"{cfg.preset} from seed {config.run.seed}"
    model_cfg = with_remat(loaded.config.model, cfg.remat)
    platform = platform_of(mesh.devices.flat[0])
    try:
        model_cfg = with_attention(model_cfg, platform, cfg.dtype, cfg.attention)
    except ValueError as error:
        raise TrainingError(f"model: {error}") from None
    try:
        model_cfg.tokens_per_frame(config.video.image_size)
        check_geometry(model_cfg.slowfast, config.video)
    except ValueError as error:
        raise TrainingError(f"video: {error}") from None
    model = nnx.merge(abstract_model(model_cfg)[0], nnx.state(loaded.model))
    if cfg.whiten:
        kept = run_dir / FILTERS
        whiten_once(model, kept, lambda: some_clips(config, videos), config.video, config.run.seed)
    if cfg.lora is not None:
        add_adapters(model.decoder, cfg.lora, cfg.param_dtype, config.run.seed, mesh)
    graphdef, stored, frozen = split_trained(model, cfg.vision, cfg.motion)
    reference = None
    if config.run.mode == "grpo" and config.objective.beta > 0:
        reference = make_reference(stored, cfg.param_dtype, cfg.dtype, cfg.reference_memory)
    return Start(
        model=_described(graphdef, model_cfg, config, tokenizer, loaded.config.kind, fingerprint),
        trained=copied(stored, cfg.param_dtype),
        frozen=frozen,
        reference=reference,
        folder=loaded.config,
        counters=loaded.counters,
        source_files=loaded.source_files,
    )


def check_layouts(cfg: VQAThinkerConfig, config: TrainConfig, mesh: Mesh) -> None:
    """Refuses a model that either layout of a run cannot split, before its weights are read.

    Raises:
      TrainingError: naming the parameter, the size of its axis and the devices.
    """
    state = abstract_model(cfg)[1]
    degree = config.mesh.rollout_degree
    for name, layout in (
        ("mesh", mesh),
        (f"mesh.rollout_tensor {degree}", rollout_mesh(mesh, degree)),
    ):
        try:
            state_shardings(state, layout)
        except ValueError as error:
            raise TrainingError(f"{name}: {error}") from None


def preset_config(preset: str, vocab_size: int) -> VQAThinkerConfig:
    """The architecture of a preset with another vocabulary."""
    cfg = PRESETS[preset]
    return dataclasses.replace(cfg, decoder=dataclasses.replace(cfg.decoder, vocab_size=vocab_size))


def random_start(
    cfg: ModelConfig, model_cfg: VQAThinkerConfig, tokenizer_folder: Path, seed: int, mesh: Mesh
) -> LoadedFolder:
    """A model of a preset's architecture with random weights.

    Args:
      cfg: names the preset.
      model_cfg: the preset with the vocabulary of the tokenizer.
      tokenizer_folder: its files go into the model that the run leaves.
      seed: root of the weights.
      mesh: where they go.

    Raises:
      TrainingError: a pretrained SlowFast was named, which no preset of ours can hold.
    """
    if cfg.slowfast is not None:
        raise TrainingError("model.slowfast goes with model.path, not with a preset")
    graphdef, state = abstract_model(model_cfg)
    source = InitialSource(parameter_shapes(state), seed)
    names = make_table(model_cfg, "official").counters
    return LoadedFolder(
        fill_model(graphdef, state, source, mesh, "float32"),
        FolderConfig(model_cfg, kind="random"),
        {name: np.zeros((), np.int64) for name in names},
        tokenizer_folder,
    )


def some_clips(
    config: TrainConfig, videos: Sequence[LabelledVideo]
) -> UInt8[np.ndarray, "N I S S 3"]:
    """The images of some training clips, of as many contents as may be, the same on every
    process."""
    data = dataclasses.replace(config.data, augment=False, by_content=False)
    num = min(NUM_CLIPS, len(videos))
    with VideoStream(videos, num, config.video, data, seed=config.run.seed) as stream:
        return next(stream).frames


def with_remat(cfg: VQAThinkerConfig, remat: str) -> VQAThinkerConfig:
    """The architecture with another choice of what the backward pass computes again."""
    return dataclasses.replace(
        cfg,
        vision=dataclasses.replace(cfg.vision, remat=remat),
        decoder=dataclasses.replace(cfg.decoder, remat=remat),
    )


def copied(state: nnx.State, dtype: str) -> nnx.State:
    """A copy of its own in another storage dtype."""
    return jax.tree.map(lambda a: jnp.array(a, dtype, copy=True), state)


def make_sampler(
    start: Start, trained: nnx.State, mesh: Mesh, dtype: str
) -> tuple[nnx.GraphDef, nnx.State]:
    """The model in the layout of rollouts: compute dtype, split over `tensor` alone.

    What is frozen and has that dtype and layout already is not copied. Everything else is cast
    where it lies and then moved once, in the compute dtype. Nothing keeps the copy: it goes with
    the last reference to what is returned.

    Args:
      start: the run's start, for structure and frozen parameters.
      trained: the present parameters.
      mesh: of rollouts.
      dtype: compute dtype.
    """
    return start.model.graphdef, place_state(_cast(trained, start.frozen, dtype), mesh)


def _cast(trained: nnx.State, frozen: nnx.State, dtype: str) -> nnx.State:
    leaves, structure = jax.tree.flatten(frozen)
    # A compiled function copies what it hands through, which would be a whole decoder here.
    others = [i for i, leaf in enumerate(leaves) if leaf.dtype != jnp.dtype(dtype)]
    trained, cast = _to_dtype((trained, [leaves[i] for i in others]), dtype)
    for i, leaf in zip(others, cast, strict=True):
        leaves[i] = leaf
    return nnx.merge_state(trained, jax.tree.unflatten(structure, leaves))


@functools.partial(jax.jit, static_argnames="dtype")
def _to_dtype(tree: T, dtype: str) -> T:
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def _described(
    graphdef: nnx.GraphDef,
    cfg: VQAThinkerConfig,
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    fingerprint: str,
) -> LoadedModel:
    def token_id(token: str) -> int:
        return tokenizer.convert_tokens_to_ids(token)

    context_id = token_id(IMAGE_TOKEN)
    return LoadedModel(
        graphdef=graphdef,
        state=nnx.State({}),
        cfg=cfg,
        video=config.video,
        tokenizer=tokenizer,
        dtype=config.model.dtype,
        name=config.model.path or config.model.preset,
        kind=trained_kind(kind),
        fingerprint=fingerprint,
        prompt_style=config.data.prompt_style,
        reasoning=config.data.reasoning,
        context_id=context_id,
        end_id=token_id(TURN_END),
        pad_id=token_id(PAD),
        suppressed_ids=(token_id(IMAGE_START), token_id(IMAGE_END), context_id),
    )
