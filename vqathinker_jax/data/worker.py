"""The process in which files are decoded for a `DecodePool`, and how it talks to its parent.

A message is the length of a JSON header as 8 bytes, the header, and, after a header with a `shape`,
that many bytes of frames. Jobs come in on standard input, clips and errors go out on what was
standard output; the process ends when its input does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from vqathinker_jax.data.clip import Clip, FrameRequest, Limits, VideoError, VideoFacts
from vqathinker_jax.data.video import read_clip

LENGTH = struct.Struct("<Q")


@dataclasses.dataclass(frozen=True)
class Job:
    """One file to decode."""

    path: str
    request: FrameRequest
    decoder: str
    limits: Limits


class WorkerGone(Exception):
    """The other end closed its pipe, in the middle of a message or between two."""


def write_job(pipe: BinaryIO, job: Job) -> None:
    """Sends a job."""
    _write(pipe, dataclasses.asdict(job))


def read_reply(pipe: BinaryIO) -> Clip | str:
    """Receives a clip, or the message of the VideoError that there is instead.

    Raises:
      WorkerGone: the worker died.
    """
    header = _read(pipe)
    if "error" in header:
        return header["error"]
    frames = _read_bytes(pipe, math.prod(header["shape"]))
    return Clip(
        frames=np.frombuffer(frames, np.uint8).reshape(header["shape"]),
        indices=np.array(header["indices"], np.int64),
        facts=VideoFacts(**header["facts"]),
        warnings=tuple(header["warnings"]),
    )


def serve(jobs: BinaryIO, replies: BinaryIO, reader: Callable[..., Clip] = read_clip) -> None:
    """Answers jobs until there are no more.

    Args:
      reader: what decodes a file; called as `read_clip` is.
    """
    while True:
        try:
            header = _read(jobs)
        except WorkerGone:
            return
        try:
            clip = reader(
                header["path"],
                _request(header["request"]),
                decoder=header["decoder"],
                limits=Limits(**header["limits"]),
            )
        except VideoError as error:
            _write(replies, {"error": str(error)})
        except MemoryError:
            error = VideoError.of(header["path"], "decoding it takes more memory than allowed")
            _write(replies, {"error": str(error)})
        except Exception as error:  # one bad file must not take the others with it
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _write(
                replies,
                {"error": str(VideoError.of(header["path"], f"decoding failed ({reason})"))},
            )
        else:
            _write_clip(replies, clip)


def run(memory_bytes: int, reader: Callable[..., Clip] = read_clip) -> None:
    """Serves jobs on this process's standard input and output.

    Args:
      memory_bytes: address space this process may use; 0 for no limit. Linux only.
    """
    if memory_bytes and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # An interrupt goes to all processes of a terminal, and schedulers end whole groups: the parent
    # decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Decoding libraries print; what they say must not mix with our messages.
    os.dup2(2, 1)
    serve(jobs, replies, reader)


def _request(fields: dict[str, Any]) -> FrameRequest:
    # JSON has no tuples.
    bound, bounds = fields["bound"] and tuple(fields["bound"]), map(tuple, fields["bounds"])
    return FrameRequest(**{**fields, "bound": bound, "bounds": tuple(bounds)})


def _write(pipe: BinaryIO, header: dict[str, Any]) -> None:
    data = json.dumps(header).encode()
    pipe.write(LENGTH.pack(len(data)) + data)
    pipe.flush()


def _write_clip(pipe: BinaryIO, clip: Clip) -> None:
    header = {
        "shape": clip.frames.shape,
        "indices": clip.indices.tolist(),
        "facts": dataclasses.asdict(clip.facts),
        "warnings": clip.warnings,
    }
    data = json.dumps(header).encode()
    pipe.write(LENGTH.pack(len(data)) + data)
    pipe.write(np.ascontiguousarray(clip.frames).data)
    pipe.flush()


def _read(pipe: BinaryIO) -> dict[str, Any]:
    (length,) = LENGTH.unpack(_read_bytes(pipe, LENGTH.size))
    return json.loads(_read_bytes(pipe, length))


def _read_bytes(pipe: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        read = pipe.readinto(view)
        if not read:
            raise WorkerGone
        view = view[read:]
    return data


if __name__ == "__main__":
    run(memory_bytes=int(sys.argv[1]))
