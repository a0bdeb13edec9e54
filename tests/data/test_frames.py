"""The published choice of frames, against values worked out by hand."""

import numpy as np
import pytest

from vqathinker_jax.data.clip import FrameRequest
from vqathinker_jax.data.frames import (
    FrameCollector,
    Places,
    burst_indices,
    choose_places,
    frame_indices,
)


def test_a_clip_of_240_frames():
    # last 239, step 239/12 = 19.9167, half a step 9.9583; i = 5: 99.58 -> 100,
    # 109.96 -> 109; i = 6: 119.5 -> 120 (even), 129.96 -> 129.
    expected = [9, 29, 49, 69, 89, 109, 129, 148, 168, 188, 208, 228]
    found = frame_indices(240, 29.97, 12)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_training_geometry():
    # last 99, step 16.5, half 8.25; 16.5 rounds to 16 and 49.5 to 50: half to even.
    assert frame_indices(100, 25.0, 6).tolist() == [8, 24, 41, 58, 74, 90]


def test_rounding_is_half_to_even_before_half_a_step_is_added():
    # last 10, step 2.5, half 1.25; 2.5 -> 2 and 7.5 -> 8: rounding half up would give 4 and 9.
    assert frame_indices(11, 25.0, 4).tolist() == [1, 3, 6, 9]


def test_the_last_index_is_divided_not_the_number_of_frames():
    # Step 11/12, half 0.458; 5.5 -> 6, 6.42 -> 6. Dividing 12 would give 0..11.
    assert frame_indices(12, 25.0, 12).tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10]


def test_fewer_frames_than_asked_for_repeat():
    # last 2, step 2/7 = 0.2857, half 0.1429; steps round to 0, 0, 1, 1, 1, 1, 2.
    assert frame_indices(3, 25.0, 7).tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert frame_indices(1, 25.0, 5).tolist() == [0] * 5


def test_a_time_span():
    # 1 s to 2.3 s at 10 fps: 10 to 23, step 3.25, half 1.625; 3.25 -> 3, 6.5 -> 6, 9.75 -> 10.
    assert frame_indices(50, 10.0, 4, (1.0, 2.3)).tolist() == [11, 14, 17, 21]
    # The end is cut at the last frame: 40 to 49, step 3, half 1.5.
    assert frame_indices(50, 10.0, 3, (4.0, 9.0)).tolist() == [41, 44, 47]


def test_an_unknown_rate_still_reads_a_whole_clip():
    assert frame_indices(240, 0.0, 12).tolist() == frame_indices(240, 29.97, 12).tolist()
    with pytest.raises(ValueError, match="frame rate is unknown"):
        frame_indices(240, 0.0, 12, (0.0, 1.0))


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 13, 97, 1090])
def test_indices_lie_in_the_clip_and_rise(count):
    found = frame_indices(count, 30.0, 12)
    assert found.min() >= 0 and found.max() < count
    assert (np.diff(found) >= 0).all()


def test_bad_requests():
    with pytest.raises(ValueError, match="cannot choose"):
        frame_indices(0, 25.0, 3)
    with pytest.raises(ValueError, match="outside the clip"):
        frame_indices(50, 10.0, 3, (6.0, 9.0))


def places_of(indices, request):
    return [Places.of(np.array(indices, np.int64), 0, max(indices) + 1, request)]


def test_the_collector_fills_every_slot_of_a_repeated_frame():
    collector = FrameCollector(places_of([0, 2, 2], FrameRequest(3, 3)), FrameRequest(3, 3))
    assert collector.wants(2) and not collector.wants(1)
    collector.add(2, np.full((5, 7, 3), 40, np.uint8))
    collector.add(0, np.full((5, 7, 3), 90, np.uint8))
    assert collector.frames[:, 0, 0, 0].tolist() == [90, 40, 40]
    assert not collector.missing and not collector.wants(2)


def test_the_collector_makes_details_of_the_frames_in_their_slots():
    # Slots floor((j + 1/2) 5 / 2): 1 and 3, which show frames 4 and 6.
    request = FrameRequest(5, 4, num_extras=2, fragment_size=2)
    collector = FrameCollector(places_of([2, 4, 4, 6, 8], request), request)
    assert collector.frames.shape == (7, 4, 4, 3)
    for index in (8, 6, 4, 2):
        collector.add(index, np.full((9, 11, 3), 10 * index, np.uint8))
    assert collector.frames[:, 3, 1, 2].tolist() == [20, 40, 40, 60, 80, 40, 60]
    assert not collector.missing


def test_the_collector_puts_each_moment_in_its_column_of_the_slices():
    # Two cells of 2 pixels and 2 moments: frames 1, 2 and 6, 7 of 9; frame 2 is shown too.
    request = FrameRequest(1, 4, fragment_size=2, num_slices=2)
    (places,) = choose_places(9, 25.0, request)
    assert places.frames.tolist() == [4] and places.moments.tolist() == [1, 2, 5, 6]
    collector = FrameCollector([places], request)
    assert collector.frames.shape == (3, 4, 4, 3)
    assert collector.missing == {1, 2, 4, 5, 6}
    for index in sorted(collector.missing):
        assert collector.wants(index)
        collector.add(index, np.full((9, 11, 3), 10 * index, np.uint8))
    assert not collector.missing
    assert (collector.frames[0] == 40).all()
    for image in collector.frames[1:]:
        assert (image[..., 0] == [10, 20, 50, 60]).all()


def test_moments_stay_inside_a_time_span():
    request = FrameRequest(2, 4, (1.0, 2.0), fragment_size=2, num_slices=2)
    (places,) = choose_places(100, 10.0, request)
    assert places.moments.min() >= 10 and places.moments.max() <= 20


def test_stretches_read_in_one_walk_are_those_read_alone():
    clip = np.random.default_rng(0).integers(0, 256, (40, 12, 16, 3), np.uint8)
    spans = ((0.0, 1.0), (0.5, 2.5), (3.0, 4.0))

    def collect(**changes):
        request = FrameRequest(3, 4, num_extras=1, fragment_size=2, num_slices=2, **changes)
        collector = FrameCollector(choose_places(40, 10.0, request), request)
        for index in sorted(collector.missing):
            collector.add(index, clip[index])
        return collector.frames

    alone = [collect(bound=span) for span in spans]
    np.testing.assert_array_equal(collect(bounds=spans), np.concatenate(alone))


@pytest.mark.parametrize(
    ("length", "num", "burst", "wanted"),
    [
        (40, 6, 3, [9, 10, 11, 29, 30, 31]),
        (40, 4, 1, [4, 14, 24, 33]),
        (5, 4, 4, [1, 2, 3, 4]),
        (2, 3, 3, [0, 1, 1]),
    ],
)
def test_bursts_are_runs_of_neighbours(length, num, burst, wanted):
    assert burst_indices(length, 25.0, num, burst).tolist() == wanted


def test_single_frames_are_the_published_choice():
    for length in (1, 7, 100):
        np.testing.assert_array_equal(
            burst_indices(length, 30.0, 6, 1), frame_indices(length, 30.0, 6)
        )
