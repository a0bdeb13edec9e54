"""From files to frames: identical to decord, whichever way a clip is walked through."""

import dataclasses
import json
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.clips import pictures, write_clip
from vqathinker_jax.data import container, pyav
from vqathinker_jax.data.clip import Clip, FrameRequest, Limits
from vqathinker_jax.data.color import RGBConverter
from vqathinker_jax.data.frames import split_clip
from vqathinker_jax.data.pool import read_clip_bounded
from vqathinker_jax.data.resize import resize_square
from vqathinker_jax.data.video import VideoError, read_clip

LIMITS = Limits(threads=1)
F, S = 12, 28

# file: (codec, width, height, frames, rotation, container's frame rate), from the table of the data
REAL_CLIPS = {
    "konvid/10053703034.mp4": ("h264", 960, 540, 240, 0, 29.97),
    "konvid/5115335471.mp4": ("h264", 960, 540, 240, 0, 29.97),
    "lsvq/yfcc-batch22/17734.mp4": ("h264", 1280, 720, 234, 0, 29.97),
    "ugc/e4dv6ZsFzHE_000243_000253.mp4": ("h264", 1280, 720, 300, 0, 29.97),
    "ugc/FEQ-gdkTN4Q_000008_000018.mp4": ("h264", 192, 144, 98, 0, 10.009),
    "ugc/with-gps.mov": ("h264", 320, 568, 120, -90, 29.988),
    "ugc/MVI_4823.AVI": ("mjpeg", 640, 480, 78, 0, 30.0),
    "ugc/sony_ilce7m3.mts": ("h264", 1920, 1080, 13, 0, 25.0),
    "ugc/flower.webm": ("vp8", 960, 540, 150, 0, 29.97),
    "ugc/demo_skeleton.mp4": ("h264", 1920, 1080, 72, 0, 28.052),
    "ugc/sample_demo_22.mp4": ("h264", 204, 360, 1090, 0, 30.027),
    "ugc/test.avi": ("mpeg4", 320, 240, 164, 0, 25.0),
    "ugc/hdr10-video-with-sdr-container.mp4": ("hevc", 1920, 1080, 28, 0, 27.521),
    "ugc/bear-vp9.webm": ("vp9", 320, 240, 82, 0, 29.97),
}
NOT_FOR_DECORD = {"ugc/sony_ilce7m3.mts": "counts fields as frames, then finds none"}
TEN_BIT = {"ugc/hdr10-video-with-sdr-container.mp4"}


def decord_module():
    return pytest.importorskip("decord", reason="decord has no wheels for this system")


def max_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(np.int64) - b).max())


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_real_clips_equal_decord(real_clips, name):
    codec, width, height, frames, rotation, fps = REAL_CLIPS[name]
    ours = read_clip(real_clips / name, FrameRequest(F, 280))
    facts = ours.facts
    assert (facts.codec, facts.width, facts.height) == (codec, width, height)
    assert (facts.num_frames, facts.rotation) == (frames, rotation)
    assert facts.fps == pytest.approx(fps, abs=1e-3)
    assert facts.bit_depth == (10 if name in TEN_BIT else 8)
    if name in NOT_FOR_DECORD:
        return
    decord_module()
    theirs = read_clip(real_clips / name, FrameRequest(F, 280), decoder="decord", limits=LIMITS)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert facts.fps == theirs.facts.fps
    # 10-bit: swscale has changed since decord's; 2 is what was measured after the resize.
    assert max_difference(ours.frames, theirs.frames) <= (2 if name in TEN_BIT else 0)


def sequential(monkeypatch) -> None:
    monkeypatch.setattr(pyav, "INDEXED_CODECS", ())


def without_fallback(monkeypatch) -> None:
    def fail(*args):
        raise AssertionError("fell back to decoding everything")

    monkeypatch.setattr(pyav, "_decode_from_the_start", fail)


@pytest.mark.parametrize(
    "name", ["ugc/with-gps.mov", "ugc/sample_demo_22.mp4", "ugc/FEQ-gdkTN4Q_000008_000018.mp4"]
)
def test_seeking_equals_decoding_everything_on_real_clips(real_clips, name, monkeypatch):
    with monkeypatch.context() as patch:
        without_fallback(patch)
        sought = read_clip(real_clips / name, FrameRequest(F, S))
    sequential(monkeypatch)
    walked = read_clip(real_clips / name, FrameRequest(F, S))
    np.testing.assert_array_equal(sought.frames, walked.frames)
    np.testing.assert_array_equal(sought.indices, walked.indices)
    assert sought.facts == walked.facts and sought.warnings == walked.warnings == ()


STREAMS = {
    "b_frames.mp4": ("libx264", "g=7:bf=3", None),
    "open_gop.mp4": ("libx264", "x264-params=open-gop=1:keyint=9:min-keyint=9:bframes=3", None),
    "open_gop.mkv": ("libx264", "x264-params=open-gop=1:keyint=9:min-keyint=9:bframes=3", None),
    "intra_refresh.mkv": ("libx264", "x264-params=intra-refresh=1:keyint=8:scenecut=0", None),
    "hevc.mp4": ("libx265", "x265-params=keyint=9:min-keyint=9:log-level=none", None),
    "vp9.webm": ("libvpx-vp9", "g=8:deadline=realtime", None),
    "variable.mp4": ("libx264", "g=7:bf=2", [i * i // 4 + i for i in range(31)]),
}


def options(text: str) -> dict[str, str]:
    if "params" in text:
        key, value = text.split("=", 1)
        return {key: value, "crf": "8"}
    return dict(item.split("=") for item in text.split(":"))


@pytest.mark.parametrize("name", STREAMS)
def test_seeking_equals_decoding_everything(tmp_path, name, monkeypatch):
    codec, text, times = STREAMS[name]
    path = write_clip(
        tmp_path / name, pictures(31, 64, 48), codec, options=options(text), times=times
    )
    with monkeypatch.context() as patch:
        without_fallback(patch)
        sought = read_clip(path, FrameRequest(F, S), limits=LIMITS)
    sequential(monkeypatch)
    walked = read_clip(path, FrameRequest(F, S), limits=LIMITS)
    assert sought.facts == walked.facts and sought.facts.num_frames == 31
    np.testing.assert_array_equal(sought.frames, walked.frames)


def test_seeking_skips_what_it_can(tmp_path):
    path = write_clip(
        tmp_path / "a.mp4",
        pictures(40, 64, 48),
        options={"x264-params": "keyint=5:scenecut=0:bframes=0"},
    )
    with container.open_container(str(path), LIMITS) as (opened, stream):
        deadline = container.Deadline(str(path), 10)
        table = container.read_packet_table(opened, stream, deadline)
        assert np.flatnonzero(table.is_start_mask).tolist() == list(range(0, 40, 5))
        reader = pyav._Reader(str(path), opened, stream, LIMITS, deadline)
        seen = []
        frames = reader.frames
        reader.frames = lambda allowed: (seen.append(1) or frame for frame in frames(allowed))
        clip = pyav._decode_by_seeking(reader, table, FrameRequest(2, S))
    assert clip.indices.tolist() == [9, 29]
    assert len(seen) == 10


def test_recovery_points_are_not_starts(tmp_path):
    path = write_clip(
        tmp_path / "a.mkv",
        pictures(31, 64, 48),
        options=options("x264-params=intra-refresh=1:keyint=8:scenecut=0"),
    )
    with container.open_container(str(path), LIMITS) as (opened, stream):
        table = container.read_packet_table(opened, stream, container.Deadline(str(path), 10))
    assert np.flatnonzero(table.is_start_mask).tolist() == [0]


def lossless(tmp_path, frames, name="a.mkv") -> Clip:
    path = write_clip(tmp_path / name, frames, "ffv1", "bgr0")
    return read_clip(path, FrameRequest(len(frames), S), limits=LIMITS)


def test_indices_are_places_in_order_of_presentation(tmp_path):
    frames = pictures(17, 51, 43)
    clip = lossless(tmp_path, frames)
    for index, frame in zip(clip.indices, clip.frames, strict=True):
        np.testing.assert_array_equal(frame, resize_square(frames[index], S))


def test_a_time_span(tmp_path):
    path = write_clip(tmp_path / "a.mkv", pictures(60, 32, 24), "ffv1", "bgr0", rate=20)
    clip = read_clip(path, FrameRequest(4, S, bound=(1.0, 2.3)), limits=LIMITS)
    # 20 to 46 at 20 fps: step 6.5, half 3.25; 6.5 -> 6, 13, 19.5 -> 20.
    assert clip.indices.tolist() == [23, 29, 36, 43]
    with pytest.raises(VideoError, match="outside the clip"):
        read_clip(path, FrameRequest(4, S, bound=(8.0, 9.0)), limits=LIMITS)


BT601, BT709, BT2020, UNTAGGED = 5, 1, 9, 2
LIMITED, FULL, UNKNOWN = 1, 2, 0

FORMATS = [
    ("libx264", "a.mp4", "yuv420p", (64, 48), {}),
    ("libx264", "a.mp4", "yuv420p", (66, 50), {}),
    ("libx264", "a.mp4", "yuv422p", (66, 49), {}),
    ("libx264", "a.mp4", "yuv444p", (65, 49), {}),
    ("libx264", "a.mp4", "yuvj420p", (64, 48), {}),
    ("libx264", "a.mp4", "gray", (65, 49), {}),
    ("libx264", "a.mp4", "yuv420p", (64, 64), {"x264-params": "interlaced=1:tff=1"}),
    ("mpeg4", "a.mp4", "yuv420p", (65, 48), {}),
    ("libvpx-vp9", "a.webm", "yuv420p", (65, 48), {"deadline": "realtime"}),
    ("mjpeg", "a.avi", "yuvj422p", (64, 48), {}),
    ("flv1", "a.flv", "yuv420p", (64, 48), {}),
    ("ffv1", "a.mkv", "bgr0", (67, 51), {}),
]


@pytest.mark.parametrize(("codec", "name", "pixels", "size", "extra"), FORMATS)
def test_colours_equal_decord(tmp_path, codec, name, pixels, size, extra):
    """Colour tags too: BT.709 and full range where a file says so, BT.601 where it does not."""
    decord_module()
    for colorspace, color_range in (
        (UNTAGGED, UNKNOWN),
        (BT709, LIMITED),
        (BT601, FULL),
        (BT2020, LIMITED),
    ):
        path = write_clip(
            tmp_path / name,
            pictures(3, *size),
            codec,
            pixels,
            options=extra,
            colorspace=colorspace,
            color_range=color_range,
        )
        ours = read_clip(path, FrameRequest(3, 56), limits=LIMITS)
        theirs = read_clip(path, FrameRequest(3, 56), decoder="decord", limits=LIMITS)
        np.testing.assert_array_equal(ours.frames, theirs.frames)


def test_colour_tags_change_the_picture(tmp_path):
    """So that the test above could see them ignored."""
    clips = [
        read_clip(
            write_clip(
                tmp_path / f"{tag}.mp4", pictures(2, 64, 48), colorspace=tag, color_range=LIMITED
            ),
            FrameRequest(2, S),
            limits=LIMITS,
        )
        for tag in (BT601, BT709)
    ]
    assert max_difference(clips[0].frames, clips[1].frames) > 5


def test_interlaced_frames_are_left_as_they_are(tmp_path):
    decord_module()
    path = write_clip(
        tmp_path / "a.mp4", pictures(3, 64, 64), options={"x264-params": "interlaced=1:tff=1"}
    )
    with av.open(str(path)) as opened:
        frame = next(opened.decode(video=0))
    assert frame.interlaced_frame
    by_fields = resize_square(frame.to_ndarray(format="rgb24"), 64)
    whole = read_clip(path, FrameRequest(1, 64), limits=LIMITS).frames[0]
    assert max_difference(by_fields, whole) > 5


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_passes_untone_mapped_with_a_warning(tmp_path, transfer):
    path = write_clip(
        tmp_path / "a.mp4",
        pictures(3, 64, 48),
        pixel_format="yuv420p10le",
        colorspace=BT2020,
        color_range=LIMITED,
        transfer=transfer,
    )
    clip = read_clip(path, FrameRequest(3, S), limits=LIMITS)
    name = {16: "pq", 18: "hlg"}[transfer]
    assert clip.facts.transfer == name and clip.facts.bit_depth == 10
    assert any(name.upper() in warning and "tone" in warning for warning in clip.warnings)
    plain = write_clip(
        tmp_path / "b.mp4",
        pictures(3, 64, 48),
        pixel_format="yuv420p10le",
        colorspace=BT2020,
        color_range=LIMITED,
    )
    plain = read_clip(plain, FrameRequest(3, S), limits=LIMITS)
    np.testing.assert_array_equal(clip.frames, plain.frames)
    assert plain.facts.transfer == "sdr" and not plain.warnings


def test_a_size_that_changes_in_mid_stream(tmp_path):
    """Two raw streams end to end: every frame is squashed from its own size."""
    parts = [
        write_clip(tmp_path / f"{i}.h264", pictures(5, *size, seed=i), options={"bf": "0"})
        for i, size in enumerate(((64, 48), (96, 80)))
    ]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = read_clip(both, FrameRequest(10, S), limits=LIMITS)
    assert clip.facts.num_frames == 10
    separate = [read_clip(part, FrameRequest(5, S), limits=LIMITS) for part in parts]
    first = separate[0].frames[list(separate[0].indices).index(1)]
    np.testing.assert_array_equal(clip.frames[list(clip.indices).index(1)], first)
    last = separate[1].frames[list(separate[1].indices).index(3)]
    np.testing.assert_array_equal(clip.frames[list(clip.indices).index(8)], last)


def test_fewer_frames_than_wanted(tmp_path):
    clip = lossless(tmp_path, pictures(3, 32, 24))
    assert clip.warnings == ()
    path = write_clip(tmp_path / "b.mkv", pictures(3, 32, 24), "ffv1", "bgr0")
    clip = read_clip(path, FrameRequest(7, S), limits=LIMITS)
    assert clip.indices.tolist() == [0, 0, 1, 1, 1, 1, 2]
    np.testing.assert_array_equal(clip.frames[2], clip.frames[5])
    assert "the clip has 3 frames for the 7" in clip.warnings[0]


@pytest.mark.parametrize("size", [(1, 1), (8000, 16), (16, 8000), (2, 3)])
def test_extreme_shapes(tmp_path, size):
    path = write_clip(tmp_path / "a.mkv", pictures(4, *size), "ffv1", "bgr0")
    clip = read_clip(path, FrameRequest(4, S), limits=LIMITS)
    assert clip.frames.shape == (4, S, S, 3) and clip.facts.width == size[0]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("png", "png"), ("jpg", "jpeg"), ("webp", "webp"), ("bmp", "bmp")]
)
def test_still_images_are_one_frame_repeated(tmp_path, suffix, codec):
    picture = pictures(1, 52, 39)[0]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path)
    clip = read_clip(path, FrameRequest(5, S))
    assert (clip.facts.codec, clip.facts.num_frames, clip.facts.fps) == (codec, 1, 0.0)
    assert clip.indices.tolist() == [0] * 5 and "still image" in clip.warnings[0]
    with Image.open(path) as image:
        expected = resize_square(np.asarray(image.convert("RGB")), S)
    for frame in clip.frames:
        np.testing.assert_array_equal(frame, expected)


def test_the_orientation_of_a_photo_is_applied(tmp_path):
    picture = pictures(1, 52, 39)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned 90 degrees clockwise
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    clip = read_clip(tmp_path / "a.png", FrameRequest(1, S))
    assert (clip.facts.width, clip.facts.height) == (39, 52)
    np.testing.assert_array_equal(clip.frames[0], resize_square(np.rot90(picture, -1).copy(), S))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((5, 7), 0x4080, np.uint16)).save(tmp_path / "a.png")
    clip = read_clip(tmp_path / "a.png", FrameRequest(1, S))
    assert (clip.frames == 0x40).all() and clip.facts.bit_depth == 16


def test_an_animated_picture(tmp_path):
    images = [Image.fromarray(picture) for picture in pictures(3, 32, 24)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    assert read_clip(tmp_path / "a.gif", FrameRequest(3, S)).facts.num_frames == 3
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], lossless=True)
    clip = read_clip(tmp_path / "a.webp", FrameRequest(3, S))
    np.testing.assert_array_equal(clip.frames[2], resize_square(np.asarray(images[0]), S))


def test_facts_are_plain_json(tmp_path):
    import dataclasses

    clip = lossless(tmp_path, pictures(3, 32, 24))
    facts = json.loads(json.dumps(dataclasses.asdict(clip.facts), allow_nan=False))
    assert facts["container"] == "matroska,webm" and facts["decoder"] == "pyav"
    assert facts["file_bytes"] == (tmp_path / "a.mkv").stat().st_size


def test_reading_a_clip_does_not_import_jax():
    code = "import sys, vqathinker_jax.data.pool, vqathinker_jax.data.pyav\n"
    code += "print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("decoder", ["pyav", "decord", "pool"])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_stretches_read_in_one_walk_equal_those_read_alone(tmp_path, suffix, decoder):
    """Where seeking is exact and where it is not; with extras, bursts and shared boundaries."""
    if decoder == "decord":
        decord_module()
    codec = "libx264" if suffix == ".mp4" else "mpeg4"
    write_clip(tmp_path / f"a{suffix}", pictures(43, 64, 48), codec=codec, rate=10)
    alone = FrameRequest(4, S, num_extras=2, fragment_size=S // 2, burst=2)
    bounds = ((0.0, 1.5), (1.5, 3.0), (3.0, 4.3))
    together = dataclasses.replace(alone, bounds=bounds)

    def read(request: FrameRequest) -> Clip:
        path = tmp_path / f"a{suffix}"
        if decoder == "pool":
            return read_clip_bounded(path, request)
        return read_clip(path, request, decoder=decoder, limits=LIMITS)

    parts = split_clip(read(together), together)
    assert len(parts) == 3
    for bound, part in zip(bounds, parts, strict=True):
        expected = read(dataclasses.replace(alone, bound=bound))
        assert part.frames.shape == (6, S, S, 3)
        np.testing.assert_array_equal(part.frames, expected.frames)
        np.testing.assert_array_equal(part.indices, expected.indices)
        assert (part.facts, part.warnings) == (expected.facts, expected.warnings)
    with pytest.raises(ValueError, match="either bound or bounds"):
        dataclasses.replace(together, bound=(0.0, 1.0))


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="decoder must be one of pyav, decord"):
        read_clip(tmp_path / "a.mp4", FrameRequest(3, S), decoder="ffmpeg")
    with pytest.raises(ValueError, match="start < end"):
        read_clip(tmp_path / "a.mp4", FrameRequest(3, S, bound=(2.0, 1.0)))
    with pytest.raises(ValueError, match="at least 1"):
        read_clip(tmp_path / "a.mp4", FrameRequest(0, S))
    with pytest.raises(ValueError, match="multiple of fragment_size"):
        FrameRequest(3, 28, num_extras=1, fragment_size=8)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_details_follow_the_frames(tmp_path, decoder):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheels for this system")
    path = write_clip(tmp_path / "a.mp4", pictures(31, 128, 96))
    plain = read_clip(path, FrameRequest(5, 96), decoder=decoder, limits=LIMITS)
    request = FrameRequest(5, 96, num_extras=2, fragment_size=32)
    clip = read_clip(path, request, decoder=decoder, limits=LIMITS)
    assert clip.frames.shape == (7, 96, 96, 3) and clip.indices.shape == (5,)
    np.testing.assert_array_equal(clip.frames[:5], plain.frames)
    assert clip.warnings == plain.warnings
    # As high as the mosaic and 32 columns wider: row r of fragments shows rows 32 r to 32 r + 31,
    # and slots 1 and 3 of 5 frames are shown. Columns: (2 c + 1) 128 / 6 - 16 is 5.3, 48, 90.7.
    for detail, slot in ((5, 1), (6, 3)):
        whole = decode_frame(path, int(clip.indices[slot]))
        wanted = np.concatenate([whole[:, left : left + 32] for left in (5, 48, 91)], axis=1)
        np.testing.assert_array_equal(clip.frames[detail], wanted)


def decode_frame(path, index):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return RGBConverter()(frames[index])


def test_a_still_has_details(tmp_path):
    picture = pictures(1, 60, 44)[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    clip = read_clip(tmp_path / "a.png", FrameRequest(2, S, num_extras=1, fragment_size=S))
    # One fragment, in the middle: (44 - 28) / 2 and (60 - 28) / 2.
    np.testing.assert_array_equal(clip.frames[2], picture[8:36, 16:44])
    np.testing.assert_array_equal(clip.frames[1], resize_square(picture, S))
