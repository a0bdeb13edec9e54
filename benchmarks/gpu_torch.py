"""torch's side of `gpu.py`: transformers in bfloat16, with the layout of the published trainer."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

from benchmarks.gpu_rows import SCORED_TOKENS, SCORED_VIDEOS, Record, Shapes, parse
from tests.parity.torch_internvit import build_torch_vision
from tests.parity.torch_qwen2 import build_torch_qwen2
from vqathinker_jax.spec import VideoSpec


class Bench:
    """The rows of one preset. There is no G5: the published step is `c7_step.py`'s subject.

    Args:
      shapes: what is run.
      record: where rows go.
      device: `cuda`, or `cpu` to try the script.
    """

    def __init__(self, shapes: Shapes, record: Record, device: str):
        self.shapes, self.record, self.device = shapes, record, device
        cfg = shapes.model
        with torch.device(device):
            self.vision = build_torch_vision(
                cfg.vision, cfg.decoder.hidden_size, 0, attention="sdpa", std=0.02
            ).to(torch.bfloat16)
            self.decoder = build_torch_qwen2(cfg.decoder, 0, attention="sdpa", std=0.02).to(
                torch.bfloat16
            )

    def run(self) -> None:
        """All rows that are wanted."""
        shapes = self.shapes
        length = shapes.prompt_tokens(shapes.training)
        rows = {
            "G1": lambda: self.encode("G1", shapes.videos, shapes.training),
            "G2": lambda: self.prefill("G2", length),
            "G4": lambda: self.decode(length),
            "G3": lambda: self.update(length),
            "G6": self.score,
        }
        for name, measure in rows.items():
            if self.record.wants(name):
                measure()

    def encode(self, row: str, videos: int, video: VideoSpec) -> float:
        """Frames to visual tokens, once a video; the published trainer does it K times."""
        side = video.image_size
        pixels = self._normal(videos * video.num_frames, 3, side, side)

        def call() -> None:
            with torch.inference_mode():
                self.vision.get_image_features(pixels)
            self._wait()

        return self.record.measure(row, call)

    def prefill(self, row: str, length: int, rows: int | None = None) -> float:
        """Prompts to caches, once a video."""
        embeds = self._normal(rows or self.shapes.videos, length, self._width)

        def call() -> None:
            with torch.inference_mode():
                self.decoder(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
            self._wait()

        return self.record.measure(row, call)

    def decode(self, length: int) -> None:
        """One token of N K rows with a dynamic cache, sampled."""
        rows = self.shapes.videos * self.shapes.samples
        whole = self._generate("G4 and the prompts", rows, length, self.shapes.completion, True)
        first = self._generate("the prompts of G4", rows, length, 1, True)
        self.record.write("G4", (whole - first) / (self.shapes.completion - 1), rows=rows)

    def update(self, length: int) -> None:
        """K whole rows of one video forwards and backwards, times N. Where ours trains adapters,
        only activations are differentiated, which is less than adapters need; no optimizer."""
        k, c = self.shapes.samples, self.shapes.completion
        for value in self.decoder.parameters():
            value.requires_grad_(not self.shapes.has_lora)
        self.decoder.gradient_checkpointing_enable()
        self.decoder.train()
        prompt = self._normal(1, length, self._width).requires_grad_()
        tokens = torch.randint(3, self.shapes.model.decoder.vocab_size, (k, c), device=self.device)

        def call() -> None:
            self.decoder.zero_grad(set_to_none=True)
            words = self.decoder.get_input_embeddings()(tokens)
            embeds = torch.cat([prompt.expand(k, -1, -1), words], 1)
            out = self.decoder(inputs_embeds=embeds, logits_to_keep=c + 1, use_cache=False)
            logits = out.logits[:, :-1].float()
            logits.log_softmax(-1).gather(-1, tokens[..., None]).mean().backward()
            self._wait()

        seconds = self.record.measure("G3 of one video", call)
        self.record.write("G3", seconds * self.shapes.videos, note="decoder alone, no tower")
        self.decoder.gradient_checkpointing_disable()
        self.decoder.eval()

    def score(self) -> None:
        """Greedy answers to a batch of videos, per video."""
        video = self.shapes.inference
        encoding = self.encode("encoding of G6", SCORED_VIDEOS, video)
        answers = self._generate(
            "answers of G6", SCORED_VIDEOS, self.shapes.prompt_tokens(video), SCORED_TOKENS, False
        )
        self.record.write("G6", (encoding + answers) / SCORED_VIDEOS)

    def _generate(self, row: str, rows: int, length: int, tokens: int, is_sampled: bool) -> float:
        embeds = self._normal(rows, length, self._width)
        how = {"do_sample": False}
        if is_sampled:
            how = {"do_sample": True, "temperature": 0.9, "top_k": 50}

        def call() -> None:
            with torch.inference_mode():
                self.decoder.generate(
                    inputs_embeds=embeds,
                    attention_mask=torch.ones(rows, length, device=self.device),
                    max_new_tokens=tokens,
                    eos_token_id=None,
                    pad_token_id=0,
                    **how,
                )
            self._wait()

        return self.record.measure(row, call)

    @property
    def _width(self) -> int:
        return self.shapes.model.decoder.hidden_size

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Measures and leaves a file."""
    shapes, args = parse(__doc__.splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    facts = {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    Bench(shapes, Record(args.out, facts, args.repeats, args.only), device).run()


if __name__ == "__main__":
    main()
