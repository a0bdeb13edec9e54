"""C5: K responses to one prompt, tokens per second, against torch `generate`.

Both sides run the prompt and all its tokens, and again with one token only: the difference is the
decode loop. transformers' Qwen2 with the same weights, in inference mode, runs K copies of the
prompt with its dynamic or static cache, whichever is faster.

Run from the repository root: `python -m benchmarks.c5_decode`.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable

from benchmarks.timing import THREADS, Timing, alternate, pin_cores, report, seconds

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from tests.parity.torch_qwen2 import build_torch_qwen2, copy_qwen2
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config

TOP_K = 50
TEMPERATURE = 0.9
Run = Callable[[float, int], np.ndarray]
"""(temperature, new tokens) -> tokens [K, new tokens]; greedy at temperature 0."""


def our_run(decoder: Qwen2, ids: np.ndarray, num_samples: int, end: int) -> Run:
    """Prefill once, decode K responses; `end` is the id that ends a response."""
    prompt, lengths = jnp.asarray(ids)[None], jnp.asarray([len(ids)], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1)

    def run(temperature: float, count: int) -> np.ndarray:
        sampling = SamplingConfig(
            eos_id=end, pad_id=end, max_new_tokens=count, temperature=temperature, top_k=TOP_K
        )
        prefix = prefill(decoder, decoder.embed_tokens(prompt, jnp.float32), lengths)
        return np.asarray(decode(decoder, prefix, keys, num_samples, sampling).tokens[0])

    return run


def torch_run(model: torch.nn.Module, ids: np.ndarray, num_samples: int, cache: str) -> Run:
    """`generate` on K copies of the prompt, never ended early."""
    prompt = torch.tensor(ids)[None].repeat(num_samples, 1)

    def run(temperature: float, count: int) -> np.ndarray:
        how = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_k": TOP_K}
        with torch.inference_mode():
            out = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                eos_token_id=None,
                pad_token_id=0,
                cache_implementation=cache,
                **how,
            )
        return out[:, prompt.shape[1] :].numpy()

    return run


def decode_only(whole: Timing, first: Timing) -> float:
    """How many times faster our loop over tokens is, prompts and first tokens subtracted."""
    return (whole.theirs - first.theirs) / (whole.ours - first.ours)


def main() -> None:
    """Runs C5 at the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32003)
    parser.add_argument("--prompt", type=int, default=425)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    pin_cores(arguments.threads)
    torch.set_num_threads(arguments.threads)

    cfg = Qwen2Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.width,
        intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64,
        num_key_value_heads=2,
    )
    model = build_torch_qwen2(cfg, 0, attention="sdpa", std=0.05)
    decoder = Qwen2(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    copy_qwen2(model, decoder)
    count, samples = arguments.tokens, arguments.samples
    ids = np.random.default_rng(0).integers(0, cfg.vocab_size, arguments.prompt)

    theirs = {cache: torch_run(model, ids, samples, cache) for cache in ("dynamic", "static")}
    expected = theirs["dynamic"](0.0, count)
    end = int(np.setdiff1d(np.arange(cfg.vocab_size), expected)[-1])
    ours = our_run(decoder, ids, samples, end)
    equal = float((ours(0.0, count) == expected).mean())

    for name, temperature in (("greedy", 0.0), ("sampled", TEMPERATURE)):
        for run in theirs.values():
            run(temperature, 2)
        spent = {
            cache: min(seconds(functools.partial(run, temperature, count)) for _ in range(2))
            for cache, run in theirs.items()
        }
        cache = min(spent, key=spent.__getitem__)
        whole, first = (
            alternate(
                functools.partial(ours, temperature, n),
                functools.partial(theirs[cache], temperature, n),
                arguments.repeats,
            )
            for n in (count, 1)
        )
        report(
            "C5",
            f"{name} generation of {samples} responses, prompt included",
            f"torch generate ({cache} cache)",
            whole.ratio,
            1.5,
            decode_only_ratio=round(decode_only(whole, first), 3),
            tokens_per_second=round(samples * count / whole.ours, 1),
            torch_tokens_per_second=round(samples * count / whole.theirs, 1),
            spread=whole.spread,
            equal_greedy_tokens=equal,
            shape={
                "width": cfg.hidden_size,
                "layers": cfg.num_hidden_layers,
                "vocabulary": cfg.vocab_size,
                "prompt": arguments.prompt,
                "tokens": count,
                "samples": samples,
            },
            threads=arguments.threads,
            versions={"jax": jax.__version__, "torch": torch.__version__},
        )


if __name__ == "__main__":
    main()
