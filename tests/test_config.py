"""The configuration of a run: what composes it, what excludes what, and the files we ship."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from vqathinker_jax.config import (
    ConfigError,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    diff_configs,
    load_config,
    load_stages,
    save_config,
)
from vqathinker_jax.data.dataset import DataConfig, LabelSource
from vqathinker_jax.models.lora import LoraConfig
from vqathinker_jax.rl.grpo import AdvantageConfig
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.rewards import RewardConfig, draw_partners
from vqathinker_jax.spec import INFERENCE, TRAINING

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "launch")
PAPER = CONFIGS / "vqathinker_8b.yaml"
MINIMAL = """
model: {path: weights}
data: {train: {labels: train.csv, video_root: videos, scale: 1-5}}
"""
SMALL = TrainConfig(
    ModelConfig(path="weights"), DataConfig(LabelSource("train.csv", "videos", "1-5"))
)


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_the_defaults_are_the_papers(minimal):
    config = load_config(minimal)
    assert config == SMALL
    assert config.video == TRAINING
    paper = load_config(PAPER)
    for section in ("video", "rollout", "reward", "advantage", "objective", "optimizer"):
        assert getattr(paper, section) == getattr(config, section), section


def test_the_papers_table_6():
    config = load_config(PAPER)
    assert (config.optimizer.learning_rate, config.objective.beta) == (1e-6, 0.04)
    assert (config.objective.clip_low, config.objective.clip_high) == (0.2, 0.2)
    rollout = config.rollout
    assert (rollout.temperature, rollout.top_k, rollout.top_p) == (0.9, 50, 1.0)
    assert rollout.num_generations * config.run.videos_per_step == 64
    assert (rollout.max_completion_length, config.run.epochs) == (2048, 3)
    assert rollout.temporal and config.model.dtype == "bfloat16"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_we_ship_loads_and_says_how_it_is_used(path, tmp_path):
    for stage in load_stages(path, tmp_path):
        save_config(stage.config, tmp_path / "saved.yaml")
        assert load_config(tmp_path / "saved.yaml") == stage.config
    header = path.read_text().split("\n\n")[0]
    name = path.relative_to(CONFIGS.parent).as_posix()
    assert f"vqathinker train {name} --output-dir" in header
    assert all(word in header for word in ("Hardware", "ime", "xpected"))


def test_ablations_change_little():
    base = load_config(PAPER)
    changes = {
        path.stem: diff_configs(base, load_config(path))
        for path in (CONFIGS / "ablations").glob("*.yaml")
    }
    assert changes["no_ranking"] == ["reward.weights.ranking: 1.0 -> 0.0"]
    assert changes["no_temporal"] == [
        "rollout.temporal: True -> False",
        "reward.weights.temporal: 1.0 -> 0.0",
    ]
    assert changes["no_motion_token"] == ["video.has_motion: True -> False"]
    assert changes["no_reasoning"] == ["data.reasoning: True -> False"]
    assert changes["sft"] == ["run.mode: grpo -> sft"]
    assert all(0 < len(lines) <= 4 for lines in changes.values()), changes


def test_what_is_saved_loads_back_equal(tmp_path):
    config = dataclasses.replace(
        SMALL,
        model=ModelConfig(preset="tiny", tokenizer="12", vision="frozen"),
        data=DataConfig(
            LabelSource("a.csv", "b", (0.5, 9.5), on_bad="skip"),
            validation=LabelSource("c.json", "d", "0-100"),
        ),
        run=RunConfig(micro_batch=8, steps=5, validate_every=2, seed=2**32 - 1),
        optimizer=OptimizerConfig(learning_rate=3e-7),
        mesh=MeshConfig(data=2, fsdp=4),
        video=INFERENCE,
    )
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_overrides_and_names(minimal):
    config = load_config(
        minimal, ["--video", "inference", "--video.num_frames=8", "--reward.weights.format", "0.5"]
    )
    assert config.video == dataclasses.replace(INFERENCE, num_frames=8)
    assert config.reward.weights.format == 0.5
    with pytest.raises(ConfigError, match=r"did you mean rollout\.temperature\?"):
        load_config(minimal, ["--rollout.temprature", "1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--run.micro_batch", "3"], "run.micro_batch: videos_per_step 16 is not a multiple"),
        (["--mesh.data", "4"], "mesh.data: run.micro_batch 1 is not a multiple of mesh.data x"),
        (["--run.validate_every", "5"], "run.validate_every: run.validate_every is set, but there"),
        (["--reward.partners", "one", "--run.videos_per_step", "1"], "reward.partners: "),
        (["--model.preset", "nano"], "model.path: give either path or preset"),
        (["--model.path", "null"], "model.path: give either path or preset"),
        (["--model.tokenizer", "x"], "model.tokenizer: tokenizer goes with preset"),
        (["--model.vision", "frosen"], "model.vision: vision must be one of"),
        (["--model.dtype", "float16"], "model.dtype: dtype must be one of"),
        (["--model.remat", "all"], "model.remat: remat must be one of"),
        (["--model.attention", "flash"], "model.attention: attention must be one of"),
        (["--run.mode", "dpo"], "run.mode: mode must be one of"),
        (["--run.export", "first"], "run.export: export must be best or last"),
        (["--run.steps", "0"], "run.steps: steps must be at least 1"),
        (["--run.keep", "0"], "run.keep: keep must be at least 1"),
        (["--run.seed", "-1"], "run.seed: seed must be in"),
        (["--mesh.tensor", "0"], "mesh.tensor: tensor must be at least 1"),
        (["--mesh.rollout_tensor", "3"], "rollout_tensor 3 does not divide the devices, data x"),
        (
            "--mesh.data 2 --mesh.fsdp 2 --mesh.tensor 2 --mesh.rollout_tensor 1 "
            "--run.micro_batch 4 --run.videos_per_step 12".split(),
            "run.videos_per_step 12 is not a multiple of the 8 copies of the weights",
        ),
        (["--model.reference_memory", "disk"], "model.reference_memory: reference_memory must be"),
        (["--optimizer.moment_dtype", "float16"], "optimizer.moment_dtype: moment_dtype must be"),
        (["--data.train.scale", "1-6"], "data.train.scale: scale must be one of"),
        (["--rollout.num_generations", "1"], "rollout.num_generations: num_generations must be"),
        (["--reward.variant", "papr"], "reward.variant: variant must be one of"),
        (["--reward.fallback", "all"], "reward.fallback: fallback must be one of"),
        (["--reward.sigma", "0"], "reward.sigma: sigma must be positive"),
        (["--advantage.scale", "all"], "advantage.scale: scale must be one of"),
        (["--optimizer.total_steps", "0"], "optimizer.total_steps: "),
        (
            ["--run.mode", "sft", "--model.motion", "layers", "--video.has_motion", "false"],
            "model.motion must be frozen without video.has_motion",
        ),
        (["--rollout.top_p", "2"], "rollout.top_p: top_p must be in (0, 1]"),
        (["--rollout.top_k", "-3"], "rollout.top_k: top_k must be >= 0"),
        (["--rollout.max_completion_length", "0"], "rollout.max_completion_length: "),
        (["--rollout.temperature", "0"], "rollout.temperature: rollouts sample"),
        (["--optimizer.b1", "1.5"], "optimizer.b1: b1 must be in [0, 1)"),
        (["--optimizer.weight_decay", "-1"], "optimizer.weight_decay: weight_decay must be"),
        (["--optimizer.final_learning_rate", "-1"], "optimizer.final_learning_rate: "),
        (
            ["--video.num_frames", "1", "--video.has_motion", "false"],
            "rollout.temporal must be false with video.num_frames 1",
        ),
        (["--video.num_frames", "2"], "video.num_frames: VideoSpec: num_frames=2 is less than"),
    ],
)
def test_impossible_settings_name_the_key(minimal, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, overrides)
    assert message in str(caught.value)


STAGES = """
model: {vision: projector}
run: {mode: grpo, steps: 7, videos_per_step: 3}
video: {num_frames: 3}
data: {train: {labels: train.csv, video_root: videos, scale: 1-5}}
before:
  model: {preset: tiny}
  run: {mode: sft, steps: 5}
"""


def stages(tmp_path, text=STAGES, *overrides):
    path = tmp_path / "two.yaml"
    path.write_text(text)
    return load_stages(path, tmp_path / "run", overrides)


def test_adapters_are_a_section_that_is_off_unless_given(minimal):
    assert load_config(minimal).model.lora is None
    lora = load_config(minimal, ["--model.lora.rank", "4"]).model.lora
    assert lora == LoraConfig(rank=4) and lora.scale == 8.0
    assert load_config(minimal, ["--model.lora.rank", "4", "--model.lora", "null"]).model == (
        SMALL.model
    )
    shipped = load_config(CONFIGS / "vqathinker_8b_lora.yaml").model
    assert shipped.lora == LoraConfig() and shipped.vision == "projector"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.lora.rank", "0"], r"model\.lora\.rank: rank must be at least 1, got 0"),
        (["--model.lora.targets", "[q_proj, qkv]"], r"model\.lora\.targets: .*got q_proj, qkv"),
        (["--model.lora.ranks", "4"], r"did you mean model\.lora\.rank\?"),
        (
            ["--model.lora.rank", "4", "--model.motion", "layers", "--run.mode", "sft"],
            "motion must be frozen with lora",
        ),
    ],
)
def test_impossible_adapters_are_refused_in_one_line(minimal, arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(minimal, arguments)
    assert "\n" not in str(error.value)


def test_a_stage_before_has_the_same_settings_but_for_its_changes(tmp_path):
    first, main = stages(tmp_path)
    assert (first.folder, main.folder) == (tmp_path / "run" / "before", tmp_path / "run")
    start = str(tmp_path / "run" / "before" / "model")
    assert diff_configs(first.config, main.config) == [
        f"model.path: None -> {start}",
        "model.preset: tiny -> None",
        "run.mode: sft -> grpo",
        "run.steps: 5 -> 7",
    ]
    assert first.config.run.videos_per_step == 3
    assert first.config.video == main.config.video == dataclasses.replace(TRAINING, num_frames=3)


def test_the_command_line_changes_both_stages_or_the_first_alone(tmp_path):
    first, main = stages(
        tmp_path, STAGES, "--data.train.labels", "other.csv", "--run.steps=11", "--run.seed", "2",
        "--before.run.seed=13",
    )  # fmt: skip
    assert {stage.config.data.train.labels for stage in (first, main)} == {"other.csv"}
    assert (first.config.run.steps, main.config.run.steps) == (5, 11)
    assert (first.config.run.seed, main.config.run.seed) == (13, 2)


def test_a_stage_before_is_extended_and_taken_back(tmp_path):
    (tmp_path / "base.yaml").write_text(STAGES)
    first, _ = stages(tmp_path, "extends: base.yaml\nbefore: {run: {epochs: 17}}")
    assert (first.config.run.epochs, first.config.run.steps) == (17, 5)
    (only,) = stages(tmp_path, "extends: base.yaml\nbefore: null\nmodel: {path: weights}")
    assert (only.config.model.path, only.folder) == ("weights", tmp_path / "run")
    (only,) = stages(tmp_path, MINIMAL)
    assert only.config == SMALL


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (STAGES + "  rnu: {}", [], "two.yaml, line 9: before.rnu: unknown key; did you mean bef"),
        (STAGES, ["--before.run.stepz", "1"], "line: before.run.stepz: unknown key; did you mean "
         "before.run.steps?"),
        (STAGES, ["--before.steps", "1"], "before.steps: unknown key; did you mean before.run.ste"),
        (STAGES, ["--before.run.steps", "few"], "before.run.steps: expected a whole number"),
        (STAGES, ["--before.run.steps", "0"], "before.run.steps: steps must be at least 1, got 0"),
        (STAGES, ["--run.keep", "0"], "command line: run.keep: keep must be at least 1"),
        (STAGES, ["--before", "sft"], "before: expected a section with changes"),
        (STAGES, ["--before.model.preset", "null"], "before.model.preset: give either path or"),
        (STAGES.replace("{preset: tiny}", "{}"), [], "before.model: give either path or preset"),
        (STAGES, ["--model.path", "weights"], "command line: model.path: leave it out, or say "
         "before.model.path: the main stage starts from the model of the stage under `before`"),
        (STAGES.replace("{vision: projector}", "{preset: tiny}"), [], "line 2: model.preset: leav"),
        (STAGES.replace("before:", "befor:"), [], "befor: unknown key; did you mean before?"),
    ],
)  # fmt: skip
def test_mistakes_in_stages_name_the_key(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError) as caught:
        stages(tmp_path, text, *overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_two_stages_are_refused_where_one_is_read(tmp_path):
    (tmp_path / "two.yaml").write_text(STAGES)
    with pytest.raises(ConfigError, match="before: this is a file of two stages"):
        load_config(tmp_path / "two.yaml")


def test_the_length_of_a_run():
    assert RunConfig(epochs=3, videos_per_step=16).num_steps(100) == 18
    assert RunConfig(epochs=1, videos_per_step=16).num_steps(5) == 1
    assert RunConfig(steps=7).num_steps(100) == 7


def test_the_optimizer_learns_the_length_of_the_run():
    config = dataclasses.replace(
        SMALL,
        run=RunConfig(epochs=2, videos_per_step=4, updates_per_rollout=3),
        optimizer=OptimizerConfig(warmup_steps=5),
    )
    assert config.optimizer_for(10) == OptimizerConfig(warmup_steps=5, total_steps=15)
    with pytest.raises(ConfigError, match="warmup_steps is 5, and the run makes 3 updates"):
        config.optimizer_for(2)
    fixed = dataclasses.replace(config, optimizer=OptimizerConfig(total_steps=40))
    assert fixed.optimizer_for(10).total_steps == 40
    with pytest.raises(ValueError, match="total_steps is not set"):
        config.optimizer.schedule()


def test_what_changed_is_listed():
    other = dataclasses.replace(
        SMALL,
        data=dataclasses.replace(SMALL.data, validation=LabelSource("v.csv", "w", "1-5")),
        run=RunConfig(seed=3),
        optimizer=OptimizerConfig(learning_rate=2e-6),
    )
    assert diff_configs(SMALL, SMALL) == []
    assert diff_configs(SMALL, other) == [
        "data.validation: None -> (absent)",
        "run.seed: 0 -> 3",
        "optimizer.learning_rate: 1e-06 -> 2e-06",
        "data.validation.labels: (absent) -> v.csv",
        "data.validation.video_root: (absent) -> w",
        "data.validation.scale: (absent) -> 1-5",
        "data.validation.on_bad: (absent) -> refuse",
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RewardConfig(variant="papr"),
        lambda: RewardConfig(partners="some"),
        lambda: RewardConfig(ddof=2),
        lambda: RewardConfig(eps=0.0),
        lambda: AdvantageConfig(scale="all"),
        lambda: AdvantageConfig(ddof=2),
        lambda: AdvantageConfig(eps=0.0),
    ],
)
def test_options_of_rewards_and_advantages_are_checked(make):
    with pytest.raises(ValueError, match=r"must be (one of|positive)"):
        make()


def test_partners_are_other_videos_and_all_of_them_occur():
    draws = np.stack([draw_partners(jax.random.key(i), 5) for i in range(40)])
    assert draws.shape == (40, 5) and draws.min() == 0 and draws.max() == 4
    assert (draws != np.arange(5)).all()
    assert all(len(set(column)) == 4 for column in draws.T.tolist())
