"""docs/evaluate.md: its code runs as written, and names every kind of the package that has measures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tether.kinds import kinds

PAGE = Path(__file__).parents[1] / "docs" / "evaluate.md"


def test_its_code_runs_and_closer_sides_follow_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), names)
    assert names["found"].score("sides 0.6", "canny/f1_2px").value > 0
    assert len(list((tmp_path / "out/sides").rglob("*.png"))) == 8


def test_it_names_every_kind_with_measures() -> None:
    table = PAGE.read_text().partition("## What is measured")[2].partition("| any other")[0]
    missing = [name for name, kind in kinds().items() if kind.measures and not re.search(rf"\b{name}\b", table)]
    assert missing == []
