"""A decoding worker whose reader misbehaves as the name of the file says."""

import os
import signal
import sys
import time

from vqathinker_jax.data.clip import Clip
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.data.worker import run


def misbehave(path: str, *args, **kwargs) -> Clip:
    name = os.path.basename(path)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("greedy"):
        return bytearray(1 << 40)
    if name.startswith("wrong"):
        raise RuntimeError("two\nlines")
    if name.startswith("chatty"):
        os.write(1, b"printed by a library\n")
    return read_clip(path, *args, **kwargs)


if __name__ == "__main__":
    run(memory_bytes=int(sys.argv[1]), reader=misbehave)
