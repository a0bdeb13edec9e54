"""SIGTERM and SIGINT as a wish to stop after the present step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopping_on_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Lets SIGTERM and SIGINT ask a run to stop; a second SIGINT interrupts it at once.

    On leaving, both are handled as before. Outside the main thread, which alone gets signals,
    nothing changes.

    Args:
      stop: called with what to say, perhaps in the middle of anything.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _) -> None:
        again = ""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            again = "; Ctrl-C again stops at once"
        stop(f"stopping after this step{again}")

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
