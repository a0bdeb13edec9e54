"""C10: resizing and decoding on one core, against one Pillow call and against decord.

    PYTHONPATH=. python benchmarks/c10_decode.py [FILE_OR_FOLDER ...]

Resizing: `resize_square` (two Pillow calls, width first) against the single call
`Image.resize((S, S))`. On portrait frames Pillow 13's single call takes the height first, which is
less work and another result; Pillow 12's takes the width first as ours does.

Decoding: `read_clip` of 12 frames at 560 pixels against the published way: decord's `vr[i]`, then
one Pillow call. One thread each. Without arguments it writes clips of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Before numpy and the decoders size their thread pools.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import av
import decord
import numpy as np
import PIL
from PIL import Image

from benchmarks.timing import alternate, pin_cores, report
from vqathinker_jax.data.clip import FrameRequest, Limits, VideoError
from vqathinker_jax.data.frames import frame_indices
from vqathinker_jax.data.resize import resize_square
from vqathinker_jax.data.sources import expand_sources
from vqathinker_jax.data.video import read_clip

F, S = 12, 560
ONE_THREAD = Limits(threads=1)


def one_call(frame: np.ndarray) -> np.ndarray:
    """The published resize, in whatever order of passes the installed Pillow takes."""
    return np.asarray(Image.fromarray(frame).resize((S, S), Image.Resampling.BICUBIC))


def decord_clip(path: str) -> np.ndarray:
    """The published way from a file to frames."""
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    indices = frame_indices(len(reader), float(reader.get_avg_fps()), F)
    return np.stack([one_call(reader[index].asnumpy()) for index in indices.tolist()])


def time_resizing() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((540, 960), (1080, 1920), (1920, 1080)):
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        timing = alternate(
            lambda frame=frame: resize_square(frame, S), lambda frame=frame: one_call(frame), 31
        )
        report(
            "C10",
            f"resize of {width}x{height} to {S}",
            "one Pillow call",
            timing.ratio,
            aim=0.95,
            frames_per_second=round(1 / timing.ours, 1),
            pillow=PIL.__version__,
        )


def time_decoding(paths: list[str]) -> None:
    ours = theirs = 0.0
    frames = 0
    for path in paths:
        name = os.path.basename(path)
        try:
            clip = read_clip(path, FrameRequest(F, S), limits=ONE_THREAD)
            decord_clip(path)
        except (VideoError, decord.DECORDError) as error:
            print(f"{name}: left out: {str(error).splitlines()[0]}")
            continue
        timing = alternate(
            lambda path=path: read_clip(path, FrameRequest(F, S), limits=ONE_THREAD),
            lambda path=path: decord_clip(path),
            5,
        )
        ours, theirs, frames = ours + timing.ours, theirs + timing.theirs, frames + F
        print(
            f"  {name} ({clip.facts.codec} {clip.facts.width}x{clip.facts.height}): "
            f"{F / timing.ours:.1f} frames/s, {timing.ratio:.2f}x decord"
        )
    if frames:
        report(
            "C10",
            f"decode and resize of {F} frames, {frames // F} clips",
            "decord",
            theirs / ours,
            aim=1.0,
            frames_per_second=round(frames / ours, 1),
            pyav=av.__version__,
            decord=decord.__version__,
        )


def write_clips(folder: Path) -> None:
    """Clips of moving gradients and noise, in three sizes."""
    rng = np.random.default_rng(0)
    for width, height in ((960, 540), (1920, 1080), (540, 960)):
        rows, columns = np.mgrid[:height, :width]
        noise = rng.integers(0, 16, (height, width))
        with av.open(str(folder / f"{width}x{height}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for i in range(120):
                grey = ((rows + columns + 4 * i) % 240 + noise).astype(np.uint8)
                picture = np.stack([grey, grey[::-1], 255 - grey], axis=2)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def main() -> None:
    pin_cores(1)
    time_resizing()
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) == 1:
            write_clips(Path(folder))
        time_decoding([str(path) for path in expand_sources(sys.argv[1:] or [folder])])


if __name__ == "__main__":
    main()
