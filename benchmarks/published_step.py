"""One GRPO step with the semantics of the published trainer, in torch eager mode.

What the published code does with N videos and K responses is kept: every row of N K reads its clip
from the file, for the clean and again for the perturbed rollout; every row is encoded and prefilled
by itself in all four passes (clean rollout, perturbed rollout, reference, training); the reference
and the training pass compute logits at every position and their log-softmax row by row; each
response has a perturbation of its own. What makes it slower than it must be on a CPU is left out:
there is no gradient checkpointing, attention is torch's fused one, and responses are generated with
a cache.

Source: `train/src/open-r1-multimodal/src/open_r1/trainer/grpo_trainer.py` and
`vlm_modules/internvl_module.py` of the published repository, as facts; the code is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
import torch
from decord import VideoReader, cpu
from jaxtyping import Float, Int
from PIL import Image

from tests.parity.torch_official import TorchVQAThinker
from vqathinker_jax.config import TrainConfig
from vqathinker_jax.data.frames import frame_indices
from vqathinker_jax.data.perturb import perturbation_indices
from vqathinker_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD
from vqathinker_jax.records import Generation
from vqathinker_jax.rl.run_log import Clock
from vqathinker_jax.spec import VideoSpec

Score = Callable[[Generation, Generation, int], Float[np.ndarray, "N K"]]
"""(clean, perturbed, step) -> advantages."""


def read_pixels(path: str, video: VideoSpec) -> torch.Tensor:
    """[F, S, S, 3] of one clip, normalised."""
    reader = VideoReader(path, ctx=cpu(0), num_threads=1)
    indices = frame_indices(len(reader), float(reader.get_avg_fps()), video.num_frames)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    frames = []
    for index in indices:
        image = Image.fromarray(reader[int(index)].asnumpy()).convert("RGB")
        image = image.resize((video.image_size, video.image_size), Image.Resampling.BICUBIC)
        frames.append((torch.from_numpy(np.array(image)).float() / 255 - mean) / std)
    return torch.stack(frames)


class PublishedTrainer:
    """The published model with its optimizer, and the stages over it.

    Args:
      model: float32; trained in place. Its frozen copy is the reference.
      reference: of equal weights.
      config: sampling, objective and optimizer; what is specific to our side is ignored.
      prompt: ids of the prompt of every row.
      context_id: id of `<IMG_CONTEXT>`.
    """

    def __init__(
        self,
        model: TorchVQAThinker,
        reference: TorchVQAThinker,
        config: TrainConfig,
        prompt: Int[np.ndarray, "P"],
        context_id: int,
    ):
        self.model, self.reference, self.config = model, reference, config
        self.prompt = torch.from_numpy(prompt.astype(np.int64))
        self.places = (self.prompt == context_id).nonzero()[:, 0]
        for part in (model, reference):
            for network in (part.vision, part.qwen):
                network.set_attn_implementation("sdpa")
        self.trained = [
            value
            for network in (
                model.vision.vision_tower,
                model.vision.multi_modal_projector,
                model.motion_mlp,
                model.qwen,
            )
            for value in network.parameters()
        ]
        optimizer = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=optimizer.learning_rate,
            betas=(optimizer.b1, optimizer.b2),
            weight_decay=optimizer.weight_decay,
        )

    def step(self, paths: Sequence[str], score: Score, number: int) -> dict[str, float]:
        """One whole step; seconds by phase."""
        clock, k = Clock(), self.config.rollout.num_generations
        rows = [path for path in paths for _ in range(k)]
        with clock.phase("decode"):
            clean = torch.stack([read_pixels(row, self.config.video) for row in rows])
            perturbed = torch.stack([read_pixels(row, self.config.video) for row in rows])
            perturbed = self._perturb(perturbed, number)
        with clock.phase("rollout"):
            responses = [self._generate(pixels) for pixels in (clean, perturbed)]
        with clock.phase("reward"):
            advantages = score(*(_generation(rows, k) for rows in responses), number)
        with clock.phase("reference"), torch.no_grad():
            groups = zip(clean.split(k), responses[0].split(k), strict=True)
            reference = torch.cat([self.logprobs(self.reference, *group) for group in groups])
        with clock.phase("update"):
            mask = torch.ones_like(responses[0], dtype=torch.bool)
            self.gradients(clean, responses[0], mask, torch.from_numpy(advantages), reference)
            self.optimizer.step()
        return clock.seconds

    def gradients(
        self,
        pixels: torch.Tensor,
        responses: torch.Tensor,
        mask: torch.Tensor,
        advantages: torch.Tensor,
        reference: torch.Tensor,
    ) -> tuple[float, float]:
        """Loss and gradient norm of N K rows, group by group; gradients stay on the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        objective, num = self.config.objective, len(advantages)
        k = len(pixels) // num
        total = 0.0
        parts = (part.split(k) for part in (pixels, responses, mask, reference))
        for clip, ids, kept, ref, advantage in zip(*parts, advantages, strict=True):
            logprobs = self.logprobs(self.model, clip, ids)
            ratio = (logprobs - logprobs.detach()).exp()
            clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
            gain = torch.minimum(ratio * advantage[:, None], clipped * advantage[:, None])
            gap = ref - logprobs
            per_token = objective.beta * (gap.exp() - gap - 1) - gain
            loss = ((per_token * kept).sum(1) / kept.sum(1)).mean() / num
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.max_grad_norm)
        return total, norm.item()

    def logprobs(
        self, model: TorchVQAThinker, pixels: torch.Tensor, responses: torch.Tensor
    ) -> torch.Tensor:
        """[rows, C] log-probs from the logits of the whole sequence."""
        ids = torch.cat([self.prompt.expand(len(pixels), -1), responses], dim=1)
        embeds = self._embeds(model, pixels)
        embeds = torch.cat([embeds, model.qwen.get_input_embeddings()(responses)], dim=1)
        logits = model.qwen(inputs_embeds=embeds, use_cache=False).logits[:, :-1]
        rows = [
            row.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            for row, targets in zip(logits, ids[:, 1:], strict=True)
        ]
        return torch.stack(rows)[:, len(self.prompt) - 1 :]

    def _embeds(self, model: TorchVQAThinker, pixels: torch.Tensor) -> torch.Tensor:
        """[rows, P, D]: the prompt of each row with its visual tokens and its motion token."""
        num, frames, side = pixels.shape[:3]
        tower = model.vision.vision_tower
        images = pixels.reshape(num * frames, side, side, 3).permute(0, 3, 1, 2)
        hidden = tower(pixel_values=images).last_hidden_state[:, 1:]
        half = round(hidden.shape[1] ** 0.5) // 2
        merged = hidden.reshape(num * frames, half, 2, half, 2, -1).permute(0, 1, 3, 2, 4, 5)
        visual = model.vision.multi_modal_projector(merged.reshape(num * frames, half * half, -1))
        video = self.config.video
        motion = model.motion_mlp(
            model.slowfast(pixels.permute(0, 4, 1, 2, 3), video.slow_divisor, video.motion_repeat)
        )
        features = torch.cat([visual.reshape(num, -1, visual.shape[-1]), motion[:, None]], dim=1)
        text = model.qwen.get_input_embeddings()(self.prompt)
        out = text.expand(num, -1, -1).clone()
        out[:, self.places] = features
        return out

    @torch.no_grad()
    def _generate(self, pixels: torch.Tensor) -> torch.Tensor:
        """[rows, C] new ids; none of them ends a response."""
        rollout = self.config.rollout
        embeds = self._embeds(self.model, pixels)
        return self.model.qwen.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=rollout.max_completion_length,
            do_sample=True,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            eos_token_id=None,
            pad_token_id=0,
        )

    def _perturb(self, pixels: torch.Tensor, number: int) -> torch.Tensor:
        """A perturbation of its own for each row."""
        keys = jax.random.split(jax.random.key(number), len(pixels))
        frames = torch.tensor(np.asarray(perturbation_indices(keys, pixels.shape[1])))
        shown = pixels[torch.arange(len(pixels))[:, None], frames.clamp(min=0)]
        return torch.where((frames < 0)[..., None, None, None], 0.0, shown)


def _generation(rows: torch.Tensor, k: int) -> Generation:
    """Responses of full length in the form that texts are read from."""
    tokens = rows.numpy().reshape(-1, k, rows.shape[1]).astype(np.int32)
    lengths = np.full(tokens.shape[:2], tokens.shape[2], np.int32)
    return Generation(tokens, lengths, np.zeros(tokens.shape, np.float32))
