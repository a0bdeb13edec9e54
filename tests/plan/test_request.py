"""From a configuration to what is compiled."""

import dataclasses

import pytest

from tests.plan.plans import CONFIG, write_config
from vqathinker_jax.config import load_config
from vqathinker_jax.plan.request import (
    estimated_prompt,
    find_subject,
    fitted_mesh,
    require_completion,
    require_mesh,
    started_as,
)
from vqathinker_jax.plan.topologies import PlanError, parse_topology

PUBLISHED = "configs/vqathinker_8b.yaml"


def test_a_missing_folder_is_known_by_its_name():
    subject = find_subject(load_config(PUBLISHED))
    assert subject.model.decoder.hidden_size == 3584
    assert subject.stored_dtype == "bfloat16"
    assert "weights/InternVL3-8B, which is not here" in subject.said
    # Known to be about 1,700 tokens.
    assert 1665 <= subject.prompt_length <= 1792
    assert "estimated" in subject.prompt_said


def test_an_unknown_name_needs_a_preset(tmp_path):
    config = load_config(PUBLISHED, ["--model.path", "weights/mine"])
    with pytest.raises(PlanError, match=r"weights/mine: is not here.*--preset"):
        find_subject(config)
    assert find_subject(config, "internvl3-1b", 77).prompt_length == 77


def test_a_preset_has_its_own_tokenizer(tmp_path):
    config = load_config(write_config(tmp_path))
    subject = find_subject(config)
    assert subject.stored_dtype == "float32"
    assert subject.model.decoder.vocab_size < 5000
    assert subject.prompt_said == "by the tokenizer"
    estimate = estimated_prompt(config.video, "brief", subject.model.tokens_per_frame(70))
    assert estimate == pytest.approx(subject.prompt_length, abs=20)


def test_a_folder_says_what_it_is(small_folder):
    from tests.rl.train_runs import make_config

    config = make_config(small_folder, small_folder / "labels.jsonl")
    subject = find_subject(config)
    assert subject.model.decoder.hidden_size == 32
    assert subject.stored_dtype == "bfloat16"
    assert subject.prompt_said == "by the tokenizer"


@pytest.mark.parametrize(
    ("name", "mesh", "micro"),
    [
        ("v5p:2x2x1", (1, 4, 1), 8),
        ("h100:8", (1, 8, 1), 8),
        ("v6e:4x4", (1, 16, 1), 16),
        ("v5e:8x8", (1, 16, 4), 16),
        ("h100:1", (1, 1, 1), 8),
    ],
)
def test_auto_spreads_groups_first_and_heads_then(name, mesh, micro):
    config = load_config(PUBLISHED)
    fitted = fitted_mesh(config, parse_topology(name), find_subject(config))
    assert (fitted.mesh.data, fitted.mesh.fsdp, fitted.mesh.tensor) == mesh
    assert fitted.run.micro_batch == micro
    require_mesh(fitted, parse_topology(name))


def test_auto_gives_up_where_heads_do_not_divide():
    config = load_config(PUBLISHED)
    with pytest.raises(PlanError, match=r"leave tensor 16.*4 key/value heads"):
        fitted_mesh(config, parse_topology("v5e:16x16"), find_subject(config))


def test_a_mesh_of_other_chips_names_both():
    with pytest.raises(PlanError, match=r"fsdp 8 x tensor 1 is of 8 chips.*v5p:2x2x1 has 4"):
        require_mesh(load_config(PUBLISHED), parse_topology("v5p:2x2x1"))


def test_completions_are_buckets():
    config = load_config(PUBLISHED)
    assert require_completion(config, None) == 2048
    assert require_completion(config, 500) == 512
    with pytest.raises(PlanError, match=r"4096 is more than rollout.max_completion_length 2048"):
        require_completion(config, 4096)


def test_a_second_stage_starts_from_the_model_of_the_first(tmp_path):
    first = load_config(write_config(tmp_path))
    model = dataclasses.replace(first.model, preset=None, path="runs/x/before/model", remat="full")
    second = dataclasses.replace(first, model=model)
    config = started_as(second, first)
    assert (config.model.preset, config.model.path, config.model.remat) == ("nano", None, "full")
    assert "preset: nano" in CONFIG
