"""Which curves a report shows, and what it says beside them."""

from __future__ import annotations

import dataclasses

from vqathinker_jax.rl.recorded_run import Rows


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    """Key of the log."""
    label: str
    spread: str | None = None
    """Key of the half width of a band around it."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One figure and what is said beside it."""

    title: str
    curves: tuple[Curve, ...]
    note: str = ""
    limits: tuple[float | None, float | None] = (None, None)
    """Of the vertical axis; None: as the values need."""
    is_exact: bool = False
    """Counts, schedules and validations: no moving mean would say more than they do."""


SHARE = (-0.03, 1.03)
VALIDATION = (
    Panel(
        "Agreement with the opinion scores",
        (Curve("srcc", "SRCC"), Curve("plcc", "PLCC")),
        "Rank and linear correlation over held-out videos; 1 is perfect.",
        is_exact=True,
    ),
    Panel(
        "Mean absolute error",
        (Curve("mae", "MAE"),),
        "In points of the scale from 1 to 5.",
        is_exact=True,
    ),
    Panel(
        "Held-out answers with a score",
        (Curve("parse_rate", "parse rate"),),
        "Share of the greedy answers that a score could be read from.",
        SHARE,
        is_exact=True,
    ),
    Panel(
        "Distortions named",
        (Curve("words_f1", "F1"),),
        "Mean F1 over the distortions that the labels name, of the words in the answers.",
        SHARE,
        is_exact=True,
    ),
    Panel("Seconds per validation", (Curve("seconds", "seconds"),), "", (0, None), True),
)
REWARD_NOTE = "Mean over the responses; the bands are the mean spread within a group."
REWARDS = (
    *(
        Panel(
            f"{name.capitalize()} reward",
            (Curve(f"reward_{name}", name, f"spread_{name}"),),
            REWARD_NOTE if name == "total" else "",
        )
        for name in ("total", "ranking", "regression", "format", "temporal")
    ),
    Panel(
        "Groups without spread",
        (Curve("zero_spread_share", "share"),),
        "All responses of such a group have one reward: it teaches nothing.",
        SHARE,
    ),
)
POLICY = (
    Panel("Loss", (Curve("loss", "loss"),)),
    Panel("KL from the start", (Curve("kl_token_mean", "KL"),), "Mean per token, nats."),
    Panel(
        "Clipped tokens",
        (Curve("clip_fraction", "clip fraction"),),
        "Share of the tokens whose ratio was clipped.",
    ),
    Panel("Entropy", (Curve("entropy", "entropy"),), "Mean per token, nats."),
    Panel("Likelihood", (Curve("likelihood", "likelihood"),), "Mean probability of a token."),
    Panel("Anchor loss", (Curve("anchor_loss", "anchor"),), "Cross-entropy of the anchor, nats."),
    Panel("Gradient norm", (Curve("grad_norm", "norm"),), "Over all parameters, before clipping."),
    Panel("Learning rate", (Curve("learning_rate", "rate"),), is_exact=True),
)
RESPONSES = (
    Panel(
        "Answers with a score",
        (Curve("parse_rate", "parse rate"), Curve("perturbed_parse_rate", "perturbed clips")),
        "Share of the sampled answers that a score could be read from.",
        SHARE,
    ),
    Panel(
        "Length",
        (Curve("length_mean", "mean"), Curve("length_max", "longest")),
        "Tokens of a response, end token included.",
        (0, None),
    ),
    Panel(
        "Cut off",
        (Curve("at_limit_share", "share"),),
        "Share of the responses that reached the longest length allowed.",
        SHARE,
    ),
    Panel(
        "Scores given",
        (Curve("score_mean", "mean", "score_std"),),
        "Mean and standard deviation of the scores in a step.",
    ),
)
SPEED = (
    Panel("Tokens per second", (Curve("tokens_per_second", "tokens"),), "", (0, None)),
    Panel(
        "Compiled programs",
        (Curve("recompiles", "since the step before"), Curve("shapes", "shapes of updates so far")),
        "A new shape compiles; nothing else should, once every phase has run.",
        (0, None),
        True,
    ),
    Panel("Unreadable clips", (Curve("unreadable", "clips"),), "Skipped so far.", (0, None), True),
)
ALL_OF_STEPS = (*REWARDS, *POLICY, *RESPONSES, *SPEED)
NOT_DRAWN = frozenset({"step", "epoch", "unparseable_batches", "videos", "unreadable"})


def other_panels(rows: Rows, panels: tuple[Panel, ...]) -> tuple[Panel, ...]:
    """Panels for what the rows hold besides those given, so that a new number is not left out."""
    known = {
        name for panel in panels for curve in panel.curves for name in (curve.name, curve.spread)
    }
    rest = [name for name in rows.names() if name not in known and name not in NOT_DRAWN]
    return tuple(Panel(name.replace("_", " "), (Curve(name, name),)) for name in rest)
