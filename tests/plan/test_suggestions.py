"""Changes that are tried where a step does not fit."""

import dataclasses

from tests.plan.plans import result
from vqathinker_jax.config import MeshConfig, load_config
from vqathinker_jax.plan.job import FAILED, PhaseResult
from vqathinker_jax.plan.suggestions import Change, changes_of, suggest

CONFIG = load_config("configs/vqathinker_8b.yaml", ["--run.micro_batch", "16"])


def test_what_can_be_changed_is_offered():
    options = [change.options for change in changes_of(CONFIG, 4)]
    assert options == [
        "--model.remat full",
        "--run.micro_batch 8",
        "--model.remat full --run.micro_batch 8",
        "--mesh.rollout_tensor 2",
        "--optimizer.moment_dtype bfloat16",
        "--optimizer.moment_dtype bfloat16 --model.reference_memory host --model.remat full",
        "--mesh.fsdp 4 --mesh.tensor 2",
        "--model.lora.rank 16 --model.vision projector",
    ]


def test_options_say_what_the_changed_configuration_is():
    for change in changes_of(CONFIG, 4):
        again = load_config(
            "configs/vqathinker_8b.yaml", ["--run.micro_batch", "16", *change.options.split()]
        )
        assert again == change.config


def test_nothing_is_offered_that_is_so_already():
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, remat="full"),
        run=dataclasses.replace(CONFIG.run, micro_batch=8),
        mesh=MeshConfig(data=2, fsdp=4),
        optimizer=dataclasses.replace(CONFIG.optimizer, moment_dtype="bfloat16"),
    )
    options = [change.options for change in changes_of(config, 1)]
    assert options[0] == "--mesh.data 1 --mesh.fsdp 8"
    assert not any("--run.micro_batch" in option for option in options)
    assert "--model.remat full" not in options
    assert "--optimizer.moment_dtype bfloat16" not in options


def tried(sizes: dict[str, dict[str, float]]) -> tuple[list, list[tuple[str, str]]]:
    """Suggestions where each change gives phases these sizes in GiB of 80, and what was tried."""
    asked = []
    changes = [
        Change(name, dataclasses.replace(CONFIG, run=dataclasses.replace(CONFIG.run, seed=i)))
        for i, name in enumerate(sizes)
    ]

    def compile_phase(config, phase) -> PhaseResult:
        name = list(sizes)[config.run.seed]
        asked.append((name, phase))
        gib = sizes[name].get(phase, 10.0)
        return result(phase, gib) if gib > 0 else PhaseResult(phase, FAILED, reason="crash")

    before = [result("decode", 30.0), result("update", 100.0)]
    return suggest(changes, before, compile_phase), asked


def test_a_change_fits_only_if_every_phase_does():
    found, asked = tried({"a": {"update": 70.0, "decode": 90.0}, "b": {"update": 60.0}})
    assert [(one.options, one.fits) for one in found] == [("b", True), ("a", False)]
    assert asked == [("a", "update"), ("a", "decode"), ("b", "update"), ("b", "decode")]


def test_what_helps_comes_after_and_what_does_not_is_left_out():
    found, _ = tried({"a": {"update": 90.0}, "b": {"update": 101.0}, "c": {"update": -1.0}})
    assert [(one.options, one.fits) for one in found] == [("a", False)]
    assert found[0].total_bytes == 90 * 2**30


def test_two_that_fit_are_enough():
    found, asked = tried({name: {"update": 50.0} for name in "abc"})
    assert [one.options for one in found] == ["a", "b"]
    assert not any(name == "c" for name, _ in asked)


def test_nothing_is_tried_where_everything_fits():
    assert suggest(changes_of(CONFIG, 4), [result("update", 10.0)], None) == []
