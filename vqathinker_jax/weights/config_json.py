"""Reading a folder's config.json: the architecture, and our own facts under `vqathinker_jax`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vqathinker_jax.data.prompt import STYLES
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.results import AGGREGATES
from vqathinker_jax.spec import INFERENCE, VideoSpec
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.tensor_files import open_folder, read_json

CONFIG_NAME = "config.json"
OWN_KEY = "vqathinker_jax"
PUBLISHED = "published"
TEMPLATE = "internvl2_5"

OFFICIAL_ARCHITECTURE = "InternVLChatModel"
HF_ARCHITECTURE = "InternVLForConditionalGeneration"
SUPPORTED = (
    f"{OFFICIAL_ARCHITECTURE} (VQAThinker and InternVL3 folders) and {HF_ARCHITECTURE} (-hf)"
)

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """What a model folder says about itself.

    Raises:
      WeightsError: a prompt style or an aggregate that does not exist.
    """

    model: VQAThinkerConfig
    layout: str = "official"
    """One of `mapping.LAYOUTS`: the names its tensors carry."""
    video: VideoSpec = INFERENCE
    """The geometry the model is meant to see videos in."""
    prompt_style: str = "test"
    """Which of the prompts in `STYLES` it answers."""
    kind: str = PUBLISHED
    """`published`, or a label of where the weights come from: `random`, `nano`, ..."""
    reasoning: bool = True
    """Whether it is asked to think before it answers."""
    aggregate: str = "mean"
    """What of its answers is its score where nothing else is asked for: one of `AGGREGATES`."""

    def __post_init__(self) -> None:
        if self.prompt_style not in STYLES:
            raise WeightsError(
                f"prompt_style must be one of {', '.join(STYLES)}, got {self.prompt_style!r}"
            )
        if self.aggregate not in AGGREGATES:
            raise WeightsError(
                f"aggregate must be one of {', '.join(AGGREGATES)}, got {self.aggregate!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-ready dictionaries; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any], where: str) -> FolderConfig:
        """Reads what `to_json` gave; raises WeightsError on anything else."""
        try:
            cfg = dict(data["model"])
            parts = {
                "vision": build(InternViTConfig, cfg.pop("vision"), where),
                "decoder": build(Qwen2Config, cfg.pop("decoder"), where),
                "slowfast": build(SlowFastConfig, cfg.pop("slowfast"), where),
            }
            rest = {name: value for name, value in data.items() if name not in ("model", "video")}
            video = build(VideoSpec, data["video"], where)
        except (KeyError, TypeError, AttributeError):
            raise WeightsError(f"{where}: is not a folder description of this version") from None
        model = build(VQAThinkerConfig, {**cfg, **parts}, where)
        return build(FolderConfig, {"model": model, "video": video, **rest}, where)


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Makes a config dataclass; lists become tuples.

    Raises:
      WeightsError: an unknown field, or a value the dataclass refuses.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(values.keys() - names)
    if unknown:
        raise WeightsError(
            f"{where}: unknown field {', '.join(unknown)}; {cls.__name__} has "
            f"{', '.join(sorted(names))}"
        )
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{where}: {error}") from None


class _Section:
    """One object of a config.json, whose fields are asked for by name."""

    def __init__(self, data: Any, where: str):
        if not isinstance(data, dict):
            raise WeightsError(f"{where}: expected an object, found {type(data).__name__}")
        self.data = data
        self.where = where

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A field of the given type; a missing one without default is an error."""
        if name not in self.data:
            if default is None:
                raise WeightsError(f"{self.where}: field {name!r} is missing")
            return default
        value = self.data[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(k.__name__ for k in kinds)
            raise WeightsError(f"{self.where}: field {name!r} must be {wanted}, got {value!r}")
        return value

    def count(self, name: str) -> int:
        """A whole number of at least one; there is no default."""
        value = self.get(name, int)
        if value < 1:
            raise WeightsError(f"{self.where}: field {name!r} must be at least 1, got {value}")
        return value

    def section(self, name: str) -> _Section:
        if name not in self.data:
            raise WeightsError(f"{self.where}: field {name!r} is missing")
        return _Section(self.data[name], f"{self.where}: {name}")

    def expect(self, name: str, wanted: Any, default: Any) -> None:
        """Refuses a folder that asks for something we do not compute."""
        found = self.data.get(name, default)
        if found != wanted:
            raise WeightsError(f"{self.where}: {name} {found!r} is not supported ({wanted!r} is)")

    def square(self, name: str) -> int:
        """A side in pixels given as a number or as two equal numbers."""
        value = self.get(name, (int, list))
        if isinstance(value, list):
            if len(value) != 2 or value[0] != value[1] or not isinstance(value[0], int):
                raise WeightsError(f"{self.where}: {name} {value} is not square")
            value = value[0]
        if value < 1:
            raise WeightsError(f"{self.where}: {name} must be at least 1, got {value}")
        return value


def read_config(folder: Path) -> FolderConfig:
    """Reads a model folder's config.json and the names of its tensors.

    Raises:
      WeightsError: no config.json, unreadable JSON, a missing field (which one), another
        architecture (which one, and what is supported), or weights that cannot be opened.
    """
    return parse_config(load_config_json(folder), open_folder(folder), str(folder / CONFIG_NAME))


def load_config_json(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; raises WeightsError where there is none."""
    if not (folder / CONFIG_NAME).is_file():
        raise WeightsError(f"{folder}: has no {CONFIG_NAME}; is it a model folder?")
    return read_json(folder / CONFIG_NAME)


def parse_config(data: dict[str, Any], names: Collection[str], where: str) -> FolderConfig:
    """What a config.json says, given the names of the folder's tensors.

    The names decide two things that the file gets wrong: whether the motion parts are there, and
    whether the embedding doubles as the head.

    Args:
      data: the parsed file.
      names: of the tensors in the folder.
      where: what to call the file in messages.
    """
    root = _Section(data, where)
    architectures = root.get("architectures", (list, type(None)), []) or []
    model_type = data.get("model_type")
    if OFFICIAL_ARCHITECTURE in architectures or (
        not architectures and model_type == "internvl_chat"
    ):
        has_motion = any(name.startswith(("motion_mlp.", "slowfast_model.")) for name in names)
        layout = "official" if has_motion else "plain"
        cfg = _guarded(lambda: _official(root, names), where)
    elif HF_ARCHITECTURE in architectures or (not architectures and model_type == "internvl"):
        layout = "hf"
        cfg = _guarded(lambda: _hf(root, names), where)
    else:
        found = ", ".join(map(str, architectures)) or model_type
        if found is None:
            raise WeightsError(f"{where}: field 'architectures' is missing; supported: {SUPPORTED}")
        raise WeightsError(f"{where}: describes {found}; supported: {SUPPORTED}")
    own = root.data.get(OWN_KEY, {})
    return with_own_facts(FolderConfig(cfg, layout), own, f"{where}: {OWN_KEY}")


def _guarded(make: Callable[[], C], where: str) -> C:
    """Turns what the model configs refuse into a message about the file."""
    try:
        return make()
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from None


def _official(root: _Section, names: Collection[str]) -> VQAThinkerConfig:
    vision = root.section("vision_config")
    llm = root.section("llm_config")
    architectures = llm.get("architectures", list, ["Qwen2ForCausalLM"])
    if "Qwen2ForCausalLM" not in architectures:
        raise WeightsError(
            f"{llm.where}: language model {', '.join(map(str, architectures))} is not supported "
            "(Qwen2ForCausalLM is)"
        )
    root.expect("template", TEMPLATE, TEMPLATE)
    return VQAThinkerConfig(
        # Defaults are those of the published configuration classes.
        vision=_vision(
            vision, bias="qkv_bias", qk_norm=("qk_normalization", True), norm="rms_norm"
        ),
        decoder=_decoder(llm, _is_tied((root, llm), names, default=False)),
        select_layer=root.get("select_layer", int, -1),
        downsample_ratio=float(root.get("downsample_ratio", (int, float), 0.5)),
        ps_version=root.get("ps_version", str, "v1"),
    )


def _hf(root: _Section, names: Collection[str]) -> VQAThinkerConfig:
    vision = root.section("vision_config")
    text = root.section("text_config")
    text.expect("model_type", "qwen2", "qwen2")
    root.expect("vision_feature_select_strategy", "default", "default")
    root.expect("projector_hidden_act", "gelu", "gelu")
    vision.expect("use_absolute_position_embeddings", True, True)
    return VQAThinkerConfig(
        vision=_vision(
            vision, bias="attention_bias", qk_norm=("use_qk_norm", False), norm="layer_norm"
        ),
        decoder=_decoder(text, _is_tied((root, text), names, default=True)),
        select_layer=root.get("vision_feature_layer", int, -1),
        downsample_ratio=float(root.get("downsample_ratio", (int, float), 0.5)),
        ps_version="v2",
    )


def _vision(section: _Section, bias: str, qk_norm: tuple[str, bool], norm: str) -> InternViTConfig:
    section.expect("hidden_act", "gelu", "gelu")
    section.expect("num_channels", 3, 3)
    return InternViTConfig(
        hidden_size=section.count("hidden_size"),
        intermediate_size=section.count("intermediate_size"),
        num_hidden_layers=section.count("num_hidden_layers"),
        num_attention_heads=section.count("num_attention_heads"),
        patch_size=section.square("patch_size"),
        image_size=section.square("image_size"),
        layer_norm_eps=float(section.get("layer_norm_eps", (int, float), 1e-6)),
        norm_type=section.get("norm_type", str, norm),
        qk_normalization=section.get(qk_norm[0], bool, qk_norm[1]),
        qkv_bias=section.get(bias, bool, False),
        drop_path_rate=float(section.get("drop_path_rate", (int, float), 0.0)),
    )


def _decoder(section: _Section, is_tied: bool) -> Qwen2Config:
    section.expect("hidden_act", "silu", "silu")
    section.expect("use_sliding_window", False, False)
    scaling = section.data.get("rope_scaling") or {}
    # transformers 5 writes base and type of the rotation together.
    parameters = section.data.get("rope_parameters") or {}
    if not isinstance(scaling, dict) or not isinstance(parameters, dict):
        raise WeightsError(f"{section.where}: rope_scaling and rope_parameters must be objects")
    rope = {**scaling, **parameters}
    base = _Section({**section.data, **rope}, section.where)
    return Qwen2Config(
        vocab_size=section.count("vocab_size"),
        hidden_size=section.count("hidden_size"),
        intermediate_size=section.count("intermediate_size"),
        num_hidden_layers=section.count("num_hidden_layers"),
        num_attention_heads=section.count("num_attention_heads"),
        num_key_value_heads=section.count("num_key_value_heads"),
        rms_norm_eps=float(section.get("rms_norm_eps", (int, float), 1e-6)),
        rope_theta=float(base.get("rope_theta", (int, float), 10000.0)),
        rope_type=str(rope.get("rope_type", rope.get("type", "default"))),
        max_position_embeddings=section.get("max_position_embeddings", int, 32768),
        tie_word_embeddings=is_tied,
    )


def _is_tied(sections: tuple[_Section, ...], names: Collection[str], default: bool) -> bool:
    """Whether the embedding is the head: never where the folder holds a head.

    Reference quirk: the published config class sets the flag to False on loading, whatever the file
    says, and transformers' InternVLConfig takes True where the file says nothing.
    """
    if any(name.endswith("lm_head.weight") for name in names):
        return False
    flags = [s.data["tie_word_embeddings"] for s in sections if "tie_word_embeddings" in s.data]
    if any(flag is True for flag in flags) or (not flags and default):
        return True
    if not names:
        return False
    raise WeightsError(
        f"{sections[0].where}: the folder has no language_model.lm_head.weight, and "
        "tie_word_embeddings is not true"
    )


def trained_kind(kind: str) -> str:
    """How a model trained here labels itself: what it started from stays in sight.

    >>> trained_kind("published"), trained_kind("random"), trained_kind("trained from random")
    ('trained', 'trained from random', 'trained from random')
    """
    if kind == PUBLISHED:
        return "trained"
    return kind if kind.startswith("trained") else f"trained from {kind}"


def with_own_facts(published: FolderConfig, own: Any, where: str) -> FolderConfig:
    """A folder's description with what `config_fields.own_facts` wrote about it on top.

    Args:
      published: what the folder says without them.
      own: the value under `OWN_KEY`.
      where: what to call its origin in messages.

    Raises:
      WeightsError: `own` is no object, or has a field that is unknown or of the wrong type.
    """
    section = _Section(own, where)
    known = {"video", "slowfast", "prompt_style", "kind", "reasoning", "aggregate"}
    unknown = sorted(section.data.keys() - known)
    if unknown:
        raise WeightsError(
            f"{where}: unknown field {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    slowfast = build(SlowFastConfig, section.get("slowfast", dict, {}), f"{where}: slowfast")
    return FolderConfig(
        model=dataclasses.replace(published.model, slowfast=slowfast),
        layout=published.layout,
        video=build(VideoSpec, section.get("video", dict, {}), f"{where}: video"),
        prompt_style=section.get("prompt_style", str, published.prompt_style),
        kind=section.get("kind", str, published.kind),
        reasoning=section.get("reasoning", bool, published.reasoning),
        aggregate=section.get("aggregate", str, published.aggregate),
    )
