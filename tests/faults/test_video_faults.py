"""Files that are not the videos they seem to be: each gives one clear line, or what can be read."""

import os
import shutil
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.clips import pictures, write_clip, write_sound
from vqathinker_jax.data.clip import FrameRequest, Limits
from vqathinker_jax.data.video import VideoError, read_clip

F, S = 5, 28
DECODERS = ["pyav", "decord"]


@pytest.fixture(params=DECODERS)
def read(request):
    if request.param == "decord":
        pytest.importorskip("decord", reason="decord has no wheels for this system")

    def read_with(path, limits=None):
        return read_clip(path, FrameRequest(F, S), decoder=request.param, limits=limits)

    return read_with


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "fine.mp4", pictures(40, 64, 48), options={"g": "10"})


def message(read, path, **kwargs) -> str:
    with pytest.raises(VideoError) as caught:
        read(path, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and text.isprintable()
    return text


def test_missing(read, tmp_path):
    assert message(read, tmp_path / "no.mp4") == f"{tmp_path}/no.mp4: there is no such file"


def test_folder_named_like_a_video(read, tmp_path):
    (tmp_path / "a.mp4").mkdir()
    assert message(read, tmp_path / "a.mp4").endswith("is a folder, not a file")


def test_empty(read, tmp_path):
    (tmp_path / "a.mp4").touch()
    assert message(read, tmp_path / "a.mp4").endswith("is empty (0 bytes)")


@pytest.mark.parametrize(
    "content",
    [
        b"hello, world\n" * 99,
        bytes(5000),
        bytes(range(256)) * 40,
        b"\x00\x00\x00\x18ftypmp42",
        b"x",
    ],
)
def test_not_a_video(read, tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    assert "a.mp4: " in message(read, tmp_path / "a.mp4")


def test_sound_only(read, tmp_path):
    path = write_sound(tmp_path / "a.m4a")
    assert message(read, path).endswith("has no video in it, only sound")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file kinds")
def test_pipes_sockets_and_devices_are_not_opened(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert message(read, tmp_path / "pipe.mp4").endswith("is a pipe, not a file")
    short = os.path.relpath(tmp_path / "s.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(short)
        assert message(read, tmp_path / "s.mp4").endswith("is a socket, not a file")
    assert message(read, "/dev/zero").endswith("is a device, not a file")


@pytest.mark.parametrize(
    "name", ["http://a.b/c.mp4", "rtsp://a.b/c", "concat:{0}|{0}", "file:{0}", "subfile,,:{0}"]
)
def test_addresses_and_protocols(read, clip, name):
    assert (
        "is an address" in (text := message(read, name.format(clip)))
        or "there is no such file" in text
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile '{}'\n"),
        ("b.mp4", "ffconcat version 1.0\nfile '{}'\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        (
            "a.mpd",
            '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
            "<Period><AdaptationSet><Representation><BaseURL>{}</BaseURL></Representation>"
            "</AdaptationSet></Period></MPD>",
        ),
    ],
)
def test_playlists_and_scripts_are_not_followed(read, clip, tmp_path, name, content):
    (tmp_path / name).write_text(content.format(clip))
    text = message(read, tmp_path / name)
    assert "list of other files" in text or "not a video" in text or "something else" in text


def test_a_playlist_behind_another_beginning_is_not_followed(read, clip, tmp_path):
    """Only FFmpeg's own guard stands here: the first bytes are not those of a list."""
    text = f"\n#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(text)
    message(read, tmp_path / "a.m3u8")


def test_image_sequences_are_not_expanded(read, tmp_path):
    for i in range(3):
        Image.fromarray(pictures(1, 16, 16)[0]).save(tmp_path / f"{i:03d}.png")
    assert "there is no such file" in message(read, tmp_path / "%03d.png")
    shutil.copy(tmp_path / "001.png", tmp_path / "%03d.png")
    assert read(tmp_path / "%03d.png").facts.num_frames == 1


def test_cut_short_before_its_index(read, clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert "damaged, cut short" in message(read, tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["index_first.mp4", "a.avi"])
def test_cut_short_after_its_index_gives_what_is_there(tmp_path, name):
    options = {"g": "10"}
    whole = write_clip(tmp_path / f"whole_{name}", pictures(40, 64, 48), options=options)
    if name.endswith("mp4"):
        whole = with_index_first(whole)
    (tmp_path / name).write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    clip = read_clip(tmp_path / name, FrameRequest(F, S))
    assert 10 <= clip.facts.num_frames < 40
    assert f"only {clip.facts.num_frames} of the 40 frames" in clip.warnings[0]
    entire = read_clip(whole, FrameRequest(40, S))
    assert not entire.warnings
    first = clip.indices[0]
    slot = entire.indices.tolist().index(first)
    np.testing.assert_array_equal(clip.frames[0], entire.frames[slot])


def with_index_first(path):
    """Writes an MP4 again with its index before its frames."""
    import av

    target = path.with_name("index_first_" + path.name)
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target


@pytest.mark.parametrize("seed", range(4))
def test_damaged_inside(clip, tmp_path, seed):
    """Whatever the damage does: a clip with warnings or one line, and nothing else."""
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(64, len(data), 60):
        data[place] ^= 0xFF
    (tmp_path / "a.mp4").write_bytes(data)
    try:
        found = read_clip(tmp_path / "a.mp4", FrameRequest(F, S))
    except VideoError as error:
        assert "\n" not in str(error)
    else:
        assert found.frames.shape == (F, S, S, 3)


def test_damaged_image(read, tmp_path):
    Image.fromarray(pictures(1, 64, 64)[0]).save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    assert "the image is damaged or cut short" in message(read, tmp_path / "a.png")


def test_frames_with_too_many_pixels(read, clip, tmp_path):
    small = Limits(frame_pixels=3000)
    assert "a frame of 64x48 has more than 3000 pixels" in message(read, clip, limits=small)
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    assert "100x50" in message(read, tmp_path / "a.png", limits=small)


def test_an_image_that_unpacks_to_too_much(read, tmp_path):
    """A decompression bomb: some kilobytes, 19,000 x 19,000 pixels."""
    Image.new("1", (19000, 19000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 10**6
    assert "pixels" in message(read, tmp_path / "a.png")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes(read, clip, tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9 'one' \"two\"\n\x1b[31m.mp4")
    shutil.copy(clip, raw)
    assert read(os.fsdecode(raw)).facts.num_frames == 40
    os.remove(raw)
    text = message(read, os.fsdecode(raw))
    assert "caf\\udce9 'one' \"two\"\\n\\x1b[31m.mp4: there is no such file" in text
    assert "null byte" in message(read, "a\0b.mp4")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(read, clip):
    clip.chmod(0)
    assert "Permission denied" in message(read, clip)


def test_decord_that_is_not_installed(clip, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VideoError, match="decord is not installed"):
        read_clip(clip, FrameRequest(F, S), decoder="decord")
