"""What the environment says of the launcher that started this process. JAX is not needed for it."""

from __future__ import annotations

import re
from collections.abc import Mapping


def started_together(environ: Mapping[str, str]) -> str | None:
    """What says that a launcher started several processes of this command; None: nothing does.

    >>> started_together({"SLURM_STEP_NUM_TASKS": "4"})
    'SLURM_STEP_NUM_TASKS=4'

    Args:
      environ: environment variables.
    """
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        value = environ.get(name, "")
        if value.isdigit() and int(value) > 1:
            return f"{name}={value}"
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return f"TPU_WORKER_HOSTNAMES names {len(hosts)} hosts" if len(hosts) > 1 else None


def is_alone_on_host(environ: Mapping[str, str]) -> bool:
    """Whether the launcher started this one process on its host, which then has all its devices.

    Args:
      environ: environment variables.
    """
    if "SLURM_STEP_TASKS_PER_NODE" in environ:
        return re.fullmatch(r"1(\(x\d+\))?", environ["SLURM_STEP_TASKS_PER_NODE"]) is not None
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environ:
        return environ["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    # No other launcher that JAX knows says which device a process is to take.
    return True
