"""What processes tell each other; here there is but one."""

import pytest

from vqathinker_jax.processes import (
    ProcessesError,
    disagreement,
    first_does,
    first_says,
    gather_texts,
    join,
    require_agreement,
    wait_for_all,
)


def test_differences_are_named_with_who_holds_what():
    facts = [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "y", "c": "z" * 99}]
    assert disagreement(facts) == [
        "a is 1 on processes 0 and 1, 2 on process 2",
        "b is x on process 0, y on processes 1 and 2",
        f"c is (absent) on processes 0 and 1, {'z' * 57}... on process 2",
    ]
    assert disagreement(facts[:1] * 3) == []


def test_a_process_alone_agrees_with_itself():
    require_agreement({"a": "1"})
    wait_for_all("nobody")
    assert gather_texts("text", "a text") == ["text"]
    assert first_says(lambda: True, "a question") and not first_says(lambda: False, "another")
    done = []
    first_does(lambda: done.append(1), "counting", ())
    assert done == [1]


def test_what_the_first_process_raises_all_raise():
    def fail():
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        first_does(fail, "looking", (OSError, KeyError))
    with pytest.raises(KeyError):
        first_does(fail, "looking", (OSError,))


def test_without_a_launcher_the_options_are_asked_for(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProcessesError, match="give --coordinator, --processes and --process"):
        join(None, None, None, 1)
    with pytest.raises(ProcessesError, match="process 5 is none of 2"):
        join("localhost:1", 2, 5, 1)
