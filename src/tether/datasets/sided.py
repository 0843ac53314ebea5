"""Which captions a mirrored image would contradict: those that name a side, a handed thing, or writing."""

from __future__ import annotations

import re

__all__ = ["names_a_side", "names_writing"]

SIDED = re.compile(
    r"\b((left|right)(most|wards?)?|(anti|counter)?-?clockwise|waxing|waning|(first|last) quarter)\b", re.IGNORECASE
)
WRITING = re.compile(
    r"""["\u201c\u201d\u201e\u00ab\u00bb]|(?<!\w)['\u2018][^'\u2019]+['\u2019](?!\w)"""  # words that are quoted
    r"|\b(words?|text|letters?|lettering|alphabet|writing|written|handwrit\w+|calligraphy|typography|inscri\w+"
    r"|says|saying|reads|slogan|logos?|label(l?ed|s)?|captioned|titled|entitled|numerals?|digits?|keycaps?"
    r"|(sign|bill)(board|post)s?|road ?signs?|street ?signs?|stop signs?|newspapers?|posters?|banners?|subtitles?)\b",
    re.IGNORECASE,
)


def names_a_side(words: str) -> bool:
    """Whether an image of these words must not be mirrored: "a left arrow", "the waxing moon"."""
    return SIDED.search(words) is not None


def names_writing(words: str) -> bool:
    """Whether an image of these words may show letters or digits: 'a sign that says "stop"', "a newspaper"."""
    return WRITING.search(words) is not None
