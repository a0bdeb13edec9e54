"""From a configuration to what is compiled: architecture, prompt, responses and mesh."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections import Counter
from pathlib import Path

from vqathinker_jax.config import MeshConfig, TrainConfig
from vqathinker_jax.data.prompt import build_prompt_text, encode_prompt
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.slowfast import check_geometry
from vqathinker_jax.models.vqathinker import VQAThinkerConfig, with_attention
from vqathinker_jax.plan.job import Job
from vqathinker_jax.plan.topologies import PlanError, Topology, has_cudnn
from vqathinker_jax.rl.stages import response_bucket
from vqathinker_jax.rl.vocabulary import small_tokenizer
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.checkpoint import is_checkpoint
from vqathinker_jax.weights.huggingface import open_layout
from vqathinker_jax.weights.load import read_any_config
from vqathinker_jax.weights.readers import abstract_model, count_parameters, parameter_shapes
from vqathinker_jax.weights.tokenizer import load_tokenizer

PUBLISHED_DTYPE = "bfloat16"
"""In which the published folders store their tensors."""
TEXT_TOKENS = {"train": 130, "test": 130, "brief": 10}
"""Tokens of each style's prompt that are neither an image nor its name."""
TOKENS_PER_NAME = 5
"""Of what stands around every image: its name, `<img>`, `</img>`, a line break."""
SIZE_IN_NAME = re.compile(r"internvl3[^/]*?(?<!\d)(\d+)b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that is planned for."""

    model: VQAThinkerConfig
    stored_dtype: str
    said: str
    """Where the architecture is from, in words."""
    prompt_length: int
    prompt_said: str
    """Where the length of the prompt is from, in words."""


def find_subject(
    config: TrainConfig, preset: str | None = None, prompt_length: int | None = None
) -> Subject:
    """The model of a configuration, from its folder, its preset or its name. Nothing is fetched.

    Args:
      config: names the model.
      preset: a name in `PRESETS` to take instead.
      prompt_length: tokens of the prompt; None: counted with the tokenizer, or estimated.

    Raises:
      PlanError: no architecture can be found, or it cannot see this geometry.
      WeightsError: the folder or its tokenizer cannot be read.
    """
    cfg = config.model
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer_folder = None
        if preset is not None:
            model, dtype, said = PRESETS[preset], PUBLISHED_DTYPE, f"preset {preset}"
        elif cfg.preset is not None:
            model, dtype, said = PRESETS[cfg.preset], "float32", f"preset {cfg.preset}"
            named = cfg.tokenizer is not None
            tokenizer_folder = Path(cfg.tokenizer) if named else small_tokenizer(Path(scratch))
        elif Path(cfg.path).is_dir():
            folder = tokenizer_folder = Path(cfg.path)
            model, said = read_any_config(folder).model, f"folder {cfg.path}"
            dtype = _stored_dtype(folder)
            if is_checkpoint(folder):
                tokenizer_folder = None
        else:
            name = _preset_by_name(cfg.path)
            model, dtype = PRESETS[name], PUBLISHED_DTYPE
            said = f"preset {name}, by the name of model.path {cfg.path}, which is not here"
        tokenizer = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
    if tokenizer is not None and cfg.path is None:
        decoder = dataclasses.replace(model.decoder, vocab_size=len(tokenizer))
        model = dataclasses.replace(model, decoder=decoder)
    try:
        tokens = model.tokens_per_frame(config.video.image_size)
        check_geometry(model.slowfast, config.video)
    except ValueError as error:
        raise PlanError(f"video: {error}") from None
    length, length_said = prompt_length, "--prompt-length"
    if length is None and tokenizer is not None:
        length, length_said = _counted_prompt(config, tokens, tokenizer), "by the tokenizer"
    if length is None:
        length, length_said = (
            estimated_prompt(config.video, config.data.prompt_style, tokens),
            "estimated: no tokenizer here",
        )
    return Subject(model, dtype, said, length, length_said)


def started_as(config: TrainConfig, first: TrainConfig) -> TrainConfig:
    """The last stage of a run with the start of its first one, whose model it will go on with."""
    model = dataclasses.replace(
        config.model,
        path=first.model.path,
        preset=first.model.preset,
        tokenizer=first.model.tokenizer,
        slowfast=first.model.slowfast,
    )
    return dataclasses.replace(config, model=model)


def estimated_prompt(video: VideoSpec, style: str, tokens_per_frame: int) -> int:
    """Tokens of a prompt without a tokenizer: placeholders exactly, words by a rule."""
    images = video.num_shown + video.num_views
    placeholders = images * tokens_per_frame + video.has_motion
    names = (images + video.has_motion) * TOKENS_PER_NAME
    return TEXT_TOKENS[style] + names + placeholders


def fitted_mesh(config: TrainConfig, topology: Topology, subject: Subject) -> TrainConfig:
    """The configuration on a mesh of all chips: as many over `fsdp` as videos allow, the rest over
    `tensor`; its micro-batch grows to the chips that groups are spread over. The weights that
    rollouts read are split further where whole copies would not leave room.

    Raises:
      PlanError: the heads of the decoder cannot be split over the rest.
    """
    videos, chips = config.run.videos_per_step, topology.num_chips
    heads = subject.model.decoder.num_key_value_heads
    fsdp = max(n for n in range(1, chips + 1) if chips % n == 0 and videos % n == 0)
    tensor = chips // fsdp
    if heads % tensor:
        raise PlanError(
            f"--mesh auto: {chips} chips for {videos} videos leave tensor {tensor}, which does not "
            f"divide the decoder's {heads} key/value heads; use more videos or fewer chips"
        )
    degrees = [n for n in range(tensor, heads + 1) if heads % n == 0 and chips % n == 0]
    roomy = [n for n in degrees if _leaves_room(n, topology, subject)]
    micro = config.run.micro_batch if config.run.micro_batch % fsdp == 0 else fsdp
    return dataclasses.replace(
        config,
        mesh=MeshConfig(fsdp=fsdp, tensor=tensor, rollout_tensor=(roomy or degrees[-1:])[0]),
        run=dataclasses.replace(config.run, micro_batch=micro),
    )


def _leaves_room(degree: int, topology: Topology, subject: Subject) -> bool:
    """Whether weights split so many ways fill at most half of a chip: decoding has them twice."""
    memory = topology.chip.memory_bytes
    weights = 2 * count_parameters(parameter_shapes(abstract_model(subject.model)[1]))
    return memory is None or 2 * weights / degree <= memory / 2


def kernels_for(config: TrainConfig, topology: Topology, subject: Subject) -> tuple[str, str]:
    """The kernel to compile attention with, as `model.attention`, and what to say about it.

    Raises:
      PlanError: the one that the configuration wants does not suit the topology.
    """
    wanted, dtype = config.model.attention, config.model.dtype
    try:
        chosen = with_attention(subject.model, topology.chip.platform, dtype, wanted)
    except ValueError as error:
        raise PlanError(f"topology {topology.name}: model.{error}") from None
    if "cudnn" in (chosen.vision.attention, chosen.decoder.attention) and not has_cudnn():
        return "xla", (
            "xla in place of cudnn, which is not installed here (pip install nvidia-cudnn-cu13): "
            "the run will take less"
        )
    return wanted, ""


def require_mesh(config: TrainConfig, topology: Topology) -> None:
    """Raises PlanError where the mesh is not made of all chips of the topology."""
    mesh = config.mesh
    if mesh.size != topology.num_chips:
        raise PlanError(
            f"mesh data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor} is of {mesh.size} "
            f"chips, topology {topology.name} has {topology.num_chips}; give --mesh auto, or "
            f"--mesh.fsdp and --mesh.tensor"
        )


def require_completion(config: TrainConfig, completion: int | None) -> int:
    """The response slots that are compiled: the bucket of `completion`, or the largest.

    Raises:
      PlanError: more than `rollout.max_completion_length`.
    """
    longest = config.rollout.max_completion_length
    if completion is None:
        return longest
    if completion > longest:
        raise PlanError(
            f"--completion {completion} is more than rollout.max_completion_length {longest}"
        )
    return response_bucket(completion, longest)


def make_job(
    config: TrainConfig, topology: Topology, subject: Subject, phase: str, completion: int
) -> Job:
    """One phase, ready to be compiled."""
    return Job(
        topology=topology.name,
        phase=phase,
        config=config,
        model=subject.model,
        stored_dtype=subject.stored_dtype,
        prompt_length=subject.prompt_length,
        completion=completion,
        attention=kernels_for(config, topology, subject)[0],
    )


def _counted_prompt(config: TrainConfig, tokens_per_frame: int, tokenizer) -> int:
    video = config.video
    text = build_prompt_text(
        num_frames=video.num_shown,
        tokens_per_frame=tokens_per_frame,
        style=config.data.prompt_style,
        num_extras=video.num_views,
        has_motion=video.has_motion,
        reasoning=config.data.reasoning,
    )
    return len(encode_prompt(tokenizer, text))


def _stored_dtype(folder: Path) -> str:
    """That of most numbers in a folder; of a checkpoint, the published one."""
    if is_checkpoint(folder):
        return PUBLISHED_DTYPE
    sizes: Counter[str] = Counter()
    for tensor in open_layout(folder)[2].values():
        sizes[tensor.dtype.name] += 1
    return sizes.most_common(1)[0][0]


def _preset_by_name(path: str) -> str:
    found = SIZE_IN_NAME.search(Path(path).name)
    name = f"internvl3-{found[1]}b" if found else ""
    if name not in PRESETS:
        raise PlanError(
            f"model.path {path}: is not here, and its name is that of no known architecture; "
            f"say which with --preset ({', '.join(PRESETS)})"
        )
    return name
