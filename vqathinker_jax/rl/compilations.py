"""Which programs this process has compiled, by the compiler's own events."""

from __future__ import annotations

from collections import Counter

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
compiled: Counter[str] = Counter()
"""Compilations since this module was imported, by the name of the jitted function."""


def num_compiled() -> int:
    """Compilations of all programs, whoever asked for them."""
    return compiled.total()


def _listen(event: str, duration: float, **facts: str | int) -> None:
    if event == COMPILED:
        name = str(facts.get("fun_name", ""))
        compiled[name.removeprefix("jit(").removesuffix(")")] += 1


jax.monitoring.register_event_duration_secs_listener(_listen)
