"""AdamW: its settings, its state on a mesh, and one step along a gradient."""

from __future__ import annotations

import dataclasses
import math

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from vqathinker_jax.parallel import constrain_tree, tree_shardings
from vqathinker_jax.rl.rounded_adam import scale_by_rounded_adam

MOMENT_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Raises:
      ValueError: a value outside its range.
    """

    learning_rate: float = 1e-6
    """The peak."""
    final_learning_rate: float = 0.0
    warmup_steps: int = 0
    total_steps: int | None = None
    """Updates over which the rate decays to its final value; None: not known before the data is
    read (`TrainConfig.optimizer_for` fills it in), and without it there is no schedule."""
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    moment_dtype: str = "float32"
    """In which both of Adam's moments are stored: `float32`, or `bfloat16`, rounded at random
    (`rl/rounded_adam.py`), which saves 4 bytes a parameter."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise ValueError("learning_rate and max_grad_norm must be positive")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("final_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )
        if self.moment_dtype not in MOMENT_DTYPES:
            raise ValueError(
                f"moment_dtype must be one of {MOMENT_DTYPES}, got {self.moment_dtype!r}"
            )
        total = max(self.warmup_steps, 1) if self.total_steps is None else self.total_steps
        if not 0 <= self.warmup_steps <= total or total < 1:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} must lie in [0, total_steps={self.total_steps}]"
            )

    def schedule(self) -> optax.Schedule:
        """The learning rate of every update; raises ValueError where `total_steps` is None."""
        if self.total_steps is None:
            raise ValueError("total_steps is not set, so there is no schedule")
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if self.warmup_steps else self.learning_rate,
            peak_value=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_steps=max(self.total_steps, self.warmup_steps + 1),
            end_value=self.final_learning_rate,
        )

    def make(self, seed: int = 0) -> optax.GradientTransformation:
        """The optimizer.

        Args:
          seed: root of the random rounding of bfloat16 moments. Its stream is in the state, so it
            counts for `init` alone.
        """
        clip = optax.clip_by_global_norm(self.max_grad_norm)
        if self.moment_dtype == "float32":
            adamw = optax.adamw(self.schedule(), self.b1, self.b2, weight_decay=self.weight_decay)
            return optax.chain(clip, adamw)
        return optax.chain(
            clip,
            scale_by_rounded_adam(self.b1, self.b2, seed),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.schedule()),
        )

    def initial_state(self, trained: nnx.State, mesh: Mesh, seed: int) -> optax.OptState:
        """The state before the first update, born in the layout of the parameters."""
        init = self.make(seed).init
        shardings = tree_shardings(jax.eval_shape(init, trained), mesh)
        return jax.jit(init, out_shardings=shardings)(trained)


def apply_gradients(
    trained: nnx.State, opt_state: optax.OptState, grads: nnx.State, optimizer: OptimizerConfig
) -> tuple[nnx.State, optax.OptState]:
    """The parameters and optimizer state after one step along float32 gradients."""
    # optax's Adam mixes dtypes, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.make().update(grads, opt_state, trained)
        trained = jax.tree.map(lambda p, u: p + u.astype(p.dtype), trained, updates)
    return constrain_tree(trained), constrain_tree(opt_state)
