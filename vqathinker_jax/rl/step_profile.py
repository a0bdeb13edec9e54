"""A trace of one step of a run: what the devices and the host did, and when."""

from __future__ import annotations

from pathlib import Path

import jax

from vqathinker_jax.rl.run_state import TrainingError


class StepProfile:
    """Traces one step with JAX's profiler; saving and validating are not part of it.

    Args:
      folder: of the trace, for TensorBoard's profile plugin, XProf or Perfetto.
      step: which one to trace; None: none.
    """

    def __init__(self, folder: Path, step: int | None):
        self.folder = folder
        self._step = step
        self._is_on = False

    def require_reachable(self, done: int, num_steps: int) -> None:
        """Checks that the step will run.

        Raises:
          TrainingError: it is done already, or the run ends before it.
        """
        if self._step is not None and not done < self._step <= num_steps:
            if done >= num_steps:
                reason = f"all {num_steps} steps of this run are done"
            else:
                reason = f"this run goes from step {done + 1} to step {num_steps}"
            raise TrainingError(f"--profile {self._step}: {reason}")

    def start(self, step: int) -> None:
        """Begins the trace where `step` is the one to trace."""
        if step == self._step:
            jax.profiler.start_trace(self.folder)
            self._is_on = True

    def stop(self) -> bool:
        """Ends the trace, if one is on, and writes it; gives whether there was one."""
        was_on = self._is_on
        if was_on:
            self._is_on = False
            jax.profiler.stop_trace()
        return was_on
