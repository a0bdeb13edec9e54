"""A whole run on a mesh, and on another one after a pause, against one device."""

import dataclasses
import weakref

import jax
import numpy as np
import pytest

from tests.rl.test_mesh import CONFIG, VIDEO
from tests.rl.train_runs import OF_A_PROCESS, make_config, rows, write_data
from vqathinker_jax.config import MeshConfig
from vqathinker_jax.rl import train as train_module
from vqathinker_jax.rl.train import train
from vqathinker_jax.weights.tiny import make_tiny


@pytest.fixture
def readable(monkeypatch):
    """Random tokens read as well-formed answers whose score depends on the tokens."""

    def texts(model, generation):
        scores = np.asarray(generation.tokens).sum(-1) % 401 / 100 + 1
        return [[f"<think></think><answer>{s:.2f}</answer>" for s in group] for group in scores]

    monkeypatch.setattr(train_module, "read_texts", texts)


@pytest.fixture
def sampler_is_gone(monkeypatch):
    """Fails where a rollout's copy of the weights is still there when the reference runs."""
    copies = []
    roll_out, with_other_policies = train_module.roll_out, train_module.with_other_policies

    def rolled_out(model, *args, **kwargs):
        copies[:] = [weakref.ref(leaf) for leaf in jax.tree.leaves(model[1])]
        return roll_out(model, *args, **kwargs)

    def checked(run, batch):
        shared = set(map(id, jax.tree.leaves(run.start.frozen)))
        kept = [leaf() for leaf in copies if leaf() is not None and id(leaf()) not in shared]
        assert copies and not kept, f"{len(kept)} of {len(copies)} arrays"
        return with_other_policies(run, batch)

    monkeypatch.setattr(train_module, "roll_out", rolled_out)
    monkeypatch.setattr(train_module, "with_other_policies", checked)


def texts(logged: list[dict]) -> list[list[str]]:
    return [[response["text"] for response in row["responses"]] for row in logged]


def test_a_run_is_the_same_on_any_mesh_and_goes_on_on_another(
    tmp_path, readable, sampler_is_gone, quickly_compiled
):
    # Every layer of the decoder is compiled by itself in the loop over tokens.
    decoder = dataclasses.replace(CONFIG.decoder, num_hidden_layers=1)
    config = dataclasses.replace(CONFIG, decoder=decoder)
    make_tiny(tmp_path / "model", model=config, video=VIDEO)
    (tmp_path / "clips").mkdir()
    labels = write_data(tmp_path / "clips")
    config = make_config(
        tmp_path / "model",
        labels,
        run={"videos_per_step": 4, "micro_batch": 4, "checkpoint_every": 1},
        optimizer={"moment_dtype": "bfloat16", "learning_rate": 1e-2},
    )
    model = dataclasses.replace(config.model, vision="projector", reference_memory="host")
    config = dataclasses.replace(config, model=model, video=VIDEO)

    def run(steps: int, folder: str, **mesh: int) -> None:
        changed = dataclasses.replace(config.run, steps=steps)
        whole = dataclasses.replace(config, run=changed, mesh=MeshConfig(**mesh))
        assert train(whole, tmp_path / folder, is_quiet=True)

    run(2, "one")
    run(1, "many", data=2, fsdp=2, tensor=2, rollout_tensor=4)
    run(2, "many", fsdp=4, tensor=2, rollout_tensor=2)
    one, many = (rows(tmp_path / name / "metrics.jsonl") for name in ("one", "many"))
    assert [row["step"] for row in many] == [1, 2]
    assert many[0]["kl_token_mean"] == 0.0 < many[1]["kl_token_mean"]
    # Measured: equal but for a KL of 9e-4 that differs by 1e-8.
    for a, b in zip(one, many, strict=True):
        names = a.keys() - OF_A_PROCESS
        expected = pytest.approx([a[name] for name in names], rel=1e-5, abs=1e-7)
        assert [b[name] for name in names] == expected
    a, b = (rows(tmp_path / name / "rollouts.jsonl") for name in ("one", "many"))
    assert texts(a) == texts(b)
