"""A language model behind an OpenAI-compatible endpoint as the judge of reasoning texts.

Off unless a person names an endpoint. What was asked and what came back is recorded, a line an
attempt, in a file of JSON lines; a text that has a verdict there is not sent again.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from vqathinker_jax.evaluation.distortions import DIMENSIONS
from vqathinker_jax.whole_file import write_whole

KEY_VARIABLE = "VQATHINKER_JUDGE_KEY"
"""The environment variable that holds the endpoint's key, where it wants one."""
PROMPT = (
    "Below is a text about the quality of a video. Which kinds of distortion does it say the video "
    "has? Judge the text alone. A distortion that is denied does not count.\n"
    "color: wrong exposure, brightness, contrast, saturation or colors\n"
    "noise: noise or grain\n"
    "artifact: compression, blocking, ringing, banding or moire artifacts\n"
    "blur: blur, lack of focus, sharpness or detail\n"
    "temporal: shaking, flickering, stutter, lag or other faults of motion\n"
    'Reply with one JSON object of five booleans and nothing else, like {"color": false, '
    '"noise": false, "artifact": false, "blur": false, "temporal": false}.\n\nText:\n'
)
MOST_BYTES = 1 << 20
"""A longer reply is none."""


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Whom to ask, and how patiently.

    Raises:
      ValueError: no http address, or a value outside its range.
    """

    url: str
    """Base of the API, with its version: https://host/v1."""
    model: str
    timeout_s: float = 60.0
    """Seconds that the endpoint may be silent."""
    attempts: int = 3
    """Tries per text."""
    wait_s: float = 1.0
    """Before the second try; twice as long before each further one."""

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the judge's address must begin with http(s)://, got {self.url!r}")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                f"the judge's address must hold no key; put it into {KEY_VARIABLE} instead"
            )
        if not self.model:
            raise ValueError("name the judge's model with --judge-model")
        if not 0 < self.timeout_s < 3600 or self.attempts < 1 or self.wait_s < 0:
            raise ValueError(f"not a judge's patience: {self}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key must not follow a redirect to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class LanguageJudge:
    """Asks an endpoint which distortions a text names.

    Args:
      config: whom.
      record: JSON lines of every attempt; verdicts already in it are used. A last line that was
        cut short by a kill is dropped.

    Raises:
      OSError: the record cannot be read or written.
      ValueError: the record is not one.
    """

    def __init__(self, config: JudgeConfig, record: Path):
        self.config = config
        self.record = record
        self._verdicts: dict[str, tuple[str, ...]] = {}
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        host = urllib.parse.urlsplit(config.url).hostname
        if host in ("localhost", "127.0.0.1", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        if record.exists():
            text = record.read_text(encoding="utf-8", errors="replace")
            whole, newline, cut = text.rpartition("\n")
            if cut:
                write_whole(record, whole + newline)
            for number, line in enumerate(whole.split("\n"), start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if (row["url"], row["model"]) == (config.url, config.model) and (
                        row["verdict"] is not None
                    ):
                        self._verdicts[row["prompt"]] = tuple(row["verdict"])
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{record} line {number} is not a judge's record") from None

    def named(self, text: str, about: str) -> tuple[str, ...] | None:
        """The dimensions that a text names, of `DIMENSIONS`; None where no verdict was had.

        Args:
          text: the reasoning.
          about: the video, for the record.

        Raises:
          OSError: the record cannot be written.
        """
        prompt = PROMPT + text
        if prompt in self._verdicts:
            return self._verdicts[prompt]
        for attempt in range(1, self.config.attempts + 1):
            if attempt > 1:
                time.sleep(self.config.wait_s * 2 ** (attempt - 2))
            answer, error = self._ask(prompt)
            verdict = None if answer is None else read_verdict(answer)
            if answer is not None and verdict is None:
                error = "the answer is not one JSON object of five booleans"
            self._write(about, attempt, prompt, answer, error, verdict)
            if verdict is not None:
                self._verdicts[prompt] = verdict
                return verdict
        return None

    def _ask(self, prompt: str) -> tuple[str | None, str | None]:
        """The answer, or why there is none."""
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        request = urllib.request.Request(
            self.config.url.rstrip("/") + "/chat/completions",
            data=json.dumps(body).encode(),
            headers=headers,
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self.config.timeout_s) as reply:
                data = reply.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            return None, f"HTTP status {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            return None, f"{type(error).__name__}: {error}"
        if len(data) > MOST_BYTES:
            return None, f"the reply is longer than {MOST_BYTES} bytes"
        try:
            content = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            said = data[:200].decode(errors="replace")
            return None, f"the reply is not a chat completion: {said}"
        return (content, None) if isinstance(content, str) else (None, "the reply holds no text")

    def _write(
        self,
        about: str,
        attempt: int,
        prompt: str,
        answer: str | None,
        error: str | None,
        verdict: tuple[str, ...] | None,
    ) -> None:
        row = {
            "video": about,
            "attempt": attempt,
            "url": self.config.url,
            "model": self.config.model,
            "prompt": prompt,
            "answer": answer,
            "error": error,
            "verdict": verdict,
        }
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with open(self.record, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_verdict(answer: str) -> tuple[str, ...] | None:
    """The dimensions of a reply that is one JSON object of five booleans, fenced or not.

    >>> read_verdict('{"color": true, "noise": false, "artifact": false, "blur": true, '
    ...              '"temporal": false}')
    ('color', 'blur')
    """
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", answer, re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or set(value) != set(DIMENSIONS):
        return None
    if not all(isinstance(one, bool) for one in value.values()):
        return None
    return tuple(name for name in DIMENSIONS if value[name])
