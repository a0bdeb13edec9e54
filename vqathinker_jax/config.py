"""The configuration of a training run: the small configs that live beside their code, composed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vqathinker_jax.data.dataset import DataConfig
from vqathinker_jax.models.attention import WANTED
from vqathinker_jax.models.lora import LoraConfig
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.rl.grpo import AdvantageConfig
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.responses import SftConfig
from vqathinker_jax.rl.rewards import RewardConfig
from vqathinker_jax.rl.rollout import RolloutConfig
from vqathinker_jax.rl.trainable import MOTION, VISION_PARTS
from vqathinker_jax.rl.update import ObjectiveConfig
from vqathinker_jax.spec import TRAINING, VIDEO_SPECS, VideoSpec
from vqathinker_jax.strict_yaml import BEFORE, ConfigError, Settings, flatten, to_yaml

__all__ = [
    "ConfigError",
    "MeshConfig",
    "ModelConfig",
    "RunConfig",
    "Stage",
    "TrainConfig",
    "diff_configs",
    "load_config",
    "load_stages",
    "save_config",
]

MODES = ("grpo", "sft")
DTYPES = ("float32", "bfloat16")
REMATS = ("none", "names", "full")
MEMORIES = ("device", "host")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model a run starts from, in which precision, and what of it trains.

    Raises:
      ValueError: not exactly one start, or an unknown option.
    """

    path: str | None = None
    """Folder or checkpoint to start from."""
    preset: str | None = None
    """Or a name in `PRESETS`: random weights."""
    tokenizer: str | None = None
    """Folder with the tokenizer of a preset; None: a small one, of the words of prompts and
    composed answers. A model at `path` has its own."""
    slowfast: str | None = None
    """`SLOWFAST_8x8_R50.pyth`, for a folder that has no motion encoder."""
    param_dtype: str = "float32"
    """In which the parameters that train are stored."""
    dtype: str = "bfloat16"
    """In which passes are computed."""
    vision: str = "full"
    """What trains besides the decoder: `full` (tower and projectors), `layers` (the same but for
    the patch embedding), `projector`, or `frozen`."""
    motion: str = "frozen"
    """Whether SlowFast trains: `frozen`, or `layers` (all of it but its stems, and only in
    SFT): for a preset, which has no pretrained one."""
    whiten: bool = False
    """Whether a preset starts with filters scaled to the training clips instead of noise: cosines
    in the patch embedding, statistics of the image in the tower's first layers, and whitened
    principal components in SlowFast's stems (`rl/whitening.py`)."""
    lora: LoraConfig | None = None
    """Adapters that train in the decoder's place, which then stays as stored; None: it trains
    itself. What else trains, `vision` says. There is no dropout on adapters."""
    remat: str = "names"
    """What of the forward pass is kept for the backward pass: `none` recomputes nothing."""
    attention: str = "auto"
    """Which kernel computes attention over whole sequences: `xla`, `cudnn` (NVIDIA, half
    precision), `splash` (TPU), or `auto`: that of the devices of the run."""
    reference_memory: str = "device"
    """Where the reference of the KL penalty waits between its passes: `device`, or `host`, which
    frees the devices of 2 bytes (4 where it is float32) a trained parameter and costs a copy a
    step."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.preset is None):
            raise ValueError("give either path or preset, and not both")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {self.preset!r}")
        if self.whiten and self.preset is None:
            raise ValueError("whiten is for a preset: a model at path has its own filters")
        if self.lora is not None and self.motion != "frozen":
            raise ValueError("motion must be frozen with lora: an adapter has no place for it")
        if self.preset is None and self.tokenizer is not None:
            raise ValueError("tokenizer goes with preset: a model at path has its own")
        for name, known in (
            ("param_dtype", DTYPES),
            ("dtype", DTYPES),
            ("vision", tuple(VISION_PARTS)),
            ("motion", MOTION),
            ("remat", REMATS),
            ("attention", WANTED),
            ("reference_memory", MEMORIES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long a run is, in which pieces, and what it writes down.

    Raises:
      ValueError: an unknown mode, or a number out of range.
    """

    mode: str = "grpo"
    """`grpo`, or `sft`."""
    epochs: int = 3
    """Passes over the training videos."""
    steps: int | None = None
    """Steps instead of epochs; None: as many as the epochs have."""
    videos_per_step: int = 16
    """N of the global batch; in GRPO each is answered K times."""
    micro_batch: int = 1
    """Videos of the global batch per forward and backward pass."""
    updates_per_rollout: int = 1
    seed: int = 0
    """Root of every random stream: order of the videos, sampling, perturbations."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step has one in any case."""
    keep: int = 3
    """Latest checkpoints that are kept."""
    validate_every: int = 0
    """Steps between validations; 0: none."""
    validation_videos: int = 0
    """First videos of the validation labels that are scored; 0: all."""
    export: str = "best"
    """Which checkpoint RUN/model is made from: the `best` in validation, where there is one, or the
    `last`, to whose small learning rate the schedule leads."""
    log_rollouts: int = 1
    """Videos per step whose responses are written to the log in full."""
    tensorboard: bool = False
    """Whether the numbers of every step go to RUN/tensorboard too (extra `tensorboard`)."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {self.mode!r}")
        if self.export not in ("best", "last"):
            raise ValueError(f"export must be best or last, got {self.export!r}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        for name, least in (
            ("epochs", 1),
            ("videos_per_step", 1),
            ("micro_batch", 1),
            ("updates_per_rollout", 1),
            ("checkpoint_every", 1),
            ("keep", 1),
            ("validate_every", 0),
            ("validation_videos", 0),
            ("log_rollouts", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        if self.videos_per_step % self.micro_batch:
            raise ValueError(
                f"videos_per_step {self.videos_per_step} is not a multiple of "
                f"micro_batch {self.micro_batch}"
            )

    def num_steps(self, num_videos: int) -> int:
        """Steps of the run over `num_videos` training videos, at least 1."""
        if self.steps is not None:
            return self.steps
        return max(1, self.epochs * num_videos // self.videos_per_step)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; the product of the first three is the number used.

    Raises:
      ValueError: an axis below 1, or rollouts that cannot share the devices evenly.
    """

    data: int = 1
    """Groups of devices, each with all parameters."""
    fsdp: int = 1
    """Devices that parameters are split over, and gathered from layer by layer; they share the
    videos, as those of `data` do."""
    tensor: int = 1
    """Devices that share the arithmetic of one layer; must divide the heads and their groups."""
    rollout_tensor: int | None = None
    """The same in rollouts and validation, where parameters are not split otherwise: all other
    devices share the videos; None: as `tensor`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}")
        if self.size % self.rollout_degree:
            raise ValueError(
                f"rollout_tensor {self.rollout_degree} does not divide the devices, data x fsdp x "
                f"tensor = {self.size}"
            )

    @property
    def size(self) -> int:
        """Devices used."""
        return self.data * self.fsdp * self.tensor

    @property
    def rollout_degree(self) -> int:
        """Devices per copy of the weights in rollouts."""
        return self.tensor if self.rollout_tensor is None else self.rollout_tensor


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run.

    Raises:
      ValueError: settings of different sections that exclude each other.
    """

    model: ModelConfig
    data: DataConfig
    run: RunConfig = RunConfig()
    video: VideoSpec = TRAINING
    """In YAML a name in `VIDEO_SPECS`, or changes to the training geometry."""
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    sft: SftConfig = SftConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        rows = self.mesh.data * self.mesh.fsdp
        if self.run.micro_batch % rows:
            raise ValueError(
                f"run.micro_batch {self.run.micro_batch} is not a multiple of mesh.data x "
                f"mesh.fsdp = {rows}: a group is never split over devices"
            )
        copies = self.mesh.size // self.mesh.rollout_degree
        if self.run.mode == "grpo" and self.run.videos_per_step % copies:
            raise ValueError(
                f"run.videos_per_step {self.run.videos_per_step} is not a multiple of the "
                f"{copies} copies of the weights that rollouts have on {self.mesh.size} devices "
                f"with mesh.rollout_tensor {self.mesh.rollout_degree}"
            )
        if self.run.mode == "grpo" and self.model.motion != "frozen":
            raise ValueError("model.motion must be frozen in GRPO: rewards do not train SlowFast")
        if self.model.motion != "frozen" and not self.video.has_motion:
            raise ValueError("model.motion must be frozen without video.has_motion")
        if self.run.mode == "grpo" and self.rollout.temporal and self.video.burst > 1:
            raise ValueError(
                "rollout.temporal must be false with video.burst above 1: a perturbed clip is made "
                "of encoded frames, and only one of a burst is encoded"
            )
        if self.run.mode == "grpo" and self.rollout.temporal and self.video.num_slices:
            raise ValueError(
                "rollout.temporal must be false with video.num_slices: slices are made while a "
                "clip is decoded and would still show its frames in order"
            )
        if self.run.mode == "grpo" and self.rollout.temporal and self.video.num_frames < 2:
            raise ValueError(
                "rollout.temporal must be false with video.num_frames 1: one frame has no order"
            )
        if self.run.validate_every and self.data.validation is None:
            raise ValueError("run.validate_every is set, but there is no data.validation")
        if self.reward.partners == "one" and self.run.videos_per_step < 2:
            raise ValueError("reward.partners one needs run.videos_per_step of at least 2")

    def optimizer_for(self, num_videos: int) -> OptimizerConfig:
        """The optimizer with the length of the run over `num_videos` videos filled in.

        Raises:
          ConfigError: the warm-up is longer than the run.
        """
        if self.optimizer.total_steps is not None:
            return self.optimizer
        total = self.run.num_steps(num_videos) * self.run.updates_per_rollout
        if self.optimizer.warmup_steps > total:
            raise ConfigError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, and the run makes "
                f"{total} updates: lower it, or raise run.steps"
            )
        return dataclasses.replace(self.optimizer, total_steps=total)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the trainings of a run."""

    config: TrainConfig
    folder: Path
    """Gets what a run writes, `model` last."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a run's configuration.

    >>> cfg = load_config("configs/vqathinker_8b.yaml", ["--run.steps", "10"])  # doctest: +SKIP

    Args:
      path: YAML with one section per field of `TrainConfig`; `extends: other.yaml` starts from
        the settings of another file.
      overrides: `--section.key value` or `--section.key=value`, values as in YAML.

    Raises:
      ConfigError: anything unknown, of the wrong type or impossible; one line that says where,
        which key, what was expected and, for a misspelt name, the nearest right one. Also for two
        stages, which `load_stages` reads.
    """
    settings = _read(path, overrides)
    if settings.stage_before() is not None:
        raise ConfigError(f"{path}: {BEFORE}: this is a file of two stages, and one is asked for")
    return settings.build()


def load_stages(
    path: str | Path, run_dir: Path, overrides: Sequence[str] = ()
) -> tuple[Stage, ...]:
    """Reads a run of one stage, or of two: `before: ...` makes another stage come first.

    The first stage has the settings of the file, and of the command line, with the changes under
    `before` on top (`--before.run.steps 100` on the command line). It is a run of its own in
    RUN/before, and the main stage starts from the model that it leaves. `before: null` takes back
    what an extended file said.

    Args:
      path: as in `load_config`.
      run_dir: RUN, the folder of the main stage.
      overrides: as in `load_config`.

    Returns:
      The stages in the order in which they are trained.

    Raises:
      ConfigError: as `load_config`; also where the main stage of two names a model itself.
    """
    settings = _read(path, overrides)
    earlier = settings.stage_before()
    if earlier is None:
        return (Stage(settings.build(), run_dir),)
    for key in ("model.path", "model.preset"):
        settings.refuse(
            key,
            f"leave it out, or say {BEFORE}.{key}: the main stage starts from the model of the "
            f"stage under `{BEFORE}`",
        )
    first = Stage(earlier.build(), run_dir / BEFORE)
    settings.put("model", "path", str((first.folder / "model").absolute()))
    return first, Stage(settings.build(), run_dir)


def _read(path: str | Path, overrides: Sequence[str]) -> Settings:
    settings = Settings(TrainConfig, {VideoSpec: VIDEO_SPECS})
    settings.read_file(Path(path))
    settings.read_arguments(overrides)
    return settings


def save_config(config: TrainConfig, path: str | Path) -> None:
    """Writes the effective configuration, every setting spelt out; it loads back equal."""
    Path(path).write_text(to_yaml(config), encoding="utf-8")


def diff_configs(before: TrainConfig, after: TrainConfig) -> list[str]:
    """What changed, as `key: before -> after`; empty for equal configurations."""
    old, new = flatten(before), flatten(after)
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in {**old, **new}
        if key not in old or key not in new or old[key] != new[key]
    ]
