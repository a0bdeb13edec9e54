"""The page over plain HTTP: what is served, to whom, and what is refused."""

import http.client
import json
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.app.fakes import REASONING, WARNING, FakeJudge, serve
from tests.reports.records import write_clip
from vqathinker_jax.app.limits import Limits
from vqathinker_jax.app.server import TOKEN_HEADER


class Client:
    """Requests as our own page sends them, or as somebody else would."""

    def __init__(self, server):
        self.server = server
        self.port = server.server_address[1]

    def ask(self, method, path, body=None, headers=None, host=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Host": host or f"127.0.0.1:{self.port}", **(headers or {})}
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def ours(self) -> dict[str, str]:
        return {TOKEN_HEADER: self.server.token, "Origin": f"http://127.0.0.1:{self.port}"}

    def upload(self, path: Path, name: str = "clip.mp4", **headers):
        quoted = f"/jobs?name={name}"
        return self.ask("POST", quoted, path.read_bytes(), {**self.ours(), **headers})

    def events(self, job_id: str, headers=None) -> list[tuple[str, dict]]:
        status, body, _ = self.ask("GET", f"/jobs/{job_id}/events", headers=headers)
        assert status == 200
        found = re.findall(r"id: \d+\nevent: (\w+)\ndata: (.*)\n\n", body.decode())
        return [(kind, json.loads(data)) for kind, data in found]

    def left(self) -> list[Path]:
        return list(self.server.uploads.folder.iterdir())


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture
def client():
    with serve(FakeJudge(), Limits(upload_bytes=200_000)) as server:
        yield Client(server)


def test_the_page_says_what_the_model_is_and_allows_nothing_foreign(client):
    status, body, headers = client.ask("GET", "/")
    page = body.decode()
    assert status == 200 and WARNING in page and client.server.token in page
    assert "http://" not in page and "https://" not in page and "//" + "cdn" not in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert re.search(r"script-src 'sha256-[^' ]+'$", policy) and "unsafe-eval" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_what_the_model_is_called_is_text():
    with serve(FakeJudge(), warning="<script>x</script>") as server:
        page = Client(server).ask("GET", "/")[1].decode()
    assert "&lt;script&gt;x" in page and page.count("<script>") == 1


def test_a_video_is_judged_streamed_and_deleted(client, clip):
    status, body, _ = client.upload(clip)
    assert status == 201
    job_id = json.loads(body)["id"]
    events = client.events(job_id)
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "result" and kinds.index("frames") < kinds.index("text")
    texts = [facts["text"] for kind, facts in events if kind == "text"]
    assert texts == sorted(texts, key=len) and REASONING[:20] in texts[-1]
    result = events[-1][1]
    assert result["score"] == 3.5 and result["std"] == 0.5 and result["scores"] == [3.5, 4.0, 3.0]
    assert result["reasoning"] == REASONING and "mpeg4" in result["facts"]
    assert client.left() == []
    assert str(client.server.uploads.folder) not in json.dumps(events)
    # A stream that was cut goes on where it was.
    assert client.events(job_id, {"Last-Event-ID": str(len(events) - 2)}) == events[-1:]


def test_a_broken_file_is_an_error_in_the_persons_words_and_deleted(client, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 50)
    job_id = json.loads(client.upload(broken)[1])["id"]
    kind, facts = client.events(job_id)[-1]
    assert kind == "result" and facts["status"] == "error" and facts["score"] is None
    assert facts["error"].startswith("cannot be read as a video")
    assert client.left() == []


@pytest.mark.parametrize(
    ("name", "data", "status", "said"),
    [
        ("notes.txt", b"x", 415, "not the ending of a video"),
        ("clip.mp4", b"", 400, "empty"),
        ("clip.mp4", b"x" * 200_001, 413, "at most 195 KiB"),
        ("clip.mp4", b"#EXTM3U\n/etc/passwd\n", 415, "list of other files"),
        ("clip.mp4", b"\xff\xd8\xff" + b"x" * 40, 415, "still image"),
        ("", b"x", 415, "not the ending of a video"),
    ],
)
def test_wrong_files_are_refused_and_nothing_stays(client, tmp_path, name, data, status, said):
    (tmp_path / "file").write_bytes(data)
    got, body, _ = client.upload(tmp_path / "file", name)
    assert got == status and said in json.loads(body)["error"]
    assert client.left() == [] and client.server.desk.counts() == {"running": 0, "waiting": 0}


def test_a_size_far_over_the_limit_is_refused_before_it_is_read(client):
    headers = {**client.ours(), "Content-Length": str(10**15)}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = f"POST /jobs?name=a.mp4 HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as line:
        line.sendall((head + "\r\n".join(lines) + "\r\n\r\n").encode())
        assert b" 413 " in line.recv(4096)
    assert client.left() == []


def test_uploads_without_a_size_are_refused(client):
    chunked = {**client.ours(), "Transfer-Encoding": "chunked"}
    assert client.ask("POST", "/jobs?name=a.mp4", iter([b"x"]), chunked)[0] == 411
    odd = {**client.ours(), "Content-Length": "-5"}
    assert client.ask("POST", "/jobs?name=a.mp4", None, odd)[0] == 411


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {TOKEN_HEADER: "guess"},
        {TOKEN_HEADER: "ä"},
        {TOKEN_HEADER: ""},
    ],
)
def test_requests_of_other_sites_are_refused(client, clip, headers):
    if TOKEN_HEADER in headers:
        headers = {name: value.encode() for name, value in headers.items()}
    status, body, answered = client.upload(clip, **headers)
    assert status == 403 and "error" in json.loads(body)
    assert "Access-Control-Allow-Origin" not in answered
    assert client.ask("DELETE", "/jobs/x", headers={**client.ours(), **headers})[0] == 403
    assert client.left() == []
    # No pre-flight is ever granted.
    status, _, answered = client.ask("OPTIONS", "/jobs", headers=headers)
    assert status == 501 and "Access-Control-Allow-Origin" not in answered


def test_names_that_are_not_ours_are_refused(client):
    for host in ("evil.example", f"evil.example:{client.port}", "127.0.0.1:1", "10.0.0.1", "["):
        assert client.ask("GET", "/", host=host)[0] == 403
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert client.ask("GET", "/", host=f"{host}:{client.port}")[0] == 200


def test_beyond_loopback_addresses_are_taken_and_names_are_not():
    with serve(FakeJudge(), host="0.0.0.0") as server:
        port = server.server_address[1]
        assert not server.is_loopback and server.address == f"http://127.0.0.1:{port}/"
        assert server.is_our_host(f"192.168.1.7:{port}")
        assert server.is_our_host(f"{socket.gethostname()}:{port}")
        assert not server.is_our_host(f"evil.example:{port}")


def test_there_is_nothing_else(client):
    for path in ("/x", "/../pyproject.toml", "/jobs", "/jobs/none/events", "/queue/"):
        assert client.ask("GET", path)[0] == 404
    assert client.ask("POST", "/x", b"", client.ours())[0] == 404
    assert client.ask("DELETE", "/jobs/none", headers=client.ours())[0] == 404
    assert client.ask("PUT", "/jobs", b"x")[0] == 501


def test_the_queue_is_seen_bounded_and_stopped(clip):
    gate = threading.Event()
    with serve(FakeJudge(gate=gate), Limits(waiting=1)) as server:
        client = Client(server)
        first = json.loads(client.upload(clip)[1])["id"]
        while server.desk.counts()["running"] == 0:
            time.sleep(0.01)
        second = json.loads(client.upload(clip)[1])["id"]
        assert json.loads(client.ask("GET", "/queue")[1]) == {"running": 1, "waiting": 1}
        status, body, _ = client.upload(clip)
        assert status == 503 and "waiting already" in json.loads(body)["error"]
        assert len(client.left()) == 2
        assert client.ask("DELETE", f"/jobs/{second}", headers=client.ours())[0] == 200
        assert client.events(second)[-1] == ("failed", {"reason": "stopped"})
        assert len(client.left()) == 1
        gate.set()
        assert client.events(first)[-1][0] == "result"
        assert client.left() == []


def test_nothing_is_left_when_the_page_is_closed_in_the_middle(clip):
    gate = threading.Event()
    with serve(FakeJudge(gate=gate)) as server:
        client = Client(server)
        client.upload(clip)
        while server.desk.counts()["running"] == 0:
            time.sleep(0.01)
        client.upload(clip)
        folder = server.uploads.folder
        assert len(client.left()) == 2
        threading.Timer(0.2, gate.set).start()
    assert not folder.exists()


def test_an_upload_that_is_cut_leaves_nothing(client, clip):
    head = f"POST /jobs?name=a.mp4 HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
    sent = {**client.ours(), "Content-Length": "5000"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as line:
        line.sendall((head + lines + "\r\n").encode() + clip.read_bytes()[:500])
        line.shutdown(socket.SHUT_WR)
        assert b" 400 " in line.recv(4096)
    assert client.left() == []
