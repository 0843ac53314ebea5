"""The comparison runs, on a tiny base; a locked base has no drift; and the blind judge learns what it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tether import cli
from tether.studies.blind_judge import ranks, train_fidelity, train_quality, wrong_maps
from tether.studies.comparison import ARMS

UNLOCKED = {"concatenated (LDM)", "ControlNet, not locked"}


def test_without_their_control_all_but_the_unlocked_are_the_base_exactly(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["study", "comparison", "--quick", "--out", "out", "--base", str(tiny_folder)]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(Path("out/findings.json").read_text())
    assert found["verdict"] == "not judged"
    scores = {row["name"]: row["scores"] for row in found["rows"]}
    assert set(scores.pop("strength 0")) == {"F1"}
    assert set(scores) == set(ARMS)
    for name, of in scores.items():
        drift = of["drift"]
        assert (drift["value"] == drift["high"] == 0) == (name not in UNLOCKED), name
    assert scores["ControlNet"]["time"]["value"] == 1
    assert sum(of["rank of quality"]["value"] for of in scores.values()) == pytest.approx(8 * 9 / 2)
    small, large = (scores[name]["parameters, M"]["value"] for name in ("sketch-guided", "ControlNet, not locked"))
    assert small < large
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


def squares(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with a square somewhere, and the outlines of it."""
    rng = np.random.default_rng(seed)
    pictures, maps = torch.zeros(count, 3, 32, 32), torch.zeros(count, 1, 32, 32)
    for k in range(count):
        y, x = rng.integers(1, 20, 2)
        pictures[k, :, y : y + 10, x : x + 10] = 1
        maps[k, 0, y : y + 10, x : x + 10] = 1
        maps[k, 0, y + 1 : y + 9, x + 1 : x + 9] = 0
    return pictures, maps


def test_the_judge_of_quality_tells_pictures_from_blurred_ones_that_it_has_not_seen() -> None:
    seen, held = (squares(40, seed)[0] for seed in (0, 1))
    blur = torch.nn.AvgPool2d(9, stride=1, padding=4)
    judge = train_quality(seen, blur(seen), 30)
    assert (judge.score(held) > 0).mean() > 0.9
    assert (judge.score(blur(held)) < 0).mean() > 0.9


def test_the_judge_of_fidelity_tells_own_outlines_from_others() -> None:
    seen, held = squares(60, 0), squares(40, 1)
    judge = train_fidelity(*seen, 120)
    own = judge.score(torch.cat(held, dim=1)).mean()
    other = judge.score(torch.cat([held[0], held[1].roll(1, dims=0)], dim=1)).mean()
    assert own > other + 1


def test_the_same_seed_gives_the_same_judge() -> None:
    real, _ = squares(20, 0)
    first, second = (train_quality(real, real.flip(1) * 0.5, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_no_wrong_map_is_the_pictures_own() -> None:
    _, maps = squares(30, 2)
    chosen = torch.arange(30)
    wrong = wrong_maps(maps, chosen, torch.Generator().manual_seed(0))
    assert wrong.shape == maps.shape
    same = [torch.equal(one, own) for one, own in zip(wrong, maps, strict=True)]
    assert sum(same) <= 2  # a symmetric one may be


def test_the_best_has_the_highest_rank_and_ties_share_theirs() -> None:
    assert ranks([[0.1, 5.0], [0.3, 5.0], [0.2, -1.0]]).tolist() == [[1.0, 2.5], [3.0, 2.5], [2.0, 1.0]]
