"""A language model as the judge: a server of our own that answers, fails, and talks nonsense."""

import http.server
import json
import threading

import pytest

from vqathinker_jax.evaluation.judge import KEY_VARIABLE, JudgeConfig, LanguageJudge, read_verdict

GOOD = json.dumps(
    {"color": True, "noise": False, "artifact": False, "blur": True, "temporal": False}
)


def completion(content) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.fixture
def endpoint():
    """A server that gives the queued (status, body) replies and keeps what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, self.headers.get("Authorization"), body))
            status, reply = server.replies.pop(0)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.replies = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def judge(server, tmp_path, **changes) -> LanguageJudge:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    options = {"timeout_s": 5, "attempts": 3, "wait_s": 0} | changes
    return LanguageJudge(JudgeConfig(url, "m", **options), tmp_path / "judge.jsonl")


def record(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "judge.jsonl").read_text().splitlines()]


def test_a_verdict_is_recorded_and_asked_for_once(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    endpoint.replies = [(200, completion(GOOD))]
    assert judge(endpoint, tmp_path).named("Dark and soft.", "a.mp4") == ("color", "blur")
    ((path, key, body),) = endpoint.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer s3cret")
    assert body["model"] == "m" and body["messages"][0]["content"].endswith("Dark and soft.")
    (row,) = record(tmp_path)
    assert row["video"] == "a.mp4" and row["answer"] == GOOD and row["verdict"] == ["color", "blur"]
    assert row["prompt"] == body["messages"][0]["content"]
    assert "s3cret" not in (tmp_path / "judge.jsonl").read_text()
    # Another run reads it.
    assert judge(endpoint, tmp_path).named("Dark and soft.", "a.mp4") == ("color", "blur")
    assert len(endpoint.asked) == 1


def test_nonsense_is_recorded_and_asked_again(endpoint, tmp_path):
    endpoint.replies = [
        (200, completion("Mostly blur, I think")),
        (500, b"oops"),
        (200, completion(f"```json\n{GOOD}\n```")),
    ]
    assert judge(endpoint, tmp_path).named("x", "a.mp4") == ("color", "blur")
    rows = record(tmp_path)
    assert [row["attempt"] for row in rows] == [1, 2, 3]
    assert rows[0]["answer"] == "Mostly blur, I think" and "five booleans" in rows[0]["error"]
    assert rows[1]["error"] == "HTTP status 500" and rows[1]["verdict"] is None


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, b"<html>"), "not a chat completion"),
        ((200, completion(None)), "no text"),
        ((200, completion(GOOD.replace("true", "1"))), "five booleans"),
        ((200, b"x" * 2_000_000), "longer than"),
        ((302, b""), "HTTP status 302"),  # a key does not follow a redirect
        ((401, b""), "HTTP status 401"),
    ],
)
def test_no_verdict_after_the_last_attempt(reply, said, endpoint, tmp_path):
    endpoint.replies = [reply, reply]
    assert judge(endpoint, tmp_path, attempts=2).named("x", "a.mp4") is None
    rows = record(tmp_path)
    assert len(rows) == 2 and all(said in row["error"] for row in rows)
    assert all(path == "/v1/chat/completions" for path, *_ in endpoint.asked)


def test_an_endpoint_that_is_down(endpoint, tmp_path):
    down = JudgeConfig("http://127.0.0.1:9/v1", "m", timeout_s=2, attempts=2, wait_s=0)
    assert LanguageJudge(down, tmp_path / "judge.jsonl").named("x", "a.mp4") is None
    assert len(record(tmp_path)) == 2
    # A failure is no verdict: the text is asked about again.
    (tmp_path / "judge.jsonl").open("a").write('{"cut sh')
    endpoint.replies = [(200, completion(GOOD))]
    assert judge(endpoint, tmp_path).named("x", "a.mp4") == ("color", "blur")
    # The line that was cut short is gone for good.
    assert len(record(tmp_path)) == 3
    assert judge(endpoint, tmp_path).named("x", "a.mp4") == ("color", "blur")


def test_refused():
    for url in ("ftp://a/v1", "a/v1", "http://", "http://user:key@a/v1", "http://a/v1?key=1"):
        with pytest.raises(ValueError, match="address"):
            JudgeConfig(url, "m")
    with pytest.raises(ValueError, match="--judge-model"):
        JudgeConfig("http://a/v1", "")
    assert read_verdict("[]") is None and read_verdict('{"color": true}') is None
