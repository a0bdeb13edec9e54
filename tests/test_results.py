"""Result rows as JSON lines."""

import json

import pytest

from tests.test_result_file import result
from vqathinker_jax.results import FIELDS, result_from_json


def test_json_round_trip_keeps_every_field(tmp_path):
    made = result("r\udcff.mp4")
    assert result_from_json(made.to_json()) == made
    assert set(json.loads(made.to_json())) == set(FIELDS)
    made.to_json().encode("ascii")  # any terminal and any file can hold it


def test_nonsense_in_a_new_field_is_refused():
    for row in (
        {"timeline": 3},
        {"timeline": [{"start": 1}]},
        {"timeline": [7]},
        {"interval": [1, 2, 3]},
    ):
        with pytest.raises(ValueError, match="its "):
            result_from_json(json.dumps({"path": "x", "status": "ok", **row}))
