"""The one table between our parameters and the tensors of every published layout, both ways.

Each row says which tensor fills which part of which parameter, as a reshape followed by a
transpose: never arithmetic, so a value keeps its bits in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import (
    FAST_DEPTH_A,
    FUSION_RATIO,
    FUSION_WINDOW,
    SLOW_DEPTH_A,
    SlowFastConfig,
)
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.pieces import WHOLE, Piece, Table

LAYOUTS = ("official", "plain", "hf")
"""`official`: VQAThinker's InternVLChat names. `plain`: the same without motion parts, as InternVL3
is published. `hf`: the names of transformers' own classes on disk, without motion parts."""

MOTION_MODULES = ("slowfast", "motion_projector")
"""Our modules that only the official layout has a place for."""

SLOWFAST_PREFIX = "slowfast_model.feature_extraction."
STEM_WINDOWS = {"slow": (1, 7, 7), "fast": (5, 7, 7)}


def make_table(cfg: VQAThinkerConfig, layout: str) -> Table:
    """The table of a layout for an architecture.

    Raises:
      WeightsError: an unknown layout, or one that cannot hold this architecture.
    """
    if layout not in LAYOUTS:
        raise WeightsError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    is_hf = layout == "hf"
    if is_hf and cfg.ps_version != "v2":
        raise WeightsError(
            f"the hf layout has pixel shuffle v2 only, this model is {cfg.ps_version}"
        )
    width = cfg.decoder.hidden_size
    vision_width = cfg.vision.hidden_size * cfg.shuffle_factor**2
    pieces = [*(_vision_hf(cfg.vision) if is_hf else _vision_official(cfg.vision))]
    names = ("layer_norm", "linear_1", "linear_2") if is_hf else ("0", "1", "3")
    prefix = "multi_modal_projector." if is_hf else "mlp1."
    pieces += _projector("projector", prefix, names, vision_width, width)
    pieces += _decoder(cfg.decoder)
    counters: tuple[str, ...] = ()
    if layout == "official":
        feature = cfg.slowfast.feature_size
        pieces += _projector("motion_projector", "motion_mlp.", names, feature, width)
        motion = slowfast_table(cfg.slowfast, SLOWFAST_PREFIX)
        pieces += motion.pieces
        counters = motion.counters
    return Table(tuple(pieces), counters)


def _linear(
    path: str,
    name: str,
    ins: Sequence[int],
    outs: Sequence[int],
    *,
    bias: bool,
    region: tuple[int | slice, ...] = (),
    kernel_region: tuple[int | slice, ...] | None = None,
) -> Iterator[Piece]:
    """torch `weight` [out, in], `bias` [out]; our `kernel` [*ins, *outs], `bias` [*outs]."""
    num_out, num_in = len(outs), len(ins)
    order = (*range(num_out, num_out + num_in), *range(num_out))
    yield Piece(
        f"{name}.weight",
        (math.prod(outs), math.prod(ins)),
        (*outs, *ins),
        order,
        f"{path}.kernel",
        region if kernel_region is None else kernel_region,
    )
    if bias:
        yield _copy(f"{path}.bias", f"{name}.bias", outs, region, (math.prod(outs),))


def _copy(
    path: str,
    name: str,
    split: Sequence[int],
    region: tuple[int | slice, ...] = (),
    shape: Sequence[int] | None = None,
) -> Piece:
    """A tensor whose values keep their order."""
    split = tuple(split)
    shape = split if shape is None else tuple(shape)
    return Piece(name, shape, split, tuple(range(len(split))), path, region)


def _norm(path: str, name: str, dim: int, bias: bool, region: tuple = ()) -> Iterator[Piece]:
    yield _copy(f"{path}.scale", f"{name}.weight", (dim,), region)
    if bias:
        yield _copy(f"{path}.bias", f"{name}.bias", (dim,), region)


def _embeddings(cfg: InternViTConfig, names: Mapping[str, str]) -> Iterator[Piece]:
    dim, patch = cfg.hidden_size, cfg.patch_size
    positions = 1 + (cfg.image_size // patch) ** 2
    yield _copy("vision.class_embedding", names["class"], (dim,), shape=(1, 1, dim))
    yield _copy(
        "vision.position_embedding", names["position"], (positions, dim), shape=(1, positions, dim)
    )
    weight = (dim, 3, patch, patch)
    kernel = "vision.patch_embedding.kernel"
    yield Piece(f"{names['patch']}.weight", weight, weight, (2, 3, 1, 0), kernel)
    yield _copy("vision.patch_embedding.bias", f"{names['patch']}.bias", (dim,))


def _vision_layer(
    cfg: InternViTConfig, layer: int, prefix: str, names: Mapping[str, str]
) -> Iterator[Piece]:
    """What the two layouts of a ViT layer have in common: all but q, k, v."""
    dim, heads = cfg.hidden_size, cfg.num_attention_heads
    at, path = (layer,), "vision.layers"
    has_bias = cfg.norm_type == "layer_norm"
    for ours in ("norm1", "norm2"):
        yield from _norm(f"{path}.{ours}", prefix + names[ours], dim, has_bias, at)
    if cfg.qk_normalization:
        for ours in ("q_norm", "k_norm"):
            yield from _norm(f"{path}.attn.{ours}", prefix + names[ours], dim, False, at)
    split = (heads, dim // heads)
    name = prefix + names["proj"]
    yield from _linear(f"{path}.attn.proj", name, split, (dim,), bias=True, region=at)
    inner = (cfg.intermediate_size,)
    yield from _linear(f"{path}.mlp.fc1", f"{prefix}mlp.fc1", (dim,), inner, bias=True, region=at)
    yield from _linear(f"{path}.mlp.fc2", f"{prefix}mlp.fc2", inner, (dim,), bias=True, region=at)
    for ours in ("ls1", "ls2"):
        yield _copy(f"{path}.{ours}", prefix + names[ours], (dim,), at)


def _vision_official(cfg: InternViTConfig) -> Iterator[Piece]:
    root = "vision_model."
    yield from _embeddings(
        cfg,
        {
            "class": f"{root}embeddings.class_embedding",
            "position": f"{root}embeddings.position_embedding",
            "patch": f"{root}embeddings.patch_embedding",
        },
    )
    names = {name: name for name in ("norm1", "norm2", "ls1", "ls2")}
    names |= {"q_norm": "attn.q_norm", "k_norm": "attn.k_norm", "proj": "attn.proj"}
    dim, heads = cfg.hidden_size, cfg.num_attention_heads
    outs = (3, heads, dim // heads)
    for layer in range(cfg.num_hidden_layers):
        prefix = f"{root}encoder.layers.{layer}."
        name = f"{prefix}attn.qkv"
        yield from _linear(
            "vision.layers.attn.qkv", name, (dim,), outs, bias=cfg.qkv_bias, region=(layer,)
        )
        yield from _vision_layer(cfg, layer, prefix, names)


def _vision_hf(cfg: InternViTConfig) -> Iterator[Piece]:
    root = "vision_tower."
    yield from _embeddings(
        cfg,
        {
            "class": f"{root}embeddings.cls_token",
            "position": f"{root}embeddings.position_embeddings",
            "patch": f"{root}embeddings.patch_embeddings.projection",
        },
    )
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    names |= {"ls1": "lambda_1", "ls2": "lambda_2", "proj": "attention.projection_layer"}
    names |= {"q_norm": "attention.q_norm", "k_norm": "attention.k_norm"}
    dim, heads = cfg.hidden_size, cfg.num_attention_heads
    for layer in range(cfg.num_hidden_layers):
        prefix = f"{root}encoder.layer.{layer}."
        for index, part in enumerate("qkv"):
            yield from _linear(
                "vision.layers.attn.qkv",
                f"{prefix}attention.{part}_proj",
                (dim,),
                (heads, dim // heads),
                bias=cfg.qkv_bias,
                region=(layer, index),
                kernel_region=(layer, WHOLE, index),
            )
        yield from _vision_layer(cfg, layer, prefix, names)


def _projector(
    path: str, prefix: str, names: Sequence[str], dim: int, width: int
) -> Iterator[Piece]:
    norm, first, second = (prefix + name for name in names)
    yield from _norm(f"{path}.norm", norm, dim, bias=True)
    yield from _linear(f"{path}.fc1", first, (dim,), (width,), bias=True)
    yield from _linear(f"{path}.fc2", second, (width,), (width,), bias=True)


def _decoder(cfg: Qwen2Config) -> Iterator[Piece]:
    root, path = "language_model.model.", "decoder.layers"
    dim, inner, vocab = cfg.hidden_size, cfg.intermediate_size, cfg.vocab_size
    queries, keys = (cfg.num_attention_heads, cfg.head_dim), (cfg.num_key_value_heads, cfg.head_dim)
    real = slice(0, vocab)
    yield _copy("decoder.embed.embedding", f"{root}embed_tokens.weight", (vocab, dim), (real,))
    for layer in range(cfg.num_hidden_layers):
        prefix, at = f"{root}layers.{layer}.", (layer,)
        attn, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
        for ours, theirs in (
            ("input_norm", "input_layernorm"),
            ("post_attention_norm", "post_attention_layernorm"),
        ):
            yield from _norm(f"{path}.{ours}", prefix + theirs, dim, False, at)
        for part, outs in (("q", queries), ("k", keys), ("v", keys)):
            name = f"{attn}{part}_proj"
            yield from _linear(f"{path}.attn.{part}", name, (dim,), outs, bias=True, region=at)
        name = f"{attn}o_proj"
        yield from _linear(f"{path}.attn.o", name, queries, (dim,), bias=False, region=at)
        for part, ins, outs in (("gate", dim, inner), ("up", dim, inner), ("down", inner, dim)):
            name = f"{mlp}{part}_proj"
            yield from _linear(f"{path}.mlp.{part}", name, (ins,), (outs,), bias=False, region=at)
    yield from _norm("decoder.norm", f"{root}norm", dim, bias=False)
    if not cfg.tie_word_embeddings:
        yield from _linear(
            "decoder.lm_head",
            "language_model.lm_head",
            (dim,),
            (vocab,),
            bias=False,
            region=(WHOLE, real),
        )


def slowfast_table(cfg: SlowFastConfig, prefix: str) -> Table:
    """The motion encoder's rows; `prefix` precedes the block number in a tensor's name."""
    pieces: list[Piece] = []
    counters: list[str] = []

    def conv(path: str, name: str, window: tuple[int, int, int], ins: int, outs: int) -> None:
        shape = (outs, ins, *window)
        kernel = f"slowfast.{path}.kernel"
        pieces.append(Piece(f"{prefix}{name}.weight", shape, shape, (2, 3, 4, 1, 0), kernel))

    def norm(path: str, name: str, dim: int) -> None:
        for ours, theirs in (
            ("scale", "weight"),
            ("bias", "bias"),
            ("mean", "running_mean"),
            ("var", "running_var"),
        ):
            pieces.append(_copy(f"slowfast.{path}.{ours}", f"{prefix}{name}.{theirs}", (dim,)))
        counters.append(f"{prefix}{name}.num_batches_tracked")

    widths = {"slow": cfg.stem_width, "fast": cfg.stem_width // cfg.fast_ratio}
    for number, (pathway, window) in enumerate(STEM_WINDOWS.items()):
        path, name = f"stem.{pathway}", f"0.multipathway_blocks.{number}"
        conv(f"{path}.conv", f"{name}.conv", window, 3, widths[pathway])
        norm(f"{path}.norm", f"{name}.norm", widths[pathway])
    for stage, num_blocks in enumerate(cfg.depths):
        lateral = FUSION_RATIO * widths["fast"]
        path, name = f"fusions.{stage}", f"{stage}.multipathway_fusion"
        conv(
            f"{path}.conv",
            f"{name}.conv_fast_to_slow",
            (FUSION_WINDOW, 1, 1),
            widths["fast"],
            lateral,
        )
        norm(f"{path}.norm", f"{name}.norm", lateral)
        slow_out = cfg.stem_width * 4 * 2**stage
        for number, (pathway, ins, outs, depth) in enumerate(
            (
                ("slow", widths["slow"] + lateral, slow_out, SLOW_DEPTH_A[stage]),
                ("fast", widths["fast"], slow_out // cfg.fast_ratio, FAST_DEPTH_A[stage]),
            )
        ):
            inner = outs // 4
            for block in range(num_blocks):
                path = f"stages.{stage}.{pathway}.blocks.{block}"
                name = f"{stage + 1}.multipathway_blocks.{number}.res_blocks.{block}"
                if block == 0:
                    conv(f"{path}.branch1_conv", f"{name}.branch1_conv", (1, 1, 1), ins, outs)
                    norm(f"{path}.branch1_norm", f"{name}.branch1_norm", outs)
                for part, window, first, last in (
                    ("a", (depth, 1, 1), outs if block else ins, inner),
                    ("b", (1, 3, 3), inner, inner),
                    ("c", (1, 1, 1), inner, outs),
                ):
                    conv(f"{path}.conv_{part}", f"{name}.branch2.conv_{part}", window, first, last)
                    norm(f"{path}.norm_{part}", f"{name}.branch2.norm_{part}", last)
        widths = {"slow": slow_out, "fast": slow_out // cfg.fast_ratio}
    return Table(tuple(pieces), tuple(counters))


def disk_name(name: str) -> str:
    """The on-disk name of a tensor that may carry transformers' in-memory name."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    if name.startswith("model.language_model."):
        return "language_model.model." + name.removeprefix("model.language_model.")
    if name.startswith(("model.vision_tower.", "model.multi_modal_projector.")):
        return name.removeprefix("model.")
    return name
