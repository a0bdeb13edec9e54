"""Groups of K responses forwards and backwards in torch: K whole rows, as published."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from jaxtyping import Float

from benchmarks.groups import Group


class TorchGradients:
    """Loss and gradients of a group with transformers' Qwen2, eager mode.

    The loss and what is differentiated are those of `groups.Gradients`.

    Args:
      model: its parameters.
      group: the inputs.
      all_logits: compute the logits of every position, prompts included, and throw those of the
        prompts away, as the published trainer does; else only the rows that are needed.
    """

    def __init__(self, model: transformers.Qwen2ForCausalLM, group: Group, all_logits: bool):
        self._model = model
        self._prompts = torch.from_numpy(group.prompts).requires_grad_()
        self._responses = torch.from_numpy(group.responses).long()
        self._weights = torch.from_numpy(group.weights)
        self._kept = 0 if all_logits else self._responses.shape[-1] + 1

    def __call__(self) -> tuple[float, Float[np.ndarray, "N P D"]]:
        """The loss and the prompts' gradient."""
        self._model.zero_grad(set_to_none=True)
        self._prompts.grad = None
        k, c = self._responses.shape[1:]
        tokens = self._responses.flatten(0, 1)
        embeds = torch.cat(
            [self._prompts.repeat_interleave(k, 0), self._model.get_input_embeddings()(tokens)], 1
        )
        out = self._model(inputs_embeds=embeds, logits_to_keep=self._kept, use_cache=False)
        logits = out.logits[:, -c - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        loss = -(self._weights.flatten()[:, None] * logprobs).mean()
        loss.backward()
        return loss.item(), self._prompts.grad.numpy()
