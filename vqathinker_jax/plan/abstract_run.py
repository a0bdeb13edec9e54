"""A run without a single value: every array that training holds, as shape, dtype and layout."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from vqathinker_jax.config import TrainConfig
from vqathinker_jax.layouts import rollout_mesh
from vqathinker_jax.models.generate import bucket_length
from vqathinker_jax.models.lora import add_abstract_adapters, is_adapter
from vqathinker_jax.models.vqathinker import with_attention
from vqathinker_jax.parallel import named_sharding, platform_of, tree_shardings
from vqathinker_jax.plan.job import Job
from vqathinker_jax.records import ClipFeatures
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.reference import make_reference
from vqathinker_jax.rl.start import with_remat
from vqathinker_jax.rl.trainable import are_encoders_frozen, split_trained
from vqathinker_jax.rl.update import Static, UpdateBatch
from vqathinker_jax.weights.readers import abstract_model

T = TypeVar("T")

CONTEXT_ID, END_ID, PAD_ID = 2, 1, 0
"""Any ids will do: no program depends on which."""


@dataclasses.dataclass(frozen=True)
class AbstractRun:
    """What a run holds; the states and the batch are of `jax.ShapeDtypeStruct`."""

    config: TrainConfig
    mesh: Mesh
    """Of updates."""
    rollout_mesh: Mesh
    trained: nnx.State
    frozen: nnx.State
    opt_state: optax.OptState
    reference: nnx.State | None
    sampler: nnx.State
    """The copy that rollouts read."""
    own_frozen: list[jax.ShapeDtypeStruct]
    """Frozen parameters that the sampler does not share."""
    batch: UpdateBatch
    """As updates take it, on `mesh`."""
    static: Static
    optimizer: OptimizerConfig
    attention: str
    """Of the tower and of the decoder."""

    @property
    def graphdef(self) -> nnx.GraphDef:
        return self.static.graphdef


def abstract_run(job: Job, mesh: Mesh) -> AbstractRun:
    """Everything that the run of a job would hold on a mesh.

    Raises:
      ValueError: a size that the mesh does not divide, or attention that it does not have.
    """
    config, cfg = job.config, job.config.model
    platform = platform_of(mesh.devices.flat[0])
    model_cfg = with_remat(job.model, cfg.remat)
    model_cfg = with_attention(model_cfg, platform, cfg.dtype, job.attention)
    model = nnx.merge(*abstract_model(model_cfg))
    if cfg.lora is not None:
        add_abstract_adapters(model.decoder, cfg.lora, cfg.param_dtype)
    graphdef, trained, frozen = split_trained(model, cfg.vision, cfg.motion)
    stored = _stored(trained, mesh, job)
    trained, frozen = _placed(trained, mesh, cfg.param_dtype), _stored(frozen, mesh, job)
    rollouts = rollout_mesh(mesh, config.mesh.rollout_tensor)
    sampler = _placed(nnx.merge_state(trained, frozen), rollouts, cfg.dtype)
    reference = None
    if config.run.mode == "grpo" and config.objective.beta > 0:
        kept = jax.eval_shape(
            lambda state: make_reference(state, cfg.param_dtype, cfg.dtype, "device"), stored
        )
        reference = _like(kept, tree_shardings(kept, mesh))
    total = config.optimizer.total_steps or config.optimizer.warmup_steps + 1
    optimizer = dataclasses.replace(config.optimizer, total_steps=total)
    opt_state = jax.eval_shape(optimizer.make().init, trained)
    return AbstractRun(
        config=config,
        mesh=mesh,
        rollout_mesh=rollouts,
        trained=trained,
        frozen=frozen,
        opt_state=_like(opt_state, tree_shardings(opt_state, mesh)),
        reference=reference,
        sampler=sampler,
        own_frozen=_unshared(frozen, sampler),
        batch=_batch(job, mesh),
        static=Static(
            graphdef=graphdef,
            video=config.video,
            context_id=CONTEXT_ID,
            objective=config.objective,
            micro_batch=config.run.micro_batch,
            max_completion_length=config.rollout.max_completion_length,
        ),
        optimizer=optimizer,
        attention=f"{model_cfg.vision.attention} {model_cfg.decoder.attention}",
    )


def bytes_per_chip(tree: Any) -> int:
    """Bytes of a tree on each chip; what has no layout lies on all of them whole."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def spread(
    mesh: Mesh, shape: tuple[int, ...], dtype: Any, axes: tuple[str | None, ...] = ("batch",)
) -> jax.ShapeDtypeStruct:
    """An array laid out by the names of its first axes."""
    axes = (*axes, *(None for _ in shape[len(axes) :]))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=named_sharding(mesh, axes, shape))


def _like(tree: T, shardings: T, dtype: str | None = None) -> T:
    """The shapes of a tree with layouts, and with another dtype where one is given."""

    def one(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        kept = leaf.dtype if dtype is None else np.dtype(dtype)
        return jax.ShapeDtypeStruct(leaf.shape, kept, sharding=sharding)

    return jax.tree.map(one, tree, shardings)


def _placed(state: nnx.State, mesh: Mesh, dtype: str) -> nnx.State:
    return _like(state, tree_shardings(state, mesh), dtype)


def _stored(state: nnx.State, mesh: Mesh, job: Job) -> nnx.State:
    """As a run loads it: adapters are made in the dtype that trains, the rest is as stored."""

    def one(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        leaf = variable.get_value()
        dtype = job.config.model.param_dtype if is_adapter(path) else job.stored_dtype
        return variable.replace(jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtype)))

    state = nnx.map_state(one, state)
    return _like(state, tree_shardings(state, mesh))


def _unshared(frozen: nnx.State, sampler: nnx.State) -> list[jax.ShapeDtypeStruct]:
    """Frozen parameters of another dtype or layout than the sampler's, so that both exist."""
    copies = dict(nnx.to_flat_state(sampler))
    pairs = ((v.get_value(), copies[path].get_value()) for path, v in nnx.to_flat_state(frozen))
    return [
        own
        for own, copy in pairs
        if own.dtype != copy.dtype
        or not own.sharding.is_equivalent_to(copy.sharding, len(own.shape))
    ]


def _batch(job: Job, mesh: Mesh) -> UpdateBatch:
    config, video = job.config, job.config.video
    num, side = config.run.videos_per_step, video.image_size
    is_sft = config.run.mode == "sft"
    k = 1 if is_sft else config.rollout.num_generations
    c = job.completion
    has_anchor = not is_sft and config.objective.anchor_weight > 0

    def array(shape: tuple[int, ...], dtype: Any) -> Array:
        return spread(mesh, shape, dtype)

    features = None
    if not is_sft and are_encoders_frozen(config.model.vision, config.model.motion):
        dtype = np.dtype(config.model.dtype)
        tower, motion = job.model.feature_shapes(video)
        features = ClipFeatures(array((num, *tower), dtype), array((num, *motion), dtype))
    return UpdateBatch(
        pixels=array((num, video.num_images, side, side, 3), np.dtype(config.model.dtype)),
        prompt_ids=array((num, bucket_length(job.prompt_length)), jnp.int32),
        prompt_lengths=array((num,), jnp.int32),
        responses=array((num, k, c), jnp.int32),
        response_mask=array((num, k, c), jnp.bool_),
        advantages=array((num, k), jnp.float32),
        anchor=array((num, c), jnp.int32) if has_anchor else None,
        text_weights=array((num, c), jnp.float32) if is_sft or has_anchor else None,
        features=features,
    )
