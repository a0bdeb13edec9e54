"""Folders of the transformers-native layout, against transformers' own classes."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vqathinker_jax.weights.convert import convert
from vqathinker_jax.weights.huggingface import load_model
from vqathinker_jax.weights.tensor_files import open_folder

CONTEXT_ID = 5


def torch_model(**vision) -> InternVLForConditionalGeneration:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 17,
            "image_size": [28, 28],
            "patch_size": [7, 7],
            "attention_bias": True,
            **vision,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "intermediate_size": 23,
            "vocab_size": 37,
        },
        tie_word_embeddings=False,
        image_token_id=CONTEXT_ID,
    )
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


VARIANTS = {
    "InternVL3": {},
    "rms_norm with q and k norms": {"norm_type": "rms_norm", "use_qk_norm": True},
    "no qkv bias": {"attention_bias": False},
}


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    """A torch model and the folder that `save_pretrained` makes of it."""
    model = torch_model(**VARIANTS[request.param])
    folder = tmp_path_factory.mktemp("native")
    model.save_pretrained(folder)
    return model, folder


def test_visual_tokens_are_those_of_transformers(saved):
    model, folder = saved
    loaded = load_model(folder)
    pixels = np.random.default_rng(1).normal(size=(2, 28, 28, 3)).astype(np.float32)
    with torch.no_grad():
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        expected = model.model.get_image_features(images).pooler_output
    ours = loaded.model.visual_tokens(jnp.asarray(pixels)[None])[0]
    # Measured: at most 9.6e-7 on values up to 3.
    np.testing.assert_allclose(ours, torch.stack(tuple(expected)).numpy(), rtol=0, atol=5e-6)


def test_every_tensor_of_transformers_is_used_and_written_back(saved, tmp_path):
    _, folder = saved
    convert(folder, tmp_path / "j", "jax", verify=True)
    convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes(), path.name


def test_transformers_opens_a_native_folder_made_from_an_official_one(saved, tmp_path):
    """official -> -hf: our own config.json, read by the class that defines the layout."""
    model, folder = saved
    convert(folder, tmp_path / "official", "hf", layout="official")
    convert(tmp_path / "official", tmp_path / "native", "hf", layout="hf", verify=True)
    again, report = InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "native", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    text, vision = again.config.text_config, again.config.vision_config
    assert text.rope_parameters == model.config.text_config.rope_parameters
    assert vision.layer_norm_eps == model.config.vision_config.layer_norm_eps


def test_head_and_embedding_are_kept_apart(saved):
    _, folder = saved
    assert "language_model.lm_head.weight" in open_folder(folder)
    model = load_model(folder).model
    assert model.decoder.lm_head is not None
    shapes = {v.get_value().shape for _, v in nnx.to_flat_state(nnx.state(model.decoder.lm_head))}
    assert shapes == {(20, 128)}


def test_a_tied_folder_of_transformers_is_read(tmp_path):
    """Reference quirk: InternVLConfig ties by default and then stores no head."""
    config = torch_model().config
    config.tie_word_embeddings = True
    config.text_config.tie_word_embeddings = True
    torch.manual_seed(0)
    InternVLForConditionalGeneration(config).save_pretrained(tmp_path / "tied")
    assert "language_model.lm_head.weight" not in open_folder(tmp_path / "tied")
    assert load_model(tmp_path / "tied").model.decoder.lm_head is None
    convert(tmp_path / "tied", tmp_path / "j", "jax", verify=True)
    convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
