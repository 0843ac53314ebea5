"""Words that are not of a tokenizer's vocabulary: each stands for one or several rows of an embedding table.

A word is replaced by its token ids wherever it stands as a word of its own, whatever the vocabulary makes of its
letters. Of two words the longer one comes first: after "sks" and "sks2" were added, "sks2" is the second word, and
without it, it is not "sks" followed by "2".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["MultiwordTokenizer"]


class MultiwordTokenizer:
    """A tokenizer that knows more words; otherwise the tokenizer inside.

    Args:
        tokenizer: a tokenizer of transformers.
        words: word -> its token ids. Upper and lower case are the same, as for CLIP.
    """

    def __init__(self, tokenizer: Any, words: Mapping[str, list[int]]) -> None:
        self.tokenizer = tokenizer
        self.words = dict(words)

    def segments(self, text: str, whole: bool = True) -> Iterator[tuple[str, list[int] | None]]:
        """The parts of a text: (text, None), or (word, its ids).

        Args:
            text: the text.
            whole: only words of their own; else inside of other words as well.
        """
        ids = {word.lower(): found for word, found in self.words.items()}
        longest_first = sorted(ids, key=len, reverse=True)
        pattern = "|".join(_pattern(word, whole) for word in longest_first)
        start = 0
        for found in re.finditer(pattern, text, flags=re.IGNORECASE) if ids else ():
            own = ids.get(found[0].lower())
            if own is None:  # İ and ſ match i and s, but are other letters, as for CLIP
                continue
            if found.start() > start or start == 0:
                yield text[start : found.start()], None
            yield found[0], own
            start = found.end()
        if start < len(text) or start == 0:
            yield text[start:], None

    def __call__(
        self,
        text: str | list[str],
        *,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **options: Any,
    ) -> Any:
        """Tokenizes; other options than these are for texts without such words."""
        one = isinstance(text, str)
        texts = [text] if one else list(text)
        named = {
            "add_special_tokens": add_special_tokens,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
        }
        if not any(ids for each in texts for _, ids in self.segments(each)):
            return self.tokenizer(text, **named, **options)
        frame = [[self.tokenizer.bos_token_id], [self.tokenizer.eos_token_id]] if add_special_tokens else [[], []]
        room = (max_length or self.tokenizer.model_max_length) - sum(map(len, frame)) if truncation else None
        rows = [[*frame[0], *self._ids(each)[:room], *frame[1]] for each in texts]
        padded = {"padding": padding, "max_length": max_length, "return_tensors": return_tensors}
        return self.tokenizer.pad({"input_ids": rows[0] if one and return_tensors is None else rows}, **padded)

    def _ids(self, text: str) -> list[int]:
        ids = []
        for part, own in self.segments(text):
            ids += self.tokenizer(part, add_special_tokens=False, verbose=False).input_ids if own is None else own
        return ids

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


def _pattern(word: str, whole: bool) -> str:
    """Matches a word; `whole` if no letter, digit or underscore continues it."""
    before = r"(?<!\w)" if whole and re.match(r"\w", word) else ""
    after = r"(?!\w)" if whole and re.search(r"\w\Z", word) else ""
    return before + re.escape(word) + after
