"""The weight table: complete for every layout, and every transform against torch's own meaning."""

import dataclasses
import functools

import ml_dtypes
import numpy as np
import pytest

from tests.weights.small_model import SMALL
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.mapping import LAYOUTS, MOTION_MODULES, disk_name, make_table
from vqathinker_jax.weights.pieces import Table, check_coverage, check_names, read_part
from vqathinker_jax.weights.readers import abstract_model, parameter_shapes


@functools.cache
def shapes_of(cfg: VQAThinkerConfig) -> dict[str, tuple[int, ...]]:
    return parameter_shapes(abstract_model(cfg)[1])


CONFIGS = {
    "small": SMALL,
    "rms_norm, no biases, tied": dataclasses.replace(
        SMALL,
        vision=dataclasses.replace(
            SMALL.vision, norm_type="rms_norm", qk_normalization=False, qkv_bias=False
        ),
        decoder=dataclasses.replace(SMALL.decoder, tie_word_embeddings=True, vocab_size=301),
    ),
    "published": VQAThinkerConfig(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_filled_once(name, layout):
    cfg = CONFIGS[name]
    table = make_table(cfg, layout)
    check_coverage(table, shapes_of(cfg), () if layout == "official" else MOTION_MODULES)
    names = [piece.name for piece in table.pieces] + list(table.counters)
    assert len(names) == len(set(names))


def test_published_names_and_shapes():
    shapes = {p.name: p.shape for p in make_table(VQAThinkerConfig(), "official").pieces}
    slowfast = "slowfast_model.feature_extraction."
    for name, shape in {
        "vision_model.embeddings.class_embedding": (1, 1, 1024),
        "vision_model.embeddings.position_embedding": (1, 1025, 1024),
        "vision_model.encoder.layers.23.attn.qkv.weight": (3072, 1024),
        "mlp1.1.weight": (3584, 4096),
        "motion_mlp.1.weight": (3584, 2304),
        "language_model.model.embed_tokens.weight": (151674, 3584),
        "language_model.lm_head.weight": (151674, 3584),
        "language_model.model.layers.27.self_attn.k_proj.weight": (512, 3584),
        f"{slowfast}0.multipathway_blocks.0.conv.weight": (64, 3, 1, 7, 7),
        f"{slowfast}0.multipathway_fusion.conv_fast_to_slow.weight": (16, 8, 7, 1, 1),
        f"{slowfast}1.multipathway_blocks.0.res_blocks.0.branch1_conv.weight": (256, 80, 1, 1, 1),
        f"{slowfast}4.multipathway_blocks.1.res_blocks.2.branch2.conv_a.weight": (64, 256, 3, 1, 1),
    }.items():
        assert shapes[name] == shape, name
    assert not any(name.startswith(f"{slowfast}4.multipathway_fusion") for name in shapes)


def tensors_for(table: Table) -> dict[str, np.ndarray]:
    """Distinct values everywhere, as bits of bfloat16 (NaN payloads included)."""
    arrays, start = {}, 0
    for piece in table.pieces:
        size = int(np.prod(piece.shape))
        bits = (np.arange(start, start + size) * 40503 % 65536).astype(np.uint16)
        arrays[piece.name] = bits.view(ml_dtypes.bfloat16).reshape(piece.shape)
        start += size
    return arrays


def parameter(table: Table, arrays: dict[str, np.ndarray], path: str) -> np.ndarray:
    shape = shapes_of(SMALL)[path]
    dtype = np.dtype(ml_dtypes.bfloat16)
    whole = (slice(None),) * len(shape)
    return read_part(table.by_path()[path], shape, whole, dtype, arrays.__getitem__)


def bits(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value).view(np.uint16)


@pytest.fixture(scope="module")
def table() -> Table:
    return make_table(SMALL, "official")


@pytest.fixture(scope="module")
def arrays(table) -> dict[str, np.ndarray]:
    return tensors_for(table)


def test_query_kernel_is_the_transposed_weight_by_head(table, arrays):
    cfg = SMALL.decoder
    kernel = parameter(table, arrays, "decoder.layers.attn.q.kernel")
    weight = arrays["language_model.model.layers.2.self_attn.q_proj.weight"]
    heads = weight.reshape(cfg.num_attention_heads, cfg.head_dim, cfg.hidden_size)
    assert np.array_equal(bits(kernel[2, 5, 3, 4]), bits(heads[3, 4, 5]))
    assert np.array_equal(bits(kernel[2]), bits(heads.transpose(2, 0, 1)))


def test_output_kernel_takes_heads_in(table, arrays):
    kernel = parameter(table, arrays, "decoder.layers.attn.o.kernel")
    weight = arrays["language_model.model.layers.1.self_attn.o_proj.weight"]
    assert np.array_equal(bits(kernel[1].reshape(48, 48)), bits(weight.T))


def test_vision_qkv_is_query_key_value_by_head(table, arrays):
    kernel = parameter(table, arrays, "vision.layers.attn.qkv.kernel")
    weight = arrays["vision_model.encoder.layers.1.attn.qkv.weight"]
    keys = weight[24:48].reshape(4, 6, 24)
    assert np.array_equal(bits(kernel[1, :, 1]), bits(keys.transpose(2, 0, 1)))


def test_patch_kernel_is_row_column_channel(table, arrays):
    kernel = parameter(table, arrays, "vision.patch_embedding.kernel")
    weight = arrays["vision_model.embeddings.patch_embedding.weight"]
    assert np.array_equal(bits(kernel[2, 5, 1, 11]), bits(weight[11, 1, 2, 5]))


def test_video_convolution_is_time_row_column_in_out(table, arrays):
    kernel = parameter(table, arrays, "slowfast.stages.1.fast.blocks.1.conv_a.kernel")
    name = "2.multipathway_blocks.1.res_blocks.1.branch2.conv_a.weight"
    weight = arrays[f"slowfast_model.feature_extraction.{name}"]
    assert np.array_equal(bits(kernel), bits(weight.transpose(2, 3, 4, 1, 0)))


def test_the_vocabulary_is_padded_with_zeros_and_cut_again():
    cfg = dataclasses.replace(
        SMALL, decoder=dataclasses.replace(SMALL.decoder, vocab_size=131, vocab_multiple=128)
    )
    table = make_table(cfg, "official")
    arrays, shapes = tensors_for(table), shapes_of(cfg)
    for path, axis, name in (
        ("decoder.embed.embedding", 0, "language_model.model.embed_tokens.weight"),
        ("decoder.lm_head.kernel", 1, "language_model.lm_head.weight"),
    ):
        (piece,) = table.by_path()[path]
        value = read_part(
            [piece], shapes[path], (slice(None),) * 2, arrays[name].dtype, arrays.__getitem__
        )
        assert value.shape[axis] == 256
        assert not bits(value.take(range(131, 256), axis)).any()
        assert np.array_equal(bits(piece.to_layout(value[piece.region])), bits(arrays[name]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_gives_every_bit(layout):
    table = make_table(SMALL, layout)
    arrays, shapes = tensors_for(table), shapes_of(SMALL)
    for path, pieces in table.by_path().items():
        whole = (slice(None),) * len(shapes[path])
        value = read_part(
            pieces, shapes[path], whole, np.dtype(ml_dtypes.bfloat16), arrays.__getitem__
        )
        for piece in pieces:
            back = piece.to_layout(value[piece.region])
            assert np.array_equal(bits(back), bits(arrays[piece.name])), piece.name


def test_both_layouts_give_the_same_parameters():
    official, native = make_table(SMALL, "official"), make_table(SMALL, "hf")
    arrays = tensors_for(official)
    renamed = {}
    for path, pieces in native.by_path().items():
        value = parameter(official, arrays, path)
        renamed |= {piece.name: piece.to_layout(value[piece.region]) for piece in pieces}
    qkv = arrays["vision_model.encoder.layers.0.attn.qkv.weight"]
    for number, part in enumerate("qkv"):
        name = f"vision_tower.encoder.layer.0.attention.{part}_proj.weight"
        assert np.array_equal(bits(renamed[name]), bits(qkv[24 * number : 24 * (number + 1)]))
    name = "vision_tower.encoder.layer.1.attention.projection_layer.weight"
    expected = arrays["vision_model.encoder.layers.1.attn.proj.weight"]
    assert np.array_equal(bits(renamed[name]), bits(expected))


@pytest.mark.parametrize("path", ["vision.layers.attn.qkv.kernel", "decoder.lm_head.kernel"])
def test_a_slice_is_the_slice_of_the_whole(path):
    table = make_table(SMALL, "hf")
    arrays, shape = tensors_for(table), shapes_of(SMALL)[path]
    pieces, dtype = table.by_path()[path], np.dtype(ml_dtypes.bfloat16)
    whole = read_part(pieces, shape, (slice(None),) * len(shape), dtype, arrays.__getitem__)
    index = tuple(slice(size // 3, size - size // 4) for size in shape)
    part = read_part(pieces, shape, index, dtype, arrays.__getitem__)
    assert np.array_equal(bits(part), bits(whole[index]))


def test_a_slice_reads_only_the_layers_it_needs():
    table = make_table(SMALL, "official")
    arrays, path = tensors_for(table), "decoder.layers.mlp.up.kernel"
    asked = []

    def view(name):
        asked.append(name)
        return arrays[name]

    index = (slice(1, 2), slice(None), slice(None))
    shape = shapes_of(SMALL)[path]
    read_part(table.by_path()[path], shape, index, np.dtype(ml_dtypes.bfloat16), view)
    assert asked == ["language_model.model.layers.1.mlp.up_proj.weight"]


def test_all_that_does_not_fit_is_listed_at_once(table, arrays):
    shapes = {name: value.shape for name, value in arrays.items()}
    shapes |= dict.fromkeys(table.counters, ())
    check_names(table, shapes, "DIR")
    del shapes["mlp1.0.weight"], shapes["vision_model.encoder.layers.0.ls1"]
    del shapes[table.counters[0]]
    shapes |= {"surprise.weight": (3,), "language_model.model.norm.weight": (47,)}
    with pytest.raises(WeightsError) as error:
        check_names(table, shapes, "DIR")
    message = str(error.value)
    assert "DIR: its tensors do not fit its config.json" in message
    assert "3 missing: vision_model.encoder.layers.0.ls1 [24]" in message
    assert "mlp1.0.weight [96]" in message and table.counters[0] in message
    assert "1 unexpected: surprise.weight [3]" in message
    assert "1 misshapen: language_model.model.norm.weight: found [47], config.json means [48]" in (
        message
    )


def test_a_model_that_the_table_does_not_fill_is_an_error(table):
    shapes = dict(shapes_of(SMALL))
    shapes["decoder.new.kernel"] = (3, 5)
    shapes["vision.layers.ls1"] = (3, 24)
    del shapes["decoder.norm.scale"]
    with pytest.raises(WeightsError) as error:
        check_coverage(table, shapes)
    for part in ("decoder.new.kernel [3, 5]", "decoder.norm.scale", "vision.layers.ls1 [3, 24]"):
        assert part in str(error.value)


def test_names_in_memory_become_names_on_disk():
    assert disk_name("lm_head.weight") == "language_model.lm_head.weight"
    assert disk_name("model.language_model.norm.weight") == "language_model.model.norm.weight"
    assert disk_name("model.vision_tower.x") == "vision_tower.x"
    assert disk_name("model.multi_modal_projector.x") == "multi_modal_projector.x"
    assert disk_name("language_model.model.norm.weight") == "language_model.model.norm.weight"


def test_a_layout_that_cannot_hold_the_model_is_refused():
    with pytest.raises(WeightsError, match="pixel shuffle v2 only"):
        make_table(dataclasses.replace(SMALL, ps_version="v1"), "hf")
    with pytest.raises(WeightsError, match="layout must be one of"):
        make_table(SMALL, "gguf")
