"""What one process is asked to compile, and what it found: both travel as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from vqathinker_jax.config import TrainConfig, load_config, save_config
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.config_json import FolderConfig

FITS, TOO_LARGE, FAILED = "fits", "too large", "could not be compiled"
PHASES = ("encode", "project", "perturb", "prefill", "decode", "reference", "update")
"""In the order of a step."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One phase of a training step on one topology."""

    topology: str
    phase: str
    config: TrainConfig
    model: VQAThinkerConfig
    stored_dtype: str
    """Of the parameters in the folder: those that do not train stay in it."""
    prompt_length: int
    """Real tokens."""
    completion: int
    """Tokens of every response, as long as they get."""
    attention: str
    """As `model.attention`, or the kernel to compile in place of what it asks for."""

    def write(self, folder: Path) -> Path:
        """Writes it to a folder of its own; gives the file to hand to the worker."""
        save_config(self.config, folder / "config.yaml")
        fields = dataclasses.asdict(self)
        del fields["config"]
        fields["model"] = FolderConfig(self.model).to_json()
        path = folder / "job.json"
        path.write_text(json.dumps(fields), encoding="utf-8")
        return path

    @staticmethod
    def read(path: Path) -> Job:
        """Reads what `write` left."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["model"] = FolderConfig.from_json(fields["model"], str(path)).model
        return Job(config=load_config(path.parent / "config.yaml"), **fields)


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """What a compiler says of one phase. Bytes and operations are per chip."""

    phase: str
    status: str
    """`fits`, `too large` or `could not be compiled`."""
    attention: str = ""
    """Kernels that compute attention, of the tower and of the decoder."""
    argument_bytes: int = 0
    """Parameters and data that the program reads."""
    output_bytes: int = 0
    """Beyond what is written over arguments."""
    temp_bytes: int = 0
    """What exists only while it runs, its code included."""
    resident: dict[str, int] = dataclasses.field(default_factory=dict)
    """What lies in memory meanwhile and is no argument, by name."""
    chip_bytes: int | None = None
    """What a program may use; None: no limit that is known."""
    required_bytes: int | None = None
    """What the compiler said it needs where it refused; it counts arguments and temporaries."""
    flops: float | None = None
    """Of matrix products and convolutions, spread evenly over the chips."""
    moved_bytes: float | None = None
    """Least bytes from and to memory: every argument read once, or at every token while decoding,
    and every result written once."""
    sent_bytes: float | None = None
    """Received from other chips; None where the compiler does not show it."""
    compile_seconds: float = 0.0
    reason: str = ""
    """Why it could not be compiled."""

    @property
    def resident_bytes(self) -> int:
        """Of everything in `resident`."""
        return sum(self.resident.values())

    @property
    def total_bytes(self) -> int | None:
        """All memory that is taken while the phase runs; None where nothing is known."""
        if self.status == FAILED:
            return None
        if self.required_bytes is not None:
            return self.required_bytes + self.resident_bytes
        used = self.argument_bytes + self.output_bytes + self.temp_bytes
        return used + self.resident_bytes

    def to_json(self) -> dict[str, Any]:
        """With the sums, for machines."""
        return {
            **dataclasses.asdict(self),
            "fits": self.status == FITS,
            "total_bytes": self.total_bytes,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> PhaseResult:
        """Reads what `to_json` gave."""
        names = {field.name for field in dataclasses.fields(PhaseResult)}
        return PhaseResult(**{name: value for name, value in data.items() if name in names})


def judged(result: PhaseResult) -> PhaseResult:
    """The result with its status: what is compiled fits if everything in memory does."""
    if result.status == FAILED:
        return result
    is_refused = result.required_bytes is not None
    is_over = result.chip_bytes is not None and result.total_bytes > result.chip_bytes
    return dataclasses.replace(result, status=TOO_LARGE if is_refused or is_over else FITS)
