"""The study of data sizes runs, on a tiny base; each set is the beginning of the next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tether import cli
from tether.datasets.check import open_dataset
from tether.studies.bench import Bench
from tether.studies.data_size import sizes_of
from tether.studies.study import QUICK


def test_every_size_is_trained_and_measured_on_what_was_seen_and_what_was_not(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["study", "data-size", "--quick", "--out", "out", "--base", str(tiny_folder)]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(Path("out/findings.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["strength 0", "4 pairs", "8 pairs"]
    assert not set(found["raw"]["cases"]) & set(found["raw"]["seen"])

    bench = Bench(Path("out"), replace(QUICK, cases=4), quick=True, base=str(tiny_folder))
    captions = []
    for size in (4, 8):
        manifest, reader = open_dataset(bench.subset("scenes", "canny", size))
        assert manifest.samples == size
        captions.append([reader.sample(k).caption for k in range(size)])
    assert captions[1][:4] == captions[0]
    assert [case.prompt for case in bench.first_cases("scenes", ["canny"], 4)] == captions[0]


def test_no_set_has_more_samples_than_a_training_draws() -> None:
    assert sizes_of(1_000_000) == (100, 1_000, 5_000, 20_000)
    assert sizes_of(4_000) == (100, 1_000, 4_000)
    assert sizes_of(80) == (80,)
