"""Which distortions a text names: a judge by keywords that needs nothing but the text.

The dimensions are those of FineVD. A dimension is named where a word for one of its defects stands
undenied ("grainy", "some compression artifacts"), or where a word for its opposite is denied ("not
sharp", "lacks clarity").

What denies: `no`, `not`, `n't`, `without`, `free of`, `lack of`, `absence of`, `never`, `minimal`,
`negligible` and their like, before the word and in its clause; `-free` behind it; "is not visible",
"is absent", "is minimal" behind it. A denial reaches over a list ("no noise, blur or artifacts")
and ends at a full stop, at a word of contrast ("but", "however"), and at a comma or "and" that
begins a new statement ("no noise, and the image is dark"). Two denials cancel ("not free of
noise"). What it cannot do: follow irony, hypothetical sentences ("noise would be worse"), or
languages but English.
"""

from __future__ import annotations

import dataclasses
import re

from vqathinker_jax.results import ScoreResult

REACH = 200
"""Characters over which a denial reaches at most."""
DIMENSIONS = ("color", "noise", "artifact", "blur", "temporal")

_DEGREE = r"(?:slight|mild|moderate|strong|severe|heavy|serious|significant|noticeable)"
"""Before what is no defect by itself: "moderate exposure", "severe compression"."""
_IS_DEGREE = rf"\sis\s{_DEGREE}(?=[.]|$)"
"""Behind it, in a sentence of its own without an article: "Compression is moderate"."""
_DEFECTS = {
    "color": rf"""
        {_DEGREE}\s(?:colou?r|exposure)(?=[,.]|$|\s(?:and|or)\b) |
        (?:wrong|bad)\s(?:colou?rs?|exposure) |
        (?:over|under)[- ]?expos\w+ | (?:over|under)[- ]?saturat\w+ | (?:de|un)saturat\w+
        | (?:over|too|overly|very|quite|somewhat|rather|slightly|relatively|excessively)
          [- ]?(?:dark|bright|dim)\w*
        | darker | dark\s(?:areas?|scenes?|regions?|frames?|lighting) | dimly | underlit
        | (?:poor|low|bad|insufficient|inadequate|uneven|harsh)\s(?:lighting|light|illumination)
        | (?:low|poor|high|excessive|reduced|weak|limited)\scontrast | washed[- ]?out
        | (?:low|poor|high|excessive|reduced)\ssaturation
        | muted | faded | dull | discolou?r\w* | blown[- ]?out | (?:flat|unnatural)\scolou?rs?
        | colou?rs?\s(?:\w+\s){{0,2}}?(?:casts?|tints?|distort\w+|shifts?|banding|bleeding|deviat\w+
          |imbalance\w*|degradations?|inaccura\w+|unnatural|issues?|problems?|off)
        | unnatural(?:ly)?\scolou?r\w* | (?:inaccurate|poor|distorted)\scolou?r\w*
        | (?:yellow|green|blue|red|orange|purple|warm|cool)(?:ish)?\s(?:cast|tint)
        | poorly\slit | glare | hazy | haze""",
    "noise": r"nois(?:e|es|y|iness) | grain(?:s|y|iness)? | speckl\w+ | static\spatterns?",
    "artifact": rf"""
        artefacts? | artifacts? | artifacting | block(?:y|iness|ing) | macro[- ]?blocks?
        | macro[- ]?blocking | pixel(?:at\w+|is\w+|iz\w+) | ringing | mosquito | banding | moir[eé]
        | aliasing | jagged(?:ness)? | jaggies | interlac\w+ | posteri[sz]\w+
        | compression\s(?:issues?|distortions?|damage|problems?|loss)
        | (?:over|heavily)[- ]?compressed | {_DEGREE}\scompression
        | (?<!the\s)compression{_IS_DEGREE}
        | ghosting""",
    "blur": r"""
        blur\w* | out[- ]of[- ]focus | defocus\w* | unfocus\w* | unsharp | soft(?:ness|ly)?
        | (?:low|poor|reduced|limited|insufficient)\s(?:resolution|sharpness|clarity|definition)
        | down[- ]?(?:scal|sampl)(?:ed|ing)
        | fuzz(?:y|iness) | smear\w* | smudg\w+ | unclear | indistinct
        | (?:loss|lost)\s(?:of\s)?(?:fine\s)?details?""",
    "temporal": rf"""
        {_DEGREE}\sshuffl(?:e|ing) | (?<!the\s)shuffle{_IS_DEGREE}
        | shuffled\sframes? | frames?\s(?:are\s)?shuffl(?:ed?|ing)
        | flicker\w* | jitter\w* | judder\w* | stutter\w* | lag(?:s|gy|ging)? | chopp(?:y|iness)
        | shak(?:y|es|ing|iness|en) | camera\sshakes? | unstead(?:y|iness|ily) | unstab(?:le|ly)
        | instabilit\w+ | jerk(?:y|iness|ing) | wobbl\w+ | trembl\w+
        | (?:frame|frames)\s?(?:drops?|dropping|skips?|skipping|freez\w+|loss|jumps?)
        | dropped\sframes? | freez(?:e|es|ing) | frozen
        | (?:low|inconsistent|reduced)\sframe\s?rates?
        | temporal\s(?:distortions?|artifacts?|artefacts?|inconsistenc\w+|issues?|instabilit\w+
          |jumps?)
        | tearing | discontinu\w+ | (?:not|isn't)\ssmooth""",
}
_VIRTUES = {
    "color": r"vibrant | vivid | well[- ]?lit | well[- ]?exposed | natural\scolou?rs? "
    r"| (?:good|adequate|proper|sufficient|accurate)\s(?:lighting|contrast|exposure|colou?rs?)",
    "blur": r"sharp(?:ness|ly)? | crisp(?:ness|ly)? | clarity | clear(?!\s(?:noise|artifact|blur))"
    r"| in\sfocus | focused | (?:fine\s)?details? | high\sresolution",
    "temporal": r"smooth(?:ness|ly)? | stead(?:y|iness) | stable | stability | fluid(?:ity)?",
}

_NEGATOR = re.compile(
    r"\b(?:no|not|never|without|neither|nor|cannot|hardly|barely|scarcely|lack|lacks|lacked"
    r"|lacking|absence\sof|free\s(?:of|from)|devoid\sof|minimal|negligible|little\sto\sno|few"
    r"|(?<!a\s)little|zero|avoids?|avoiding|\w+n't|absent)\b(?!\s(?:only|just|merely|necessarily))",
    re.IGNORECASE,
)
_DENIABLE = re.compile(
    r"without|free|devoid|lack|absen|minimal|negligible|few|little", re.IGNORECASE
)
"""Denials that another one right before them turns round: "not without"."""
_DENIED_AFTER = re.compile(
    r"^[- ]free\b|^(?:\s[\w-]+){0,3}?\s(?:is|are|was|were|remains?|appears?|seems?|looks?)"
    r"\s(?:(?:quite|very|almost|virtually|largely|mostly|completely|generally|kept|be|to\sbe)\s)*"
    r"(?:absent|minimal|negligible|non[- ]?existent"
    r"|(?:not|never|hardly|barely|scarcely)\s(?:\w+\s)?(?:visible|noticeable|present|apparent"
    r"|evident|seen|observed|detected|an?\sissue|a\sproblem))\b"
    r"|^(?:\s[\w-]+){0,2}?\s(?:isn't|aren't|wasn't|weren't)\s(?:\w+\s)?(?:visible|noticeable"
    r"|present|apparent|evident|seen|an?\sissue|a\sproblem)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?;:\n]+(?=\s|$)")
_CONTRAST = re.compile(
    r"\b(?:but|however|although|though|yet|while|whereas|except|despite|nevertheless|still"
    r"|apart\sfrom|aside\sfrom|other\sthan)\b",
    re.IGNORECASE,
)
_NEW_STATEMENT = re.compile(
    r"(?:,|\band\b|\bor\b)\s*(?:(?:and|or|so|because|since)\s+)?(?:the|there|there's|it|it's|this"
    r"|these|a|an|some|its|with|which|that|causing|leading|making|resulting|showing|also|has|have"
    r"|is|are|suffers?|contains?|shows?|exhibits?|appears?|looks?|colou?rs?\s(?:are|is|look|appear))"
    r"\b",
    re.IGNORECASE,
)


def _words(by_name: dict[str, str]) -> dict[str, re.Pattern[str]]:
    return {
        name: re.compile(rf"\b(?:{words})(?!\w)", re.IGNORECASE | re.VERBOSE)
        for name, words in by_name.items()
    }


_DEFECT_WORDS, _VIRTUE_WORDS = _words(_DEFECTS), _words(_VIRTUES)


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What a text says is wrong."""

    named: tuple[str, ...]
    """Of `DIMENSIONS`, in their order."""
    evidence: dict[str, str]
    """From each named dimension to the first words that name it."""


def attribute(text: str) -> Attribution:
    """The distortions that a text names and does not deny.

    Args:
      text: reasoning in English; the answer's tags do no harm.

    >>> attribute("No noise, but it is slightly blurry and the camera shakes.").named
    ('blur', 'temporal')
    """
    evidence: dict[str, str] = {}
    plain = text.replace("\u2019", "'").replace("\u2011", "-")
    start = 0
    for end in [*(m.end() for m in _SENTENCE.finditer(plain)), len(plain)]:
        sentence = " ".join(plain[start:end].split())
        for name in DIMENSIONS:
            if name in evidence:
                continue
            defects = _DEFECT_WORDS[name].finditer(sentence)
            found = [m for m in defects if not _is_denied(sentence, m)]
            if name in _VIRTUE_WORDS:
                virtues = _VIRTUE_WORDS[name].finditer(sentence)
                found += [m for m in virtues if _is_lacking(sentence, m)]
            if found:
                first = min(found, key=re.Match.start)
                evidence[name] = _around(sentence, first)
        start = end
    named = tuple(name for name in DIMENSIONS if name in evidence)
    return Attribution(named, {name: evidence[name] for name in named})


def with_distortions(result: ScoreResult) -> ScoreResult:
    """The result with the distortions that its reasoning, or else its answer, names; unchanged
    where there is no text."""
    text = result.reasoning or result.response
    if result.status != "ok" or not text:
        return result
    return dataclasses.replace(result, distortions=attribute(text).named)


def _is_denied(sentence: str, match: re.Match[str]) -> bool:
    if _DENIED_AFTER.match(sentence[match.end() : match.end() + REACH]):
        return True
    scope = _scope(sentence, match.start())
    negators = list(_NEGATOR.finditer(scope))
    if not negators:
        return False
    last = negators[-1]
    is_double = False
    if len(negators) > 1 and _DENIABLE.match(last.group()):
        between = scope[negators[-2].end() : last.start()]
        is_double = len(between.split()) <= 1 and not re.search(r",|\b(?:and|or)\b", between)
    return not is_double


def _is_lacking(sentence: str, match: re.Match[str]) -> bool:
    """Whether a good thing is denied right before it: "no loss of sharpness" must not count."""
    before = _scope(sentence, match.start())
    negators = list(_NEGATOR.finditer(before))
    if len(negators) != 1:
        return False
    between = before[negators[0].end() :].split()
    return len(between) <= 4 and not {"loss", "lost", "issues", "problems"} & set(between)


def _scope(sentence: str, end: int) -> str:
    """What stands before a word and could deny it."""
    before = sentence[max(0, end - REACH) : end]
    for pattern in (_CONTRAST, _NEW_STATEMENT):
        ends = [m.end() for m in pattern.finditer(before)]
        if ends:
            before = before[ends[-1] :]
    return before


def _around(sentence: str, match: re.Match[str]) -> str:
    """The words found, with up to two before them."""
    before = sentence[: match.start()].split()[-2:]
    return " ".join([*before, match.group()])
