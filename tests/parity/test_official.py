"""The whole model against torch: folder in, activations, logits, log-probs and tokens out."""

import dataclasses

import numpy as np
import pytest
import torch

import vqathinker_jax as vqt
from tests.parity.torch_official import write_official_folder
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import VideoSpec

TWELVE = VideoSpec(num_frames=12, image_size=196, slow_divisor=4, motion_repeat=4)
SIX = VideoSpec(num_frames=6, image_size=196, slow_divisor=3, motion_repeat=6)
CONFIG = VQAThinkerConfig(
    vision=InternViTConfig(
        hidden_size=33 * 2,
        intermediate_size=74,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=252,
    ),
    decoder=Qwen2Config(
        hidden_size=56,
        intermediate_size=82,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    ),
    slowfast=SlowFastConfig(stem_width=8, depths=(1, 2, 1, 1)),
)
VISION = CONFIG.vision
CASES = {
    "twelve frames, table reduced": (CONFIG, TWELVE),
    "six frames, table enlarged, v1, tied, rms_norm, q/k norm": (
        dataclasses.replace(
            CONFIG,
            vision=dataclasses.replace(
                VISION, image_size=140, norm_type="rms_norm", qk_normalization=True, qkv_bias=False
            ),
            decoder=dataclasses.replace(CONFIG.decoder, tie_word_embeddings=True),
            ps_version="v1",
            select_layer=-2,
        ),
        SIX,
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """A torch model, and ours loaded from the folder that holds its weights."""
    cfg, video = CASES[request.param]
    folder = tmp_path_factory.mktemp("official") / "model"
    reference, _ = write_official_folder(folder, cfg, video, seed=5)
    return reference, vqt.from_pretrained(folder, dtype="float32", video=video)


def make_pixels(video: VideoSpec, num: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (num, video.num_frames, video.image_size, video.image_size, 3)
    smooth = np.cumsum(rng.normal(size=shape), axis=2) / 10
    return (smooth + rng.normal(size=shape) / 2).astype(np.float32)


def test_activations(pair):
    reference, model = pair
    pixels = make_pixels(model.video, 2)
    wanted = reference.visual_tokens(pixels).numpy()
    assert np.abs(wanted).mean() > 0.05
    np.testing.assert_allclose(model.visual_tokens(pixels), wanted, atol=5e-5)
    motion = reference.motion_feature(pixels, model.video)
    np.testing.assert_allclose(model.motion_feature(pixels), motion.numpy(), atol=5e-5)
    with torch.inference_mode():
        token = reference.motion_mlp(motion)[:, None].numpy()
    np.testing.assert_allclose(model.motion_token(pixels), token, atol=5e-5)


@pytest.mark.parametrize("style", ["test", "train"])
def test_logits_and_logprobs(pair, style):
    reference, model = pair
    pixels = make_pixels(model.video, 2)
    ids = model.build_prompt(style=style)
    rows = np.stack([ids, ids])
    embeds = reference.embeds(rows, pixels, model.video, model.loaded.context_id)
    wanted = reference.logits(embeds)
    assert np.abs(wanted).mean() > 0.05
    np.testing.assert_allclose(model.logits(ids, pixels), wanted, atol=3e-5)

    completion = np.random.default_rng(1).integers(0, len(model.tokenizer), (2, 13))
    with torch.inference_mode():
        tail = reference.qwen.get_input_embeddings()(torch.from_numpy(completion))
    logits = torch.from_numpy(reference.logits(torch.cat([embeds, tail], dim=1)))
    logprobs = torch.log_softmax(logits[:, len(ids) - 1 : -1], dim=-1)
    wanted = logprobs.gather(-1, torch.from_numpy(completion)[..., None])[..., 0].numpy()
    np.testing.assert_allclose(model.logprobs(ids, completion, pixels), wanted, atol=3e-5)


def test_greedy_tokens_of_a_left_padded_batch(pair):
    reference, model = pair
    pixels = make_pixels(model.video, 2, seed=2)
    questions = [None, "Is it sharp? Answer with a number."]
    prompts = [model.build_prompt(question) for question in questions]
    longest = max(map(len, prompts))
    context_id = model.loaded.context_id
    embeds, mask = [], []
    for row, ids in enumerate(prompts):
        one = reference.embeds(ids[None], pixels[row : row + 1], model.video, context_id)
        pad = longest - len(ids)
        embeds.append(torch.cat([torch.zeros(1, pad, one.shape[-1]), one], dim=1))
        mask.append([0] * pad + [1] * len(ids))
    wanted = reference.greedy(
        torch.cat(embeds),
        torch.tensor(mask),
        24,
        model.loaded.end_id,
        model.loaded.pad_id,
    )
    assert len({len(ids) for ids in prompts}) == 2
    for row, ids in enumerate(prompts):
        got = model.generate(ids, pixels[row : row + 1], max_new_tokens=24)[0]
        np.testing.assert_array_equal(got, wanted[row][: len(got)])
        assert len(set(got.tolist())) >= 3


def test_refuses_what_it_cannot_see(pair):
    _, model = pair
    video = model.video
    pixels = make_pixels(video, 1)
    ids = model.build_prompt()
    with pytest.raises(TypeError, match="normalised floats, got uint8"):
        model.visual_tokens(np.zeros(pixels.shape, np.uint8))
    with pytest.raises(ValueError, match="pixels must be"):
        model.visual_tokens(pixels[:, 1:])
    with pytest.raises(ValueError, match="placeholders"):
        model.logits(ids[ids != model.loaded.context_id], pixels)
    with pytest.raises(ValueError, match="2 prompts for 1 videos"):
        model.logits(np.stack([ids, ids]), pixels)
    with pytest.raises(ValueError, match="token ids must lie"):
        model.logits(np.where(ids == ids[0], 10**6, ids), pixels)
