"""The programs of a training step as training calls them, ready to be traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from vqathinker_jax.inference import clip_features, project
from vqathinker_jax.models.generate import (
    DecodeState,
    decode_segment,
    prefill_split,
    start_decode,
    suffix_capacities,
)
from vqathinker_jax.parallel import named_sharding
from vqathinker_jax.plan.abstract_run import (
    CONTEXT_ID,
    END_ID,
    PAD_ID,
    AbstractRun,
    bytes_per_chip,
    spread,
)
from vqathinker_jax.plan.job import PHASES
from vqathinker_jax.records import ClipFeatures, Prefix
from vqathinker_jax.rl.rollout import encode_perturbed
from vqathinker_jax.rl.sft import sft_update
from vqathinker_jax.rl.update import response_logprobs, update

SUPPRESSED_IDS = (CONTEXT_ID, CONTEXT_ID + 1, CONTEXT_ID + 2)
ROLLOUT = ("encode", "project", "perturb", "prefill", "decode")


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and what it is called with."""

    trace: Callable[[], Any]
    """Gives `jax.stages.Traced`; runs nothing."""
    resident: dict[str, int]
    """Bytes per chip of what is in memory beside its arguments, by name."""
    loop_trips: int | None = None
    """How often its `while_loop` runs."""
    streamed_bytes: int | None = None
    """Bytes per chip that every pass of that loop reads."""
    repeats: float = 1.0
    """How much of its work a step does: runs with fewer rows count in proportion."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one decode loop."""

    num: int
    """Prompts."""
    samples: int
    """Responses to each."""


def phases_of(run_mode: str, temporal: bool, beta: float) -> tuple[str, ...]:
    """The phases of a step, in order."""
    if run_mode == "sft":
        return ("update",)
    found = list(PHASES)
    if not temporal:
        found.remove("perturb")
    if beta == 0:
        found.remove("reference")
    return tuple(found)


def mesh_of(run: AbstractRun, phase: str) -> Mesh:
    """The mesh that must be set while the program of a phase is made and traced."""
    return run.rollout_mesh if phase in ROLLOUT else run.mesh


def make_program(run: AbstractRun, phase: str) -> Program:
    """The program of a phase."""
    make = {
        "encode": _encode,
        "project": _project,
        "perturb": _perturb,
        "prefill": _prefill,
        "decode": _decode,
        "reference": _reference,
        "update": _update,
    }
    return make[phase](run)


def _encode(run: AbstractRun) -> Program:
    return Program(
        lambda: clip_features.trace(run.graphdef, run.sampler, _pixels(run), run.config.video),
        {**_kept(run), "rollout decoder": bytes_per_chip(run.sampler["decoder"])},
    )


def _project(run: AbstractRun) -> Program:
    return Program(
        lambda: project.trace(run.graphdef, run.sampler, _features(run)),
        {
            **_kept(run),
            "rollout decoder": bytes_per_chip(run.sampler["decoder"]),
            "clips": bytes_per_chip(_pixels(run)),
        },
    )


def _perturb(run: AbstractRun) -> Program:
    num, video = _perturbed_rows(run), run.config.video
    frames = spread(run.rollout_mesh, (num, video.num_frames), jnp.int32)
    clean = len(run.batch.pixels)
    return Program(
        lambda: encode_perturbed.trace(
            run.graphdef, run.sampler, _pixels(run, num), _visual(run, num), frames, video
        ),
        {
            **_kept(run),
            "rollout decoder": bytes_per_chip(run.sampler["decoder"]),
            "clean clips": bytes_per_chip((_pixels(run), _features(run), _visual(run, clean))),
        },
    )


def _prefill(run: AbstractRun) -> Program:
    rows, repeats = _decoded_rows(run)
    graphdef, params = _decoder(run)
    lengths = spread(run.rollout_mesh, (rows.num,), jnp.int32)
    return Program(
        lambda: prefill_split.trace(graphdef, params, _embeds(run, rows.num), lengths),
        {**_kept(run), **_encoded(run)},
        repeats=1 + len(run.batch.pixels) / rows.num if repeats > 1 else 1.0,
    )


def _decode(run: AbstractRun) -> Program:
    rows, repeats = _decoded_rows(run)
    graphdef, params = _decoder(run)
    tokens = run.batch.responses.shape[-1]
    sampling = run.config.rollout.sampling(END_ID, PAD_ID, SUPPRESSED_IDS)
    capacity = next(c for c in suffix_capacities(sampling.max_new_tokens) if c >= tokens)
    lengths = spread(run.rollout_mesh, (rows.num,), jnp.int32)
    prefix = _prefix(
        run, jax.eval_shape(prefill_split, graphdef, params, _embeds(run, rows.num), lengths)
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows.num))
    keys = spread(run.rollout_mesh, keys.shape, keys.dtype)
    state = jax.eval_shape(
        lambda params, prefix, keys: start_decode(
            graphdef, params, prefix, keys, rows.samples, capacity, sampling
        ),
        params, prefix, keys,
    )  # fmt: skip
    state = _decode_state(run, state)
    stop = jax.ShapeDtypeStruct((), jnp.int32)
    suffix = bytes_per_chip(state.suffix)
    return Program(
        lambda: decode_segment.trace(graphdef, params, prefix, keys, state, stop, sampling),
        {
            **_kept(run),
            **_encoded(run),
            "prompt embeddings": bytes_per_chip(_embeds(run, rows.num)),
        },
        loop_trips=tokens,
        # Half of the responses' slots are read on average, and of an own token table a few rows.
        streamed_bytes=bytes_per_chip((params, prefix)) - _unread(params) + suffix // 2,
        repeats=repeats,
    )


def _reference(run: AbstractRun) -> Program:
    has_old = run.config.run.updates_per_rollout > 1
    return Program(
        lambda: response_logprobs.trace(run.reference, run.frozen, run.batch, run.static),
        {
            "training parameters": bytes_per_chip(run.trained),
            "optimizer": bytes_per_chip(run.opt_state),
            "frames": _frames(run),
        },
        repeats=2.0 if has_old else 1.0,
    )


def _update(run: AbstractRun) -> Program:
    batch, program = run.batch, sft_update
    resident = {"frames": _frames(run)}
    if run.config.run.mode == "grpo":
        program = update
        logprobs = spread(run.mesh, batch.responses.shape, jnp.float32)
        if run.reference is not None:
            batch = dataclasses.replace(batch, reference_logprobs=logprobs)
            resident["reference"] = _waiting_reference(run)
        if run.config.run.updates_per_rollout > 1:
            batch = dataclasses.replace(batch, old_logprobs=logprobs)
    return Program(
        lambda: program.trace(
            run.trained, run.frozen, run.opt_state, batch, run.static, run.optimizer
        ),
        resident,
        repeats=float(run.config.run.updates_per_rollout) if program is update else 1.0,
    )


def _kept(run: AbstractRun) -> dict[str, int]:
    """What a run keeps in memory during rollouts, beside the copy that they read."""
    kept = {
        "training parameters": bytes_per_chip(run.trained),
        "optimizer": bytes_per_chip(run.opt_state),
        "frozen parameters": bytes_per_chip(run.own_frozen),
        "frames": _frames(run),
    }
    if run.reference is not None:
        kept["reference"] = _waiting_reference(run)
    return kept


def _waiting_reference(run: AbstractRun) -> int:
    """What the reference takes of a chip between its passes."""
    return 0 if run.config.model.reference_memory == "host" else bytes_per_chip(run.reference)


def _encoded(run: AbstractRun) -> dict[str, int]:
    """What a rollout keeps until its responses are there."""
    others = [part for name, part in run.sampler.items() if name != "decoder"]
    num = len(run.batch.pixels)
    kept = [_pixels(run), _visual(run, num), _features(run)]
    if run.config.rollout.temporal:
        rows = _perturbed_rows(run)
        # The perturbed clips, the two repeated inputs they were made from, and both together.
        kept += [_pixels(run, rows), *[_visual(run, rows)] * 2]
        kept += [_visual(run, num), _visual(run, rows)]
    return {"rollout encoders": bytes_per_chip(others), "clips": bytes_per_chip(kept)}


def _frames(run: AbstractRun) -> int:
    """uint8 frames: of this batch, of the next, and of this one where rollouts take them."""
    updates, rollouts = (
        bytes_per_chip(pixels) // pixels.dtype.itemsize
        for pixels in (run.batch.pixels, _pixels(run))
    )
    return 2 * updates + rollouts


def _perturbed_rows(run: AbstractRun) -> int:
    cfg = run.config.rollout
    per_video = 1 if cfg.perturb_per == "video" else cfg.num_generations
    return len(run.batch.pixels) * per_video


def _decoded_rows(run: AbstractRun) -> tuple[Rows, float]:
    """The larger decode loop of a step, and how many of its kind the step runs."""
    cfg, num = run.config.rollout, len(run.batch.pixels)
    if not cfg.temporal:
        return Rows(num, cfg.num_generations), 1.0
    if cfg.perturb_per == "video":
        return Rows(2 * num, cfg.num_generations), 1.0
    return Rows(num * cfg.num_generations, 1), 2.0


def _decoder(run: AbstractRun) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.merge(run.graphdef, run.sampler).decoder)


def _unread(params: nnx.State) -> int:
    """Bytes per chip of the token table, unless it is the head as well."""
    return bytes_per_chip(params["embed"]) if "lm_head" in params else 0


def _pixels(run: AbstractRun, num: int | None = None) -> jax.ShapeDtypeStruct:
    """Of rollouts: of the batch, or so many rows."""
    pixels = run.batch.pixels
    rows = len(pixels) if num is None else num
    return spread(run.rollout_mesh, (rows, *pixels.shape[1:]), pixels.dtype)


def _width(run: AbstractRun) -> int:
    return run.sampler["decoder"]["norm"]["scale"].get_value().shape[0]


def _features(run: AbstractRun) -> ClipFeatures:
    """What the encoders see of the clean clips, as rollouts hold it."""
    found = jax.eval_shape(
        lambda state, pixels: clip_features(run.graphdef, state, pixels, run.config.video),
        run.sampler, _pixels(run),
    )  # fmt: skip
    return jax.tree.map(lambda a: spread(run.rollout_mesh, a.shape, a.dtype), found)


def _visual(run: AbstractRun, num: int) -> jax.ShapeDtypeStruct:
    visual = jax.eval_shape(
        lambda state, features: project(run.graphdef, state, features).visual,
        run.sampler, _features(run),
    )  # fmt: skip
    return spread(run.rollout_mesh, (num, *visual.shape[1:]), visual.dtype)


def _embeds(run: AbstractRun, num: int) -> jax.ShapeDtypeStruct:
    shape = (num, run.batch.prompt_ids.shape[1], _width(run))
    return spread(run.rollout_mesh, shape, run.batch.pixels.dtype)


def _prefix(run: AbstractRun, prefix: Prefix) -> Prefix:
    """As `prefill` lays it out."""
    axes = ("layers", "batch", "kv_heads")
    return Prefix(
        cache=jax.tree.map(
            lambda a: spread(run.rollout_mesh, a.shape, a.dtype, axes), prefix.cache
        ),
        lengths=spread(run.rollout_mesh, prefix.lengths.shape, prefix.lengths.dtype),
        last_hidden=spread(run.rollout_mesh, prefix.last_hidden.shape, prefix.last_hidden.dtype),
    )


def _decode_state(run: AbstractRun, state: DecodeState) -> DecodeState:
    """As `start_decode` lays it out."""
    rows = ("batch", "kv_heads", "samples")

    def scalar(a: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = named_sharding(run.rollout_mesh, (), ())
        return jax.ShapeDtypeStruct((), a.dtype, sharding=sharding)

    def by_video(a: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return spread(run.rollout_mesh, a.shape, a.dtype)

    return DecodeState(
        step=scalar(state.step),
        is_done=scalar(state.is_done),
        ended=by_video(state.ended),
        last=by_video(state.last),
        generation=jax.tree.map(by_video, state.generation),
        suffix=jax.tree.map(
            lambda a: spread(run.rollout_mesh, a.shape, a.dtype, rows), state.suffix
        ),
    )
