"""Turning decoded frames into upright RGB, as decord's filter graph does."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import av.filter
import numpy as np

QUARTER_TURNS = {0: "", -90: "clock", 90: "cclock", 180: "clock", -180: "clock"}
PQ, HLG = 16, 18
"""Transfer characteristics SMPTE ST 2084 and ARIB STD-B67, as numbered by ITU-T H.273."""


class RGBConverter:
    """Converts frames of one stream to upright RGB24.

    The picture is turned first and then converted by swscale's `scale` filter, the whole frame as
    progressive: identical to decord for 8-bit frames, of any colour tags, range or subsampling, as
    long as a 4:2:0 picture has an even height. For more than 8 bits (no tone mapping: PQ and HLG
    values go through as they are) it differs by at most 3 grey levels, in the last rows only, where
    the height is a multiple of 4. A frame reformatted by PyAV itself would differ more: it
    converts interlaced frames field by field.
    """

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame as uint8 [H, W, 3], in the size it is shown."""
        key = (frame.width, frame.height, frame.format.name, rotation(frame))
        if key != self._key:
            # The size or the format may change in mid-stream.
            self._graph = _graph(frame)
            self._key = key
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()


def rotation(frame: av.VideoFrame) -> int:
    """Degrees counterclockwise by which the frame is to be turned; 0 unless a quarter turn."""
    return frame.rotation if frame.rotation in QUARTER_TURNS else 0


def transfer(frame: av.VideoFrame) -> str:
    """`pq`, `hlg`, or `sdr` for everything else."""
    return {PQ: "pq", HLG: "hlg"}.get(int(frame.color_trc), "sdr")


def bit_depth(frame: av.VideoFrame) -> int:
    """Bits of one component."""
    return max(component.bits for component in frame.format.components)


def _graph(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    filters = [
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format.name,
            # PyAV insists on a time base; nothing in this graph reads times.
            time_base=frame.time_base or Fraction(1, 25),
        )
    ]
    turn = rotation(frame)
    if QUARTER_TURNS[turn]:
        filters += [graph.add("transpose", QUARTER_TURNS[turn]) for _ in range(abs(turn) // 90)]
    scale = "flags=bilinear"
    pixels = frame.format
    if len(pixels.components) >= 3 and not pixels.is_rgb and pixels.chroma_height(4) == 2:
        # Where old swscale, which decord carries, put the chroma rows of 4:2:0.
        scale += ":in_v_chr_pos=256"
    filters += [graph.add("scale", scale), graph.add("format", "rgb24"), graph.add("buffersink")]
    for source, target in itertools.pairwise(filters):
        source.link_to(target)
    graph.configure()
    return graph
