"""What one person may ask of the page."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on uploads and jobs.

    Raises:
      ValueError: a bound that is not positive.
    """

    upload_bytes: int = 512 * 2**20
    """Of one file."""
    upload_s: float = 600.0
    """Seconds that one upload may take."""
    job_s: float = 600.0
    """Seconds that judging one file may take; looked at whenever the model has said something."""
    waiting: int = 8
    """Files that may be on their way or waiting, beside the one that is being judged."""
    kept: int = 16
    """Finished jobs whose results can still be read; older ones are forgotten."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = vars(self)[field.name]
            if not 0 < value < math.inf:
                raise ValueError(f"{field.name} must be positive and finite, got {value!r}")
