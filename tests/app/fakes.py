"""A judge that needs no model, and a page that is served for a test."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from vqathinker_jax.app.jobs import Desk
from vqathinker_jax.app.limits import Limits
from vqathinker_jax.app.server import AppServer
from vqathinker_jax.app.uploads import Uploads
from vqathinker_jax.data.clip import FrameRequest, VideoError
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.scoring import StreamEvent

REASONING = "The street is sharp & bright, but <b>blocks</b> show around moving cars."
WARNING = "model fake holds nothing: its answers mean nothing"


class FakeJudge:
    """Says what a model would, of real frames, without asking one.

    Args:
      scores: of the samples, the same for every file.
      pause: seconds between words.
      gate: waited for after `num_before` words, where one is given.
    """

    def __init__(
        self,
        scores=(3.5, 4.0, 3.0),
        pause: float = 0.0,
        gate: threading.Event | None = None,
        num_before: int = 0,
    ):
        self.scores, self.pause, self.gate, self.num_before = scores, pause, gate, num_before
        self.paths: list[str] = []

    def __call__(self, path: str) -> Iterator[StreamEvent]:
        self.paths.append(path)
        try:
            clip = read_clip(path, FrameRequest(6, 56))
        except VideoError as error:
            reason = str(error).removeprefix(f"{path}: ")
            result = ScoreResult(path, "error", error=reason, model_kind="random")
            yield StreamEvent("result", result=result)
            return
        yield StreamEvent("frames", images=clip.frames)
        text = "<think>"
        for place, word in enumerate(REASONING.split()):
            if self.gate is not None and place == self.num_before:
                self.gate.wait(30)
            text += word + " "
            time.sleep(self.pause)
            yield StreamEvent("text", text=text)
        answer = f"<think>{REASONING}</think><answer>{self.scores[0]:.2f}</answer>"
        yield StreamEvent(
            "result",
            result=ScoreResult(
                path,
                "ok",
                score=float(np.mean(self.scores)),
                std=float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None,
                parseable=True,
                reasoning=REASONING,
                response=answer,
                scores=tuple(self.scores),
                responses=(answer,) * len(self.scores),
                frames=tuple(clip.indices.tolist()),
                video=dataclasses.asdict(clip.facts),
                samples=len(self.scores),
                model="fake",
                model_kind="random",
            ),
        )


@contextlib.contextmanager
def serve(
    judge: Callable[[str], Iterator[StreamEvent]],
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    warning: str = WARNING,
) -> Iterator[AppServer]:
    """A running page at a free port; closed in the end as the command closes it."""
    limits = Limits() if limits is None else limits
    uploads = Uploads(limits)
    desk = Desk(judge, uploads, limits)
    server = AppServer(
        host,
        0,
        desk=desk,
        uploads=uploads,
        limits=limits,
        model_name="fake",
        model_kind="random",
        warning=warning,
        samples=3,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        desk.close()
        uploads.close()
        thread.join(10)
