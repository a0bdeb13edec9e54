"""`vqathinker app` as a process: it says where it is, and leaves nothing when it is ended."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse

import pytest

from vqathinker_jax import cli


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_it_serves_judges_and_cleans_up_when_told_to_end(small_folder, tmp_path, ending):
    (tmp_path / "uploads").mkdir()
    command = [sys.executable, "-m", "vqathinker_jax.cli", "app", "--model", str(small_folder)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--samples", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "uploads")},
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        line = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=30)
        line.request("GET", "/")
        page = line.getresponse().read().decode()
        assert "holds random weights: its answers mean nothing" in page
        (token,) = re.findall(r'data-token="([^"]+)"', page)
        line.request("POST", "/jobs?name=a.mp4", b"no video" * 9, {"X-VQAThinker": token})
        answer = line.getresponse()
        assert answer.status == 201
        job_id = json.loads(answer.read())["id"]
        line.request("GET", f"/jobs/{job_id}/events")
        assert "cannot be read as a video" in line.getresponse().read().decode()
        assert len(list((tmp_path / "uploads").iterdir())) == 1
        process.send_signal(ending)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in said
    assert "random weights" in said and "uploads are deleted" in said
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--port", "99999"], "--port must be at most 65535"),
        (["--port", "x"], "must be a whole number"),
        (["--max-size", "0"], "at least 1"),
        (["--segment", "0"], "a segment must be at least"),
        (["--modle", "t"], "did you mean '--model'?"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_line(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.main(["app", *argv]))
    printed = capsys.readouterr()
    assert stop.value.code == 2 and said in printed.err and printed.out == ""
    assert len(printed.err.strip().splitlines()) <= 2


def test_another_host_is_warned_of_and_a_taken_port_is_said(small_folder, capsys, monkeypatch):
    from vqathinker_jax.app.server import AppServer

    monkeypatch.setattr(AppServer, "serve_forever", lambda self: None)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        model = ["app", "--model", str(small_folder)]
        assert cli.main([*model, "--host", "0.0.0.0", "--port", "0"]) == 0
        printed = capsys.readouterr()
        assert "warning: other machines can reach this page" in printed.err
        assert cli.main([*model, "--port", "0"]) == 0
        assert "warning: other" not in capsys.readouterr().err
        assert cli.main([*model, "--host", "192.0.2.1", "--port", "0"]) == 2
        assert "cannot listen at 192.0.2.1 port 0" in capsys.readouterr().err
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
