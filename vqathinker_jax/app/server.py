"""The page over HTTP: this machine's browsers alone, unless a person says otherwise."""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vqathinker_jax.app.jobs import OVER, Desk
from vqathinker_jax.app.limits import Limits
from vqathinker_jax.app.uploads import Refused, Uploads, check_upload, shown_bytes, shown_name
from vqathinker_jax.data.clip import printable
from vqathinker_jax.data.sources import VIDEO_SUFFIXES
from vqathinker_jax.reports.page import environment, script_hashes

POLICY = (
    "default-src 'none'; img-src data:; media-src blob:; style-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src "
)
TOKEN_HEADER = "X-VQAThinker"
"""Carries the secret of the page: another site can neither read nor set it."""
MOST_CONNECTIONS = 64
BEAT_S = 15.0
"""Seconds after which a silent stream says that it is alive."""
DRAIN_BYTES, DRAIN_S = 64 * 2**20, 3.0
"""What is read of a refused upload, so that its sender sees why before the line is cut."""


class AppServer(ThreadingHTTPServer):
    """Serves one page, its uploads and their events.

    Args:
      host: name or address to listen at.
      port: 0 for any free one.
      desk, uploads, limits: behind the page.
      model_name, model_kind, warning: what the page says of the model.
      samples: answers asked for per video.

    Raises:
      OSError: it cannot listen there.
    """

    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        *,
        desk: Desk,
        uploads: Uploads,
        limits: Limits,
        model_name: str,
        model_kind: str,
        warning: str | None,
        samples: int,
    ):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = found[0]
        self.desk, self.uploads, self.limits = desk, uploads, limits
        self.token = secrets.token_urlsafe(32)
        self._connections = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(found[4][:2], Handler)
        self.is_loopback = ipaddress.ip_address(self.server_address[0]).is_loopback
        self._own_names = set() if self.is_loopback else {socket.gethostname().lower()}
        template = environment("vqathinker_jax.app", "").get_template("page.html")
        page = template.render(
            model=printable(model_name),
            kind=model_kind,
            warning=None if warning is None else printable(warning),
            token=self.token,
            samples=samples,
            upload_bytes=limits.upload_bytes,
            shown_limit=shown_bytes(limits.upload_bytes),
            job_s=f"{limits.job_s:g}",
            suffixes=",".join(sorted(VIDEO_SUFFIXES)),
            token_header=TOKEN_HEADER,
        )
        self.policy = POLICY + script_hashes(page)
        self.page = page.encode()

    @property
    def address(self) -> str:
        """Where the page is, for a browser on this machine."""
        host, port = self.server_address[:2]
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:
            host = "127.0.0.1" if ip.version == 4 else "::1"
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def is_our_host(self, header: str) -> bool:
        """Whether a Host header means us.

        A name that an attacker points to this machine would make the browser treat their page as
        ours; so names are refused, but for those of this machine. Beyond loopback addresses are
        taken as they are: no name has to be resolved to reach them.
        """
        try:
            parts = urllib.parse.urlsplit(f"//{header}")
            name, port = (parts.hostname or "").lower(), parts.port or 80
        except ValueError:
            return False
        if port != self.server_address[1]:
            return False
        try:
            ip = ipaddress.ip_address(name)
        except ValueError:
            return name in {"localhost"} | self._own_names
        return ip.is_loopback or not self.is_loopback

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves in the middle is no error; anything else is shown as usual."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: AppServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vqathinker", ""
    timeout = 60.0
    """Seconds a browser may be silent in the middle of something."""

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def _serve(self, answer) -> None:
        try:
            if not self.server.is_our_host(self.headers.get("Host", "")):
                raise Refused(403, "this page is not served under that name")
            answer(urllib.parse.urlsplit(self.path))
        except Refused as refused:
            self.close_connection = True
            self._send(refused.status, {"error": refused.reason})
            self._drain()

    def _get(self, url: urllib.parse.SplitResult) -> None:
        match url.path.split("/")[1:]:
            case [""]:
                self._send(200, self.server.page, "text/html; charset=utf-8")
            case ["queue"]:
                self._send(200, self.server.desk.counts())
            case ["jobs", job_id, "events"]:
                self._stream(job_id)
            case _:
                raise Refused(404, "there is nothing here")

    def _post(self, url: urllib.parse.SplitResult) -> None:
        self._check_sender()
        if url.path != "/jobs":
            raise Refused(404, "there is nothing here")
        name = urllib.parse.parse_qs(url.query).get("name", [""])[0]
        length = self._length()
        check_upload(name, length, self.server.limits)
        with self.server.desk.place():
            path = self.server.uploads.receive(name, length, self.rfile)
            job = self.server.desk.add(shown_name(name), path)
        self._send(201, {"id": job.id})

    def _delete(self, url: urllib.parse.SplitResult) -> None:
        self._check_sender()
        match url.path.split("/")[1:]:
            case ["jobs", job_id]:
                self.server.desk.cancel(job_id)
                self._send(200, {})
            case _:
                raise Refused(404, "there is nothing here")

    def _check_sender(self) -> None:
        """Raises Refused where a request that changes something was not sent by our own page."""
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{self.headers['Host']}".lower():
            raise Refused(403, "requests from other sites are refused")
        if self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Refused(403, "requests from other sites are refused")
        token = self.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(403, "the page is out of date; reload it")

    def _length(self) -> int:
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "the size of an upload must be known beforehand")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise Refused(411, "the size of an upload must be known beforehand")
        return int(length)

    def _stream(self, job_id: str) -> None:
        """Server-sent events: all that a job has said so far, then what comes, until its end."""
        desk = self.server.desk
        job = desk.find(job_id)
        last = self.headers.get("Last-Event-ID", "")
        seen = int(last) + 1 if last.isascii() and last.isdigit() and len(last) < 9 else 0
        self.close_connection = True
        self._begin(200, "text/event-stream; charset=utf-8", None)
        while True:
            news = desk.news(job, seen, BEAT_S)
            for kind, facts in news:
                body = f"id: {seen}\nevent: {kind}\ndata: {json.dumps(facts)}\n\n"
                self.wfile.write(body.encode())
                seen += 1
            if not news:
                if job.state == OVER or desk.is_closed:
                    return
                self.wfile.write(b": alive\n\n")
            self.wfile.flush()

    def _send(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._begin(status, kind, len(data))
        self.wfile.write(data)
        self.wfile.flush()

    def _begin(self, status: int, kind: str, length: int | None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "Content-Security-Policy": self.server.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        if length is not None:
            headers["Content-Length"] = str(length)
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _drain(self) -> None:
        """Reads some of what a refused sender still sends: else it sees a cut line, no answer."""
        length = self.headers.get("Content-Length", "0")
        left = min(int(length) if length.isascii() and length.isdigit() else 0, DRAIN_BYTES)
        end = time.monotonic() + DRAIN_S
        self.connection.settimeout(DRAIN_S)
        try:
            while left > 0 and time.monotonic() < end:
                data = self.rfile.read1(min(left, 1 << 16))
                if not data:
                    return
                left -= len(data)
        except OSError:
            return
