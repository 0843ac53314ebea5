"""docs/any-network.md: its code runs as written, prints what the page shows, and its claims hold."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "any-network.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What all of the page's code has printed, and its variables."""
    names: dict[str, Any] = {"__name__": "page"}
    printed, threads = io.StringIO(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(), redirect_stdout(printed):
        patch.chdir(tmp_path_factory.mktemp("page"))
        torch.set_num_threads(1)
        for code in blocks("python"):
            exec(compile(code, str(PAGE), "exec"), names)
        torch.set_num_threads(threads)
    return printed.getvalue(), names


def test_the_page_prints_what_it_shows_but_for_the_last_digits_of_errors(ran: tuple[str, dict[str, Any]]) -> None:
    shown, printed = ("".join(blocks("text"))).splitlines(), ran[0].splitlines()
    assert len(shown) == len(printed)
    for expected, found in zip(shown, printed, strict=True):
        if re.fullmatch(r".*: 0\.\d{4}", expected):
            assert found.split(":")[0] == expected.split(":")[0]
            assert float(found.split(":")[1]) == pytest.approx(float(expected.split(":")[1]), rel=0.5)
        else:
            assert found == expected


def test_the_condition_helps_the_denoiser_and_a_wrong_one_misleads_it(ran: tuple[str, dict[str, Any]]) -> None:
    errors = ran[1]["errors"]
    assert errors["with its outline"] < errors["without condition"] / 5
    assert errors["with another outline"] > errors["without condition"]


def test_at_the_end_both_networks_are_free_of_control(ran: tuple[str, dict[str, Any]]) -> None:
    for name in ("transformer", "resnet"):
        network = ran[1][name]
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not any(type(module).__name__ == "ControlledBlock" for module in network.modules())
