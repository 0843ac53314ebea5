"""The syntax of prompts: what each bracket does, and what stays text."""

from __future__ import annotations

import time

import pytest

from tether.base.prompt_syntax import PromptSyntax, parse_prompt, parse_weights
from tether.errors import TetherError

HEAVY, LIGHT = 1.1, 1 / 1.1


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
        ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
        ("(a:0.5)(b:2)", [("a", 0.5), ("b", 2.0)]),
        ("(red: 1.2 )", [("red", 1.2)]),
        ("(red:1.)(blue:.5)", [("red", 1.0), ("blue", 0.5)]),
        ("(red:-1)(blue:+2)", [("red", -1.0), ("blue", 2.0)]),
        ("a (red) cat: yes", [("a ", 1.0), ("red", HEAVY), (" cat: yes", 1.0)]),
        ("[dark] sky", [("dark", LIGHT), (" sky", 1.0)]),
        ("(a:b)", [("a:b", HEAVY)]),
        ("(a:1.2:1.3)", [("a:1.2", 1.3)]),
        ("[red:1.2]", [("red:1.2", LIGHT)]),
    ],
)
def test_brackets_weigh_what_they_hold(prompt: str, pieces: list) -> None:
    assert parse_weights(prompt) == pieces


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("((red:1.2) hat:1.5)", [("red", 1.2 * 1.5), (" hat", 1.5)]),
        ("((a))", [("a", HEAVY**2)]),
        ("[[a]]", [("a", LIGHT**2)]),
        ("([a])", [("a", 1.0)]),
        ("(a (b (c:2):2):0.5)", [("a ", 0.5), ("b ", 1.0), ("c", 2.0)]),
    ],
)
def test_weights_of_nested_brackets_are_multiplied(prompt: str, pieces: list) -> None:
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces], rel=1e-9)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        (r"a \(red:1.3\) cat", [("a (red:1.3) cat", 1.0)]),
        (r"(miku \(vocaloid\):1.2)", [("miku (vocaloid)", 1.2)]),
        (r"\[a\] (b\]:2)", [("[a] ", 1.0), ("b]", 2.0)]),
        (r"(a \(b:1.2)", [("a (b", 1.2)]),
        (r"a \\(b:1.2)", [("a \\", 1.0), ("b", 1.2)]),
        (r"C:\new", [(r"C:\new", 1.0)]),
    ],
)
def test_a_backslash_makes_a_bracket_text(prompt: str, pieces: list) -> None:
    assert parse_weights(prompt) == pieces


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        (":) a :(", [(":) a :(", 1.0)]),
        ("a] b", [("a] b", 1.0)]),
        ("a:1.2) b", [("a:1.2) b", 1.0)]),
        ("((a:1.2) b", [("(", 1.0), ("a", 1.2), (" b", 1.0)]),
        ("(a [b) c]", [("a [b", HEAVY), (" c]", 1.0)]),
    ],
)
def test_unbalanced_brackets_are_text(prompt: str, pieces: list) -> None:
    assert parse_weights(prompt) == pieces


def test_break_separates_sections_and_keeps_weights() -> None:
    assert parse_prompt("a BREAK b") == [[("a", 1.0)], [("b", 1.0)]]
    assert parse_prompt("(a BREAK b:1.5) c") == [[("a", 1.5)], [("b", 1.5), (" c", 1.0)]]
    assert parse_prompt("a BREAKFAST, break") == [[("a BREAKFAST, break", 1.0)]]


def test_the_simple_syntax_is_that_of_older_versions() -> None:
    assert parse_prompt("(red) [a] (b:1.2) BREAK ((c:2))", "simple") == [
        [("(red) [a] ", 1.0), ("b", 1.2), (" BREAK (", 1.0), ("c", 2.0), (")", 1.0)]
    ]


def test_a_caption_has_no_syntax() -> None:
    caption = r"a (red:1.2) [cat] \( BREAK <lora:x:1>"
    assert parse_prompt(caption, "plain") == [[(caption, 1.0)]]


@pytest.mark.parametrize("named", ["<lora:style:0.8>", "<lyco:style>", "<hypernet:style:1>"])
def test_a_lora_named_in_the_prompt_is_refused(named: str) -> None:
    with pytest.raises(TetherError, match=r"leave it out, and pass the file by --lora"):
        parse_prompt(f"a cat {named}")


@pytest.mark.parametrize("changing", ["[cat:dog:0.5]", "[cat:.5]", "[cat::10]", "[cat|dog]", "([cat:dog:4]:1.2)"])
def test_a_prompt_that_changes_over_the_steps_is_refused(changing: str) -> None:
    with pytest.raises(TetherError, match="change over the steps"):
        parse_prompt(f"a {changing} on a hill")


@pytest.mark.parametrize(
    ("text", "read"), [(r"\[cat:0.5\]", "[cat:0.5]"), ("[a: b]", "a: b"), ("[a|b", "[a|b"), ("a|b: 5]", "a|b: 5]")]
)
def test_other_brackets_do_not_change_over_the_steps(text: str, read: str) -> None:
    assert "".join(piece.text for piece in parse_prompt(text)[0]) == read


@pytest.mark.parametrize(
    "prompt", ["(a:101)", "(a:-1000)", "((a:20):20)", f"(a:{'9' * 400})", "(" * 99 + "a" + ")" * 99]
)
def test_a_weight_beyond_reason_is_refused(prompt: str) -> None:
    with pytest.raises(TetherError, match="expected -100 to 100"):
        parse_weights(prompt)


@pytest.mark.parametrize("prompt", ["(" * 50_000, "([)]" * 20_000, "\\" * 50_000, "(a:1" * 20_000])
def test_hostile_prompts_take_no_time(prompt: str) -> None:
    started = time.perf_counter()
    parse_weights(prompt)
    assert time.perf_counter() - started < 20  # a parser that reads brackets again for each takes hours


@pytest.mark.parametrize(
    "prompt",
    ["[:" + "0" * 40_000, "[" + "|" * 40_000, ":" + "0" * 40_000, "(:" + "0" * 40_000, " " * 40_000],
    ids=["change", "alternatives", "weight", "simple", "spaces"],
)
@pytest.mark.parametrize("syntax", ["nested", "simple"])
def test_a_prompt_takes_a_time_in_proportion_to_its_length(prompt: str, syntax: PromptSyntax) -> None:
    started = time.perf_counter()
    parse_prompt(prompt, syntax)
    assert time.perf_counter() - started < 10  # in proportion to its square it takes minutes
