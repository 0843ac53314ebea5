"""What drawings are called in captions: everyday words, plurals and articles, and marks for which words mean what.

recipes/synonyms.json lists for each name the words that people use, the most common first. A tenth of the others is
held out: no caption has them, so that a test can ask for things by words that were never trained on.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from random import Random

SYNONYMS: dict[str, list[str]] = json.loads(Path(__file__).with_name("synonyms.json").read_text())
"""Everyday words of each name, the most common first, checked by hand."""
HELD_OUT_NAMES = frozenset(json.loads(Path(__file__).with_name("held_out.json").read_text())["names"])
HELD_OUT_WORDS = 0.1
COLOR_WORDS = {
    *("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "white", "grey", "gray"),
    *("golden", "gold", "silver", "violet", "rosy", "dark", "pale"),
}
SHADES = {
    "red": ("crimson", "scarlet", "bright red"),
    "orange": ("bright orange",),
    "yellow": ("golden", "bright yellow"),
    "green": ("emerald", "emerald green"),
    "cyan": ("turquoise", "teal", "light blue"),
    "blue": ("azure", "navy blue", "dark blue"),
    "purple": ("violet",),
    "pink": ("rosy", "light pink"),
    "brown": ("chocolate brown", "dark brown"),
    "black": ("dark", "jet black"),
    "white": ("snow white", "pale"),
    "grey": ("gray", "silver"),
}
"""Other words for the named colors."""
PLURALS = {"mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves"}
UNCOUNTED = frozenset(
    re.findall(
        r"\w+",
        """
    bread cheese corn maize sweetcorn meat milk honey rice soap sushi tea coffee wine beer ale champagne soda
    toffee chocolate cutlery silverware confetti glitter lightning money mail parchment paper denim medicine
    applause poop poo dung wool yarn spaghetti pasta soup ramen stew slush gelato paprika citrus cattle sunshine
    rain luggage footwear music water surf fire cheddar
    """,
    )
)
"""Last words of nouns that stand without "a"."""
UNCHANGED = {"fish", "sheep", "deer", "aircraft", "spacecraft"}
MARK = re.compile(r"<(\d)>(.*?)</>")


def is_held_out_word(word: str) -> bool:
    """Whether no caption may have this synonym: a fixed tenth of all, by their SHA-256."""
    digest = hashlib.sha256(f"synonym {word}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_WORDS * 2**32


def held_out_words() -> dict[str, list[str]]:
    """The held-out synonyms of each name that has some.

    A word that is in a thing's most common word or name, or has a color, is not held out: captions have it anyway.
    """
    common = " | ".join([*(words[0] for words in SYNONYMS.values()), *SYNONYMS, "pair of cherries"])
    return {
        name: found
        for name, words in SYNONYMS.items()
        if (found := [w for w in words if is_held_out_word(w) and not says_color(w) and not _says(w).search(common)])
    }


def _says(words: str) -> re.Pattern[str]:
    """Finds words as a whole."""
    return re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")


@cache
def words_of(name: str, others: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What captions call a drawing, the most common first; `others` are for names that synonyms.json does not have.

    Left out is what is held out or contains it.
    """
    words = SYNONYMS.get(name) or [name, *others]
    return tuple(word for word in dict.fromkeys([*words, name]) if not is_left_out(word))


@cache
def plain_words(name: str) -> tuple[str, ...]:
    """Those of `words_of` that name no color."""
    return tuple(word for word in words_of(name) if not says_color(word))


def says_color(word: str) -> bool:
    """Whether one of its words is a color's."""
    return not COLOR_WORDS.isdisjoint(re.split("[ -]", word))


_HELD_OUT = [_says(word) for words in held_out_words().values() for word in words]


def is_left_out(word: str) -> bool:
    """Whether captions may not have a word: a held-out name, or what contains a held-out synonym."""
    return word in HELD_OUT_NAMES or any(pattern.search(word) for pattern in _HELD_OUT)


def color_word(rng: Random, color: str) -> str:
    """A named color or, now and then, another word for it."""
    return rng.choice(SHADES[color]) if rng.random() < 0.12 else color


def with_article(noun: str) -> str:
    """ "an apple", "a unicorn", "jeans"."""
    first = noun.split()[0]
    if is_plural(noun) or _head(noun) in UNCOUNTED:
        return noun
    vowel = first[0] in "aeiou" and not first.startswith(("uni", "one", "eu", "ufo", "utility"))
    return f"{'an' if vowel else 'a'} {noun}"


def is_plural(noun: str) -> bool:
    """Whether a noun stands without "a": "flowers", "pair of cherries" does not, nor "glass"."""
    head = _head(noun)
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "compass", "lens"))


def _head(noun: str) -> str:
    """The word that says what it is: "glass" of "tall glass of milk"."""
    return re.split(" (?:of|with|in) ", noun)[0].split()[-1]


def plural(noun: str) -> str | None:
    """ "cats"; None where the noun has no plain plural, as it is one already or is of several words."""
    if " of " in noun or " with " in noun or " in " in noun or is_plural(noun) or noun.split()[-1] in UNCOUNTED:
        return None
    *before, head = noun.split()
    if head in UNCHANGED:
        return noun
    if head in PLURALS:
        last = PLURALS[head]
    elif head in ("man", "snowman"):
        last = head[:-2] + "en"
    elif re.search("(s|x|z|ch|sh)$", head) or head in ("tomato", "potato"):
        last = head + "es"
    elif re.search("[^aeiou]y$", head):
        last = head[:-1] + "ies"
    else:
        last = head + "s"
    return " ".join([*before, last])


def mark(words: str, group: int) -> str:
    """Words that mean the thing of a group of recipes/grounding.py, marked for `unmark`."""
    return f"<{group}>{words}</>"


def unmark(caption: str) -> tuple[str, list[tuple[int, int, int]]]:
    """A caption without its marks, and for each of them the group and where its words begin and end."""
    plain, spans, last = "", [], 0
    for match in MARK.finditer(caption):
        plain += caption[last : match.start()]
        spans.append((int(match[1]), len(plain), len(plain) + len(match[2])))
        plain, last = plain + match[2], match.end()
    return plain + caption[last:], spans
