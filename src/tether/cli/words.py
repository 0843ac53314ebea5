"""Words of a prompt that a base was not trained on.

A base may have the list of its words beside it, `words.txt`, one a line. A tokenizer hides unknown words: it splits
them into pieces, and the image shows something, only not the word.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.base import Base

__all__ = ["FILE", "known_words", "unknown_words"]

FILE = "words.txt"


def known_words(folder: Path | None) -> frozenset[str]:
    """The words of the list beside a base, in small letters; none if there is no list."""
    if folder is None or not (folder / FILE).is_file():
        return frozenset()
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in _words(line))


def unknown_words(base: Base, prompts: list[str]) -> str | None:
    """A line about the words of prompts that are not in a base's list; None if all are, or there is no list."""
    known = known_words(base.source)
    if not known:
        return None
    added = {
        word
        for tokenizer in (part.tokenizer for part in base.text.parts)
        for token in (*tokenizer.get_added_vocab(), *getattr(tokenizer, "words", ()))
        for word in _words(token)
    }
    used = dict.fromkeys(word for prompt in prompts for word in _words(prompt))
    unknown = [word for word in used if not _is_known(word, known | added)]
    return f"{base.name} was not trained on: {', '.join(unknown)}" if unknown else None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?|\d+[a-z]+", text.lower())


def _is_known(word: str, known: frozenset[str]) -> bool:
    """Whether a word, or the word that it is a plural of, is in the list."""
    singulars = {word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word)}
    return word == "break" or bool(singulars & known) or bool({f"{word}s", f"{word}es"} & known)
