"""What trains by part and by name."""

import pytest
from flax import nnx

from vqathinker_jax.models.lora import LoraConfig, add_adapters
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.weights.readers import abstract_model, dotted


def names(vision: str, motion: str) -> tuple[set[str], set[str]]:
    """Dotted names of what trains and of what does not."""
    model: VQAThinker = nnx.merge(*abstract_model(PRESETS["nano"]))
    _, trained, frozen = split_trained(model, vision, motion)
    first, second = (
        {dotted(path) for path, _ in nnx.to_flat_state(state)} for state in (trained, frozen)
    )
    return first, second


@pytest.mark.parametrize(
    ("vision", "trained_parts"),
    [
        ("full", {"decoder", "projector", "motion_projector", "vision"}),
        ("layers", {"decoder", "projector", "motion_projector", "vision"}),
        ("projector", {"decoder", "projector", "motion_projector"}),
        ("frozen", {"decoder"}),
    ],
)
def test_parts_train_by_name(vision, trained_parts):
    trained, frozen = names(vision, "frozen")
    assert {name.split(".")[0] for name in trained} == trained_parts
    assert not trained & frozen
    embedding = {"vision.patch_embedding.kernel", "vision.patch_embedding.bias"}
    assert embedding <= (trained if vision == "full" else frozen)


def test_slowfast_trains_but_for_its_stems_and_statistics():
    trained, frozen = names("layers", "layers")
    of_slowfast = {name for name in trained if name.startswith("slowfast.")}
    assert "slowfast.fusions.0.conv.kernel" in of_slowfast
    assert "slowfast.stages.3.fast.blocks.0.norm_c.scale" in of_slowfast
    assert not any(name.endswith((".mean", ".var")) for name in of_slowfast)
    kept = {name for name in frozen if name.startswith("slowfast.")} - {
        name for name in frozen if name.endswith((".mean", ".var"))
    }
    assert kept and all(name.startswith("slowfast.stem.") for name in kept)


@pytest.mark.parametrize(
    ("vision", "beside"),
    [("frozen", set()), ("projector", {"projector", "motion_projector"})],
)
def test_adapters_train_in_the_decoders_place(vision, beside):
    model: VQAThinker = nnx.merge(*abstract_model(PRESETS["nano"]))
    add_adapters(
        model.decoder, LoraConfig(2, 4.0, ("v_proj", "down_proj")), "float32", 0, make_mesh()
    )
    _, trained, frozen = split_trained(model, vision)
    names = {dotted(path) for path, _ in nnx.to_flat_state(trained)}
    assert {name for name in names if name.startswith("decoder.")} == {
        f"decoder.layers.{layer}.adapter.{factor}"
        for layer in ("attn.v", "mlp.down")
        for factor in "ab"
    }
    assert {name.split(".")[0] for name in names} == {"decoder", *beside}
    kept = {dotted(path) for path, _ in nnx.to_flat_state(frozen)}
    assert {"decoder.layers.attn.v.kernel", "decoder.embed.embedding"} <= kept


@pytest.mark.parametrize(("vision", "motion"), [("all", "frozen"), ("full", "full")])
def test_unknown_choices_are_refused(vision, motion):
    with pytest.raises(ValueError, match="must be one of"):
        names(vision, motion)
