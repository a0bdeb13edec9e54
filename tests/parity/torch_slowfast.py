"""The published motion encoder in torch, built from pytorchvideo with random weights."""

from __future__ import annotations

import importlib
import sys
import types
from unittest import mock

import jax.numpy as jnp
import torch
from flax import nnx

from vqathinker_jax.models.slowfast import SlowFast, SlowFastConfig


def _import_pytorchvideo() -> types.ModuleType:
    """pytorchvideo's slowfast module; the RoIAlign it imports and never runs here is a stub."""
    stubs = {"torchvision": types.ModuleType("torchvision")}
    stubs["torchvision.ops"] = types.ModuleType("torchvision.ops")
    stubs["torchvision.ops"].RoIAlign = torch.nn.Identity
    missing = {name: stub for name, stub in stubs.items() if name not in sys.modules}
    sys.modules.update(missing)
    try:
        return importlib.import_module("pytorchvideo.models.slowfast")
    finally:
        for name in missing:  # others ask whether torchvision is there: it is not
            del sys.modules[name]


class TorchSlowFast(torch.nn.Module):
    """Blocks 0 to 4 of pytorchvideo's network under the published parameter names, and its head."""

    def __init__(self, cfg: SlowFastConfig):
        super().__init__()
        slowfast = _import_pytorchvideo()
        with mock.patch.dict(slowfast._MODEL_STAGE_DEPTH, {50: cfg.depths}):
            blocks = slowfast.create_slowfast(
                model_depth=50,
                slowfast_channel_reduction_ratio=(cfg.fast_ratio,),
                stem_dim_outs=(cfg.stem_width, cfg.stem_width // cfg.fast_ratio),
                head_pool_kernel_sizes=(cfg.slow_pool, cfg.fast_pool),
            ).blocks
        self.feature_extraction = torch.nn.Sequential(*blocks[:5])
        self.pools = [blocks[5].pool[0], blocks[5].pool[1]]

    def forward(self, frames: torch.Tensor, slow_divisor: int, motion_repeat: int) -> torch.Tensor:
        """frames [N, 3, F, S, S] -> [N, feature_size]."""
        num_frames = frames.shape[2]
        index = torch.linspace(0, num_frames - 1, num_frames // slow_divisor).long()
        with torch.no_grad():
            maps = self.feature_extraction([frames[:, :, index], frames])
            pooled = [
                pool(x.repeat_interleave(motion_repeat, dim=2)).mean(dim=(2, 3, 4))
                for pool, x in zip(self.pools, maps, strict=True)
            ]
        return torch.cat(pooled, dim=1)


def build_torch_slowfast(cfg: SlowFastConfig, seed: int) -> TorchSlowFast:
    """A reference in eval mode with random weights and non-trivial BatchNorm statistics.

    `state_dict()` has the published names without their `slowfast_model.` prefix.
    """
    generator = torch.Generator().manual_seed(seed)
    model = TorchSlowFast(cfg).eval()

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv3d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, (2 / fan_in) ** 0.5, generator=generator)
            elif isinstance(module, torch.nn.BatchNorm3d):
                uniform(module.weight, 0.4, 0.9)
                uniform(module.bias, -0.3, 0.3)
                uniform(module.running_mean, -0.4, 0.4)
                uniform(module.running_var, 0.6, 1.8)
                module.num_batches_tracked.fill_(2**40 + seed)
    return model


def copy_weights(source: TorchSlowFast, target: SlowFast) -> None:
    """Copies every parameter of the torch reference into ours; every parameter must be met once."""
    left = {nnx_path: variable for nnx_path, variable in nnx.to_flat_state(nnx.state(target))}
    for name, tensor in source.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        value = tensor.numpy()
        variable = left.pop(_our_path(name))
        if value.ndim == 5:
            value = value.transpose(2, 3, 4, 1, 0)
        assert variable.get_value().shape == value.shape, name
        variable.set_value(jnp.asarray(value, variable.get_value().dtype))
    assert not left, f"not filled: {sorted(map(str, left))}"


def _our_path(name: str) -> tuple[str | int, ...]:
    """`feature_extraction.2.multipathway_blocks.0.res_blocks.3.branch2.conv_a.weight` and so on."""
    parts = name.split(".")
    block, layer, leaf = int(parts[1]), parts[-2], parts[-1]
    is_conv = "conv" in layer
    leaf = "kernel" if is_conv else _BATCH_NORM_LEAVES[leaf]
    if parts[2] == "multipathway_fusion":
        return "fusions", block, "conv" if is_conv else "norm", leaf
    pathway = ("slow", "fast")[int(parts[3])]
    if block == 0:
        return "stem", pathway, layer, leaf
    return "stages", block - 1, pathway, "blocks", int(parts[5]), layer, leaf


_BATCH_NORM_LEAVES = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
}
