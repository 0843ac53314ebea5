r"""The syntax of prompts: text in which some words weigh more than others.

    nested    (words:1.2)  the weight 1.2; weights of nested brackets are multiplied
              (words)      the weight 1.1
              [words]      the weight 1 / 1.1
              BREAK        what follows begins a new chunk
              \( \) \[ \]  brackets that are text, as are unbalanced ones; \\ is a backslash
    simple    (words:1.2)  alone, without nesting: how Tether read prompts before it had `nested`
    plain     none: every character is text

`nested` is the syntax of AUTOMATIC1111's web interface, without its prompts that change while an image is made
(`[from:to:when]` and `[one|other]` are refused, `AND` is text); of an unbalanced bracket it takes the rest of the
prompt, Tether only the bracket, as text.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from tether.errors import TetherError

__all__ = ["Piece", "PromptSyntax", "parse_prompt", "parse_weights"]

PromptSyntax = Literal["nested", "simple", "plain"]

SIMPLE = re.compile(r"(?<!\\)\(([^()]*):\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*\)")
MARK = re.compile(r"\\[()\[\]\\]|[(\[\])]|:\s*(?P<weight>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*\)")
BREAK = re.compile(r"(?:(?<!\s)\s+)?\bBREAK\b\s*")
ADAPTER = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
CHANGING = re.compile(r"(?<!\\)\[(?:[^\[\]|]*\|[^\[\]]*|[^\[\]]*:\s*(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*)(?<!\\)\]")
"""Prompts come over networks too: each pattern takes a time in proportion to the text, because it can read a text in
one way alone."""
BRACKET_WEIGHT = 1.1
MAX_WEIGHT = 100.0


class Piece(NamedTuple):
    """Text with one weight."""

    text: str
    weight: float


def parse_prompt(prompt: str, syntax: PromptSyntax = "nested") -> list[list[Piece]]:
    """The sections of a prompt, which `BREAK` separates, each as pieces; one section at least.

    Raises:
        TetherError: if a weight is not from -100 to 100, or the prompt names a LoRA or changes over the steps, as web
            interfaces allow.
    """
    if syntax == "plain":
        return [[Piece(prompt, 1.0)]]
    if syntax == "simple":
        return [_parse_simple(prompt)]
    named = ADAPTER.search(prompt)
    if named is not None:
        raise TetherError(f"the prompt contains {named[0]}: leave it out, and pass the file by --lora REF:STRENGTH")
    changing = CHANGING.search(prompt)
    if changing is not None:
        raise TetherError(
            f"the prompt contains {changing[0]}: prompts that change over the steps are not supported, leave it out, "
            "or write \\[ and \\] for brackets that are text"
        )
    sections: list[list[Piece]] = [[]]
    for text, weight in parse_weights(prompt):
        first, *more = BREAK.split(text)
        sections[-1].append(Piece(first, weight))
        sections += [[Piece(part, weight)] for part in more]
    return sections


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Splits a prompt by weight: "a ((red:1.2) hat:1.5)" -> [("a ", 1), ("red", 1.8), (" hat", 1.5)].

    Raises:
        TetherError: if a weight is not from -100 to 100.
    """
    marks = list(MARK.finditer(prompt))
    factors = _balanced(marks)
    pieces: list[tuple[str, float]] = []
    weights, end = [1.0], 0
    for at, mark in enumerate(marks):
        _append(pieces, prompt[end : mark.start()], weights[-1])
        end = mark.end()
        if at not in factors:
            _append(pieces, mark[0][1:] if mark[0][0] == "\\" else mark[0], weights[-1])
        elif (factor := factors[at]) is None:
            weights.pop()
        else:
            weights.append(factor if weights[-1] == 1 else round(weights[-1] * factor, 12))
            if not abs(weights[-1]) <= MAX_WEIGHT:
                raise TetherError(f"the prompt has a weight of {weights[-1]:.4g}: expected -100 to 100")
    _append(pieces, prompt[end:], 1.0)
    return pieces or [("", 1.0)]


def _balanced(marks: list[re.Match[str]]) -> dict[int, float | None]:
    """Number of a bracket that has a partner -> the factor that an opening one begins; None for a closing one.

    A bracket that closes takes the nearest one of its form that is open; those between them have no partner.
    """
    factors: dict[int, float | None] = {}
    opened: list[int] = []
    forms = {"(": 0, "[": 0}  # how many of each are open
    for at, mark in enumerate(marks):
        sign = mark[0][-1] if mark[0][0] != "\\" else ""
        if sign in ("(", "["):
            opened.append(at)
            forms[sign] += 1
        elif sign in (")", "]") and forms[partner := "(" if sign == ")" else "["]:
            while (start := opened.pop()) is not None:
                forms[marks[start][0]] -= 1
                if marks[start][0] == partner:
                    break
            given = mark["weight"]
            usual = BRACKET_WEIGHT if sign == ")" else 1 / BRACKET_WEIGHT
            factors[start], factors[at] = float(given) if given else usual, None
    return factors


def _append(pieces: list[tuple[str, float]], text: str, weight: float) -> None:
    """Adds text, to the last piece if that has the same weight."""
    if pieces and pieces[-1][1] == weight:
        pieces[-1] = (pieces[-1][0] + text, weight)
    elif text:
        pieces.append((text, weight))


def _parse_simple(prompt: str) -> list[Piece]:
    pieces, end = [], 0
    for match in SIMPLE.finditer(prompt):
        pieces += [(prompt[end : match.start()], 1.0), (match[1], float(match[2]))]
        end = match.end()
    pieces.append((prompt[end:], 1.0))
    plain = [Piece(re.sub(r"\\([()])", r"\1", text), weight) for text, weight in pieces if text]
    return plain or [Piece("", 1.0)]
