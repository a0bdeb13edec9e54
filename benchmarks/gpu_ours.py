"""Our side of `gpu.py`: one preset with random weights on the devices of this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from benchmarks.gpu_rows import SCORED_TOKENS, SCORED_VIDEOS, Record, Shapes, parse
from vqathinker_jax.inference import EncodedVideos, encode, splice
from vqathinker_jax.models.generate import (
    SamplingConfig,
    bucket_length,
    decode,
    decode_segment,
    prefill,
    prefill_split,
    start_decode,
)
from vqathinker_jax.models.lora import LoraConfig, add_adapters
from vqathinker_jax.models.vqathinker import VQAThinker, with_attention
from vqathinker_jax.parallel import born_sharded, make_mesh, platform_of
from vqathinker_jax.plan.chips import CHIPS, Chip
from vqathinker_jax.plan.flops import count_flops
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.rollout import RolloutConfig, roll_out
from vqathinker_jax.rl.start import copied, with_remat
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.rl.update import (
    ObjectiveConfig,
    Static,
    UpdateBatch,
    response_logprobs,
    update,
)
from vqathinker_jax.spec import VideoSpec

DTYPE = "bfloat16"
CONTEXT_ID, WORD_ID, END_ID, PAD_ID = 2, 3, 1, 0


def this_chip() -> Chip | None:
    """The data sheet of the device, where we have it."""
    kind = jax.devices()[0].device_kind.lower()
    return next((chip for name, chip in CHIPS.items() if name in kind), None)


class Model:
    """Random parameters, split and laid out as training has them.

    Args:
      shapes: 1B trains in full, what is larger by adapters and projectors.
    """

    def __init__(self, shapes: Shapes):
        self.shapes = shapes
        self.mesh = make_mesh()
        platform = platform_of(self.mesh.devices.flat[0])
        cfg = with_attention(with_remat(shapes.model, "names"), platform, DTYPE, "auto")
        self.attention = f"{cfg.vision.attention} {cfg.decoder.attention}"
        model = born_sharded(
            lambda rngs: VQAThinker(cfg, param_dtype=jnp.bfloat16, rngs=rngs), self.mesh
        )
        if shapes.has_lora:
            add_adapters(model.decoder, LoraConfig(), "float32", 0, self.mesh)
        vision = "projector" if shapes.has_lora else "full"
        self.graphdef, stored, self.frozen = split_trained(model, vision, "frozen")
        self.trained = copied(stored, "float32")
        self.reference = stored
        self.optimizer = OptimizerConfig(total_steps=1000)
        self.opt_state = self.optimizer.initial_state(self.trained, self.mesh, 0)

    def sampler(self) -> nnx.State:
        """The parameters as rollouts read them."""
        trained = jax.tree.map(lambda a: a.astype(DTYPE), self.trained)
        frozen = jax.tree.map(lambda a: a.astype(DTYPE), self.frozen)
        return nnx.merge_state(trained, frozen)

    def static(self) -> Static:
        """What an update is compiled for."""
        return Static(
            graphdef=self.graphdef,
            video=self.shapes.training,
            context_id=CONTEXT_ID,
            objective=ObjectiveConfig(),
            micro_batch=1,
            max_completion_length=self.shapes.completion,
        )


def random_pixels(num: int, video: VideoSpec) -> Array:
    """Normalised pixels of `num` clips."""
    shape = (num, video.num_images, video.image_size, video.image_size, 3)
    return jax.random.normal(jax.random.key(0), shape, jnp.float32).astype(DTYPE)


def prompts(shapes: Shapes, num: int, video: VideoSpec) -> tuple[Array, Array]:
    """Ids with as many placeholders as the geometry has tokens, and the lengths."""
    length = shapes.prompt_tokens(video)
    images = video.num_frames * shapes.model.tokens_per_frame(video.image_size)
    ids = np.full((num, bucket_length(length)), PAD_ID, np.int32)
    ids[:, :length] = WORD_ID
    ids[:, 5 : 5 + images + video.has_motion] = CONTEXT_ID
    return jnp.asarray(ids), jnp.full(num, length, jnp.int32)


def sampling(tokens: int, temperature: float) -> SamplingConfig:
    """Greedy, or as published."""
    return SamplingConfig(
        eos_id=END_ID, pad_id=PAD_ID, max_new_tokens=tokens, temperature=temperature
    )


class Bench:
    """The rows of one preset.

    Args:
      model: what is run.
      record: where rows go.
    """

    def __init__(self, model: Model, record: Record):
        self.model, self.record, self.chip = model, record, this_chip()
        shapes = self.shapes = model.shapes
        self.pixels = random_pixels(shapes.videos, shapes.training)
        self.ids, self.lengths = prompts(shapes, shapes.videos, shapes.training)
        self.keys = jax.random.split(jax.random.key(1), shapes.videos)

    def run(self) -> None:
        """All rows that are wanted, the cheap ones first."""
        rows = {
            "G1": self.encode, "G2": self.prefill, "G4": self.decode, "G3": self.update,
            "G5": self.step, "G6": self.score,
        }  # fmt: skip
        for name, measure in rows.items():
            if self.record.wants(name):
                measure()

    def encode(self) -> None:
        """G1."""
        sampler = self.model.sampler()
        arguments = (self.model.graphdef, sampler, self.pixels, self.shapes.training)
        flops = count_flops(encode.trace(*arguments).jaxpr.jaxpr)
        self._rate("G1", lambda: jax.block_until_ready(encode(*arguments)), flops)

    def prefill(self) -> None:
        """G2."""
        graphdef, params, embeds = self._prompt()
        arguments = (graphdef, params, embeds, self.lengths)
        flops = count_flops(prefill_split.trace(*arguments).jaxpr.jaxpr)
        self._rate("G2", lambda: jax.block_until_ready(prefill_split(*arguments)), flops)

    def decode(self) -> None:
        """G4: a segment of C - 1 tokens, divided by their number."""
        graphdef, params, embeds = self._prompt()
        prefix = prefill_split(graphdef, params, embeds, self.lengths)
        how = sampling(self.shapes.completion, 0.9)
        steps = self.shapes.completion - 1

        def start():
            return jax.block_until_ready(
                start_decode(
                    graphdef, params, prefix, self.keys, self.shapes.samples,
                    self.shapes.completion, how,
                )
            )  # fmt: skip

        def both() -> None:
            state = decode_segment(
                graphdef, params, prefix, self.keys, start(), jnp.int32(steps + 1), how
            )
            jax.block_until_ready(state)

        name = "G4 and the first token"
        whole = self.record.measure(name, both)
        first = self.record.measure("first token", start)
        seconds = (whole - first) / steps
        details = {"rows": self.shapes.videos * self.shapes.samples}
        if self.chip is not None and self.chip.memory_bandwidth is not None:
            weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
            details["times_streaming"] = seconds / (weights / self.chip.memory_bandwidth)
        self.record.write("G4", seconds, **details)

    def update(self) -> None:
        """G3."""
        batch = self._batch()
        model, static = self.model, self.model.static()
        arguments = (model.trained, model.frozen, model.opt_state, batch, static, model.optimizer)
        flops = count_flops(update.trace(*arguments).jaxpr.jaxpr)
        self._rate("G3", lambda: self._update(batch, static), flops)

    def step(self) -> None:
        """G5: everything of a step but reading clips and text."""
        cfg = RolloutConfig(
            num_generations=self.shapes.samples, max_completion_length=self.shapes.completion
        )
        static, model = self.model.static(), self.model

        def whole() -> None:
            out = roll_out(
                (model.graphdef, model.sampler()), self.pixels, self.ids, self.lengths, self.keys,
                video=self.shapes.training, context_id=CONTEXT_ID, cfg=cfg,
                sampling=sampling(self.shapes.completion, cfg.temperature),
            )  # fmt: skip
            batch = dataclasses.replace(self._batch(), responses=out.clean.tokens)
            reference = response_logprobs(model.reference, model.frozen, batch, static)
            self._update(dataclasses.replace(batch, reference_logprobs=reference), static)

        self.record.measure("G5", whole)

    def score(self) -> None:
        """G6: seconds per video."""
        video, state = self.shapes.inference, self.model.sampler()
        graphdef = self.model.graphdef
        pixels = random_pixels(SCORED_VIDEOS, video)
        ids, lengths = prompts(self.shapes, SCORED_VIDEOS, video)
        decoder = nnx.merge(graphdef, state).decoder

        def answers() -> None:
            encoded: EncodedVideos = encode(graphdef, state, pixels, video)
            embeds = splice(graphdef, state, ids, lengths, encoded, CONTEXT_ID)
            prefix = prefill(decoder, embeds, lengths)
            jax.block_until_ready(decode(decoder, prefix, None, 1, sampling(SCORED_TOKENS, 0.0)))

        seconds = self.record.measure("a batch of G6", answers) / SCORED_VIDEOS
        self.record.write("G6", seconds, videos_per_second=1 / seconds)

    def _prompt(self) -> tuple[nnx.GraphDef, nnx.State, Array]:
        state, graphdef = self.model.sampler(), self.model.graphdef
        encoded = encode(graphdef, state, self.pixels, self.shapes.training)
        embeds = splice(graphdef, state, self.ids, self.lengths, encoded, CONTEXT_ID)
        return *nnx.split(nnx.merge(graphdef, state).decoder), embeds

    def _batch(self) -> UpdateBatch:
        n, k, c = self.shapes.videos, self.shapes.samples, self.shapes.completion
        vocab = self.shapes.model.decoder.vocab_size
        reference = jnp.zeros((n, k, c), jnp.float32)
        return UpdateBatch(
            pixels=self.pixels,
            prompt_ids=self.ids,
            prompt_lengths=self.lengths,
            responses=jax.random.randint(jax.random.key(2), (n, k, c), 3, vocab),
            response_mask=jnp.ones((n, k, c), bool),
            advantages=jax.random.normal(jax.random.key(3), (n, k)),
            reference_logprobs=reference,
        )

    def _update(self, batch: UpdateBatch, static: Static) -> None:
        model = self.model
        model.trained, model.opt_state, _ = jax.block_until_ready(
            update(model.trained, model.frozen, model.opt_state, batch, static, model.optimizer)
        )

    def _rate(self, row: str, call: Callable[[], object], flops: float) -> None:
        seconds = self.record.measure(row, call)
        details: dict[str, Any] = {"flops": flops, "tflops": flops / seconds / 1e12}
        if self.chip is not None and self.chip.peak_flops is not None:
            details["of_peak"] = flops / seconds / self.chip.peak_flops
        self.record.write(row, seconds, **details)


def main() -> None:
    """Measures and leaves a file."""
    shapes, args = parse(__doc__.splitlines()[0])
    with jax.set_mesh(make_mesh()):
        model = Model(shapes)
        facts = {
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "what": "LoRA" if shapes.has_lora else "full",
            "attention of tower and decoder": model.attention,
        }
        Bench(model, Record(args.out, facts, args.repeats, args.only)).run()


if __name__ == "__main__":
    main()
