"""The paper's figures, and an evaluation beside them."""

import dataclasses
import math

from vqathinker_jax.evaluation.benchmarks import CUSTOM, IN_DOMAIN, OOD, PUBLISHED
from vqathinker_jax.evaluation.outcome import Agreement, BenchmarkOutcome, Estimate, Evaluation
from vqathinker_jax.evaluation.table1 import NOTE, TABLE, table1
from vqathinker_jax.evaluation.tables import as_json, markdown_summary, text_summary


def outcome(name: str, domain: str, num: int, srcc: float, plcc: float) -> BenchmarkOutcome:
    same = Estimate(math.nan, math.nan, math.nan)
    of = dataclasses.replace
    agreement = Agreement(
        num, of(same, value=srcc), same, of(same, value=plcc), same, same, *2 * (None,)
    )
    return BenchmarkOutcome(name, domain, num, 0, 0, 0, 0, (), agreement)


def evaluation(*outcomes: BenchmarkOutcome) -> Evaluation:
    return Evaluation("m", "official", None, {"bootstrap": {"level": 0.95}}, outcomes)


def test_every_row_has_a_pair_of_correlations_for_every_benchmark():
    assert len(PUBLISHED) == 10
    for row in TABLE:
        pairs = [row.pair(one.name) for one in PUBLISHED]
        there = [pair for pair in pairs if not any(map(math.isnan, pair))]
        assert len(there) == (4 if row.name == "VQ-Insight" else 10)
        assert all(0.2 < value < 0.9 for pair in there for value in pair)
    # What the paper claims: the best overall in each domain, weighted by the videos.
    for domain in (IN_DOMAIN, OOD):
        sets = [one for one in PUBLISHED if one.domain == domain]
        totals = {
            row.name: sum(one.num_videos * row.pair(one.name)[0] for one in sets) for row in TABLE
        }
        known = {name: total for name, total in totals.items() if not math.isnan(total)}
        assert max(known, key=known.get) == "VQAThinker (8B)"


def test_rows_are_compared_on_what_was_scored():
    found = table1(
        evaluation(
            outcome("KoNViD-1k", IN_DOMAIN, 300, 0.9, 0.8),
            outcome("LIVE-VQC", IN_DOMAIN, 100, 0.5, math.nan),
            outcome("YouTube-UGC", IN_DOMAIN, 2, math.nan, math.nan),
            outcome("CGVDS", OOD, 9, -0.25, 0.25),
            outcome("mine", CUSTOM, 9, 0.5, 0.5),
        )
    )
    first, second = found
    assert first.header == ("SRCC / PLCC", "KoNViD-1k", "LIVE-VQC", "In-domain overall")
    assert second.header == ("SRCC / PLCC", "CGVDS", "OOD overall")
    assert first.rows[-1] == ("this evaluation", "0.900 / 0.800", "0.500 / -", "0.800 / -")
    thinker = next(row for row in first.rows if row[0].startswith("VQAThinker"))
    assert thinker[1:3] == ("0.881 / 0.884", "0.808 / 0.847")
    assert thinker[3].startswith(f"{(3 * 0.881 + 0.808) / 4:.3f} / ")
    insight = next(row for row in second.rows if row[0] == "VQ-Insight")
    assert insight[1:] == ("-", "-")


def test_is_not_shown_without_a_published_benchmark():
    own = evaluation(outcome("mine", CUSTOM, 9, 0.5, 0.5), outcome("CGVDS", CUSTOM, 9, 0.5, 0.5))
    assert table1(own) == ()
    assert NOTE not in text_summary(own) + markdown_summary(own)


def test_stands_in_every_summary():
    one = evaluation(outcome("VDPVE", OOD, 839, 0.7, 0.71))
    for text in (text_summary(one), markdown_summary(one)):
        assert NOTE in text and "0.706 / 0.716" in text and "0.700 / 0.710" in text
    rows = as_json(one)["table1"][0]["rows"]
    assert list(rows[-1]) == ["this evaluation", "0.700 / 0.710", "0.700 / 0.710"]
