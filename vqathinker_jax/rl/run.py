"""A run: its folder, its model and data, and the steps that GRPO and SFT share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int64, Key, UInt8

from vqathinker_jax.config import TrainConfig
from vqathinker_jax.data.dataset import (
    StreamState,
    VideoBatch,
    VideoStream,
    labels_checksum,
    prefetch_to_device,
    require_readable,
)
from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.layouts import rollout_mesh
from vqathinker_jax.parallel import gather_rows, make_mesh, place_rows, row_readers
from vqathinker_jax.processes import first_does, first_says, require_agreement
from vqathinker_jax.rl.attempts import attempt_row, count
from vqathinker_jax.rl.compilations import num_compiled
from vqathinker_jax.rl.export import export, export_adapter
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.run_folder import BAD_BATCH, check_room, prepare_folder
from vqathinker_jax.rl.run_log import Clock, ProgressLine, RunLogs, parameter_table
from vqathinker_jax.rl.run_state import (
    RunCheckpoints,
    RunPosition,
    TrainingError,
    TrainState,
    given_up,
    num_bytes,
)
from vqathinker_jax.rl.signals import stopping_on_signals
from vqathinker_jax.rl.stages import stream_keys
from vqathinker_jax.rl.start import Start, load_start, make_sampler
from vqathinker_jax.rl.step_profile import StepProfile
from vqathinker_jax.rl.update import Static
from vqathinker_jax.rl.validation import merit, shown, validate


@dataclasses.dataclass(frozen=True)
class Step:
    """The data of one step; host arrays are global and the same on every process.

    The order is that of the rows on the devices: what `parallel.RowReaders` 0, 1, ... bring, one
    after the other. So it is on one process too, and texts and rewards keep it.
    """

    number: int
    """Counted from 1."""
    frames: UInt8[Array, "N I S S 3"]
    """On the devices."""
    indices: Int64[np.ndarray, "N"]
    """Places of the videos in the labels."""
    videos: tuple[LabelledVideo, ...]
    gt: Float32[np.ndarray, "N"]
    stream: StreamState
    clock: Clock


class Run:
    """Everything of a run that its loop works with; made by `open_run`."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        start: Start,
        videos: tuple[LabelledVideo, ...],
        validation: tuple[LabelledVideo, ...],
        mesh: Mesh,
        checkpoints: RunCheckpoints,
        profile: StepProfile,
        is_quiet: bool,
    ):
        self.config = config
        self.folder = folder
        self.start = start
        self.videos = videos
        self.validation = validation
        self.mesh = mesh
        self.rollout_mesh = rollout_mesh(mesh, config.mesh.rollout_tensor)
        self.readers = row_readers(mesh)
        self.checkpoints = checkpoints
        self.profile = profile
        self.model: LoadedModel = start.model
        self.optimizer: OptimizerConfig = config.optimizer_for(len(videos))
        self.schedule = self.optimizer.schedule()
        self.num_steps = config.run.num_steps(len(videos))
        self.static = Static(
            graphdef=start.model.graphdef,
            video=config.video,
            context_id=start.model.context_id,
            objective=config.objective,
            micro_batch=config.run.micro_batch,
            max_completion_length=config.rollout.max_completion_length,
        )
        opt_state = self.optimizer.initial_state(start.trained, mesh, config.run.seed)
        self.state = TrainState(start.trained, opt_state)
        self.position = RunPosition(start=start.model.fingerprint)
        self.is_stopping = False
        self._is_saved = False
        self._has_advanced = False
        self._is_writer = jax.process_index() == 0
        self.progress = ProgressLine(self.num_steps, is_quiet or not self._is_writer)
        self._resume()
        self._logs = RunLogs(folder, self.position.step, self._is_writer, config.run.tensorboard)
        self._num_shapes = len(self.position.buckets)
        self._num_compiled = num_compiled()

    # -- data --------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """The steps still to do, until they are done or the run is asked to stop."""
        config = self.config
        readers = self.readers
        stream = VideoStream(
            self.videos,
            config.run.videos_per_step // readers.count,
            config.video,
            config.data,
            seed=config.run.seed,
            process_index=readers.mine,
            process_count=readers.count,
        )

        def put(batch: VideoBatch) -> Array:
            return place_rows(batch.frames, self.mesh, readers)

        with stream:
            stream.restore(self.position.stream)
            if self.position.step >= self.num_steps:
                return
            self._logs.attempts.write(self._attempt())
            with contextlib.closing(prefetch_to_device(stream, put)) as batches:
                while self.position.step < self.num_steps and not self.must_stop():
                    waited = time.perf_counter()
                    batch, frames = next(batches)
                    waited = time.perf_counter() - waited
                    if not self._has_advanced:
                        self.progress.status("compiling: the first step takes far longer")
                    self.profile.start(self.position.step + 1)
                    yield self._step(batch, frames, waited)

    def _attempt(self) -> dict[str, Any]:
        return attempt_row(
            self.position.step,
            self.num_steps,
            self.model,
            self.state.trained,
            self.start.frozen,
            (len(self.videos), len(self.validation)),
            self.mesh,
        )

    def _step(self, batch: VideoBatch, frames: Array, waited: float) -> Step:
        stream, indices = self._joined(batch)
        videos = tuple(self.videos[index] for index in indices)
        return Step(
            number=self.position.step + 1,
            frames=frames,
            indices=indices,
            videos=videos,
            gt=np.array([video.score for video in videos], np.float32),
            stream=stream,
            clock=Clock(waited),
        )

    def _joined(self, batch: VideoBatch) -> tuple[StreamState, Int64[np.ndarray, "N"]]:
        """The position after the batches of all processes, and the videos of the global batch.

        Raises:
          TrainingError: processes that bring the same rows do not read the same.
          UnreadableVideosError: all of them together, too many clips are unreadable.
        """
        skipped = batch.state.skipped[self.readers.mine]
        table = gather_rows(np.array([skipped, *batch.indices], np.int32))
        try:
            parts = self.readers.parts(table)
        except ValueError as error:
            raise TrainingError(f"{error}: a clip can be read by one of them only") from None
        stream = batch.state.with_skipped(parts[:, 0].tolist())
        require_readable(stream, 0, self.config.data.max_unreadable)
        return stream, parts[:, 1:].reshape(-1).astype(np.int64)

    def keys(self, purpose: int, step: Step) -> Key[Array, "N"]:
        """One key per video of a step for one purpose."""
        return stream_keys(self.config.run.seed, purpose, step.number, step.indices)

    def sampler(self) -> tuple[nnx.GraphDef, nnx.State]:
        """The present model in the layout of rollouts."""
        trained = self.state.trained
        return make_sampler(self.start, trained, self.rollout_mesh, self.model.dtype)

    def learning_rate(self, step: int) -> float:
        """Of the first update of a step."""
        return float(self.schedule((step - 1) * self.config.run.updates_per_rollout))

    # -- after the update --------------------------------------------------------------------------

    def require_finite(self, step: Step, row: dict[str, Any], texts: list[list[str]]) -> None:
        """Stops the run where the loss or its gradient is no number.

        Raises:
          TrainingError: after the batch was written to RUN/bad_batch.json.
        """
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(row[name])]
        if not bad:
            return
        path = self.folder / BAD_BATCH
        if self._is_writer:
            batch = {
                "step": step.number,
                **{name: repr(row[name]) for name in bad},
                "videos": [
                    {"id": video.id, "path": video.path, "score": video.score, "responses": group}
                    for video, group in zip(step.videos, texts, strict=True)
                ],
            }
            path.write_text(json.dumps(batch, indent=1, ensure_ascii=False) + "\n", "utf-8")
        raise TrainingError(
            f"step {step.number}: {' and '.join(bad)} is not finite; its videos and texts are in "
            f"{path}, the last checkpoint is that of step {self.checkpoints.latest_step() or 0}"
        )

    def advance(self, step: Step, bucket: tuple[int, int], is_unparseable: bool = False) -> None:
        """Counts a step as done."""
        if self.profile.stop():
            self.progress.say(f"{self.profile.folder}: the profile of step {step.number}")
        seen = self.position.buckets
        self.position = dataclasses.replace(
            self.position,
            step=step.number,
            stream=step.stream,
            buckets=seen if bucket in seen else (*seen, bucket),
            unparseable_batches=self.position.unparseable_batches + is_unparseable,
        )
        self._is_saved = False
        self._has_advanced = True

    def log(self, step: Step, row: dict[str, Any], num_tokens: int, shown: tuple[str, ...]) -> None:
        """Writes the row of a step, with what every kind of run knows, and shows some of it."""
        seen = step.number * self.config.run.videos_per_step
        compiled, num_shapes = num_compiled(), len(self.position.buckets)
        self._logs.write_step(
            {
                "step": step.number,
                "epoch": round(seen / len(self.videos), 4),
                **row,
                "learning_rate": self.learning_rate(step.number),
                "unreadable": step.stream.unreadable,
                "recompiles": compiled - self._num_compiled,
                "shapes": num_shapes,
                **step.clock.row(num_tokens),
            }
        )
        self.progress.show(
            step.number, {name: row[name] for name in shown}, num_shapes > self._num_shapes
        )
        self._num_compiled, self._num_shapes = compiled, num_shapes

    def log_rollouts(self, rows: list[dict[str, Any]]) -> None:
        """Writes responses in full."""
        for row in rows:
            self._logs.rollouts.write(row)

    def save_and_validate(self) -> None:
        """Saves and validates where the present step is one to do so."""
        step, run = self.position.step, self.config.run
        is_validated = run.validate_every > 0 and (
            step % run.validate_every == 0 or step == self.num_steps
        )
        value = self._validate() if is_validated else None
        if is_validated or step % run.checkpoint_every == 0 or step == self.num_steps:
            self.save(value)

    def save(self, value: float | None = None) -> None:
        """Starts writing a checkpoint, unless the present step has one."""
        if not self._is_saved and self.position.step > 0:
            self.checkpoints.save(self.state, self.position, value)
            self._is_saved = True

    def _validate(self) -> float:
        """Writes the row of a validation; gives its merit, NaN where there is none."""
        self.progress.status(f"validating with {len(self.validation)} videos")
        with jax.set_mesh(self.rollout_mesh):
            state = self.sampler()[1]
            model = dataclasses.replace(self.model, state=state, mesh=self.rollout_mesh)
            row = validate(model, self.validation, self.config)
        self._logs.write_validation({"step": self.position.step, **row})
        words = f", words F1 {shown(row['words_f1'])}" if "words_f1" in row else ""
        self.progress.say(
            f"validation at step {self.position.step}: SRCC {shown(row['srcc'])}, PLCC "
            f"{shown(row['plcc'])}{words}, {row['parse_rate']:.0%} of {row['videos']} with a score"
        )
        return merit(row, self.config)

    # -- start and end -----------------------------------------------------------------------------

    def _resume(self) -> None:
        latest = self.checkpoints.latest_step()
        if latest is None:
            return
        self.state, position = self.checkpoints.restore(given_up(self.state), latest)
        if position.start != self.position.start:
            raise TrainingError(
                f"{self.folder}: was started from another model than what {self.model.name} holds "
                f"now (fingerprint {position.start}, now {self.position.start})"
            )
        self.position = position
        self._is_saved = True
        if position.step < self.num_steps:
            self.progress.say(f"resuming after step {position.step} of {self.num_steps}")

    def finish(self) -> bool:
        """Saves; once all steps are done, writes the model to RUN/model: the best, or the last.

        Adapters are written to RUN/adapter too, before they are merged into that model.

        Returns:
          Whether all steps are done.
        """
        self.save()
        self.checkpoints.wait()
        step = self.position.step
        if step < self.num_steps:
            self.progress.say(f"stopped after step {step}; the same command goes on from there")
            return False
        target = self.folder / "model"
        if not self._has_advanced and first_says(target.exists, f"looking for {target}"):
            self.progress.say(f"finished before: {target} holds its model")
            return True
        best = self.checkpoints.best_step() if self.config.run.export == "best" else None
        trained, which = self.state.trained, f"step {step}"
        if best is not None and best != step:
            trained = self.checkpoints.restore(given_up(self.state), best)[0].trained
            which = f"step {best}, the best of the validations"
        adapter = self.folder / "adapter"
        for old in (target, adapter):
            first_does(
                lambda old=old: shutil.rmtree(old, ignore_errors=True), f"clearing {old}", ()
            )
        if self.config.model.lora is not None:
            export_adapter(self.start, trained, self.config, adapter)
            self.progress.say(f"{adapter}: the adapters of {which}")
        export(self.start, trained, self.config, target)
        self.progress.say(f"{target}: the model of {which}")
        return True

    def close(self) -> None:
        """Ends the writing."""
        self.profile.stop()
        self._logs.close()

    def stop(self, said: str) -> None:
        """Asks the run to stop after its present step; may come from a signal."""
        self.is_stopping = True
        self.progress.say_at_once(said)

    def must_stop(self) -> bool:
        """Whether a process was asked to stop; all are told alike, and call this together."""
        return bool(gather_rows(np.array([self.is_stopping], np.int32)).any())


@contextlib.contextmanager
def open_run(
    config: TrainConfig, folder: Path, is_quiet: bool = False, profile_step: int | None = None
) -> Iterator[Run]:
    """Opens a run folder, new or begun, and loads what the run needs.

    On leaving, SIGTERM and SIGINT are handled as before. While it is open they ask the run to stop
    after its present step; a second SIGINT interrupts it at once.

    Raises:
      ConfigError: the folder holds a run with other settings; they are named.
      ProcessesError: the processes of the run see other labels, models or folders.
      TrainingError: the folder cannot be written to, or lacks room; the step to profile will not
        run.
      WeightsError, LabelError, OSError: model or labels cannot be read.
    """
    prepare_folder(config, folder)
    mesh = _mesh(config)
    videos = config.data.read_training()
    validation = ()
    if config.run.validate_every:
        validation = config.data.validation.read()[: config.run.validation_videos or None]
    profile = StepProfile(folder / "profile", profile_step)
    checkpoints = RunCheckpoints(folder / "checkpoints", config.run.keep)
    with contextlib.closing(checkpoints):
        num_steps = config.run.num_steps(len(videos))
        profile.require_reachable(checkpoints.latest_step() or 0, num_steps)
        start = load_start(config, mesh, videos, folder)
        require_agreement(
            {
                "the checksum of data.train": f"{labels_checksum(videos):08x}",
                "the checksum of data.validation": f"{labels_checksum(validation):08x}",
                "the fingerprint of the model": start.model.fingerprint,
                "the kind of device": mesh.devices.flat[0].device_kind,
            }
        )
        if not is_quiet and jax.process_index() == 0:
            _print_start(config, start, len(videos), num_steps, mesh)
        with start.model.precision(), jax.set_mesh(mesh):
            run = Run(
                config, folder, start, videos, validation, mesh, checkpoints, profile, is_quiet
            )
            model_bytes = num_bytes((start.trained, start.frozen))
            check_room(folder, num_bytes(run.state), config.run, model_bytes)
            with contextlib.closing(run), stopping_on_signals(run.stop):
                yield run


def _print_start(
    config: TrainConfig, start: Start, num_videos: int, num_steps: int, mesh: Mesh
) -> None:
    what = f"{config.run.mode.upper()} of {start.model.name} (its label: {start.model.kind})"
    used = "" if mesh.size == jax.device_count() else f" of {jax.device_count()}"
    device = f"{mesh.size}{used} x {mesh.devices.flat[0].device_kind}"
    steps = f"{num_steps} steps of {config.run.videos_per_step} videos"
    table = parameter_table(_counts(start.trained), _counts(start.frozen))
    lines = [what, f"{num_videos} training videos, {steps}, {device}", table]
    if config.model.lora is not None:
        lines.insert(1, f"{config.model.lora}; the decoder itself stays as it is")
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _mesh(config: TrainConfig) -> Mesh:
    try:
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        num_readers = row_readers(mesh).count
        row_readers(rollout_mesh(mesh, config.mesh.rollout_tensor))  # validation reads by it
    except ValueError as error:
        raise TrainingError(str(error)) from None
    if config.run.videos_per_step % num_readers:
        raise TrainingError(
            f"run.videos_per_step {config.run.videos_per_step} is not a multiple of the "
            f"{num_readers} processes"
        )
    return mesh


def _counts(state: nnx.State) -> dict[str, int]:
    return {name: count(part) for name, part in state.items()}
