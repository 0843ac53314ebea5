"""Studies: found by name, run from a file, reported, and not done twice."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tether import cli
from tether.errors import TetherError
from tether.evaluation.intervals import Score
from tether.evaluation.run import STRENGTH_0
from tether.kinds.measures import Measure
from tether.studies import data_size, find_study, studies
from tether.studies.bench import Bench
from tether.studies.study import QUICK, Row
from tether.studies.zero_convolution import INSUFFICIENT, PROMPTS, _judged, prompted

PAGE = Path(__file__).parents[2] / "docs" / "studies" / "your-own.md"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["study", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_every_study_is_listed_with_its_question() -> None:
    listed = run("--list")
    assert all(name in listed and study.question in listed for name, study in studies().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-convolutions"], "did you mean zero-convolution"),
        (["no/such/file.py"], "there is no study at"),
        ([], "the name of a study, or --list"),
        (["guidance", "--list"], "the name of a study, or --list"),
        (["guidance", "--budget", "3"], "trains nothing"),
        (["ambiguity", "--batch-size", "3"], "trains nothing: leave --batch-size out"),
        (["guidance", "--base", "no/such/base"], "no base at"),
    ],
)
def test_what_cannot_be_right_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TetherError, match=message):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"), [("STUDY = 3", "has no STUDY"), ("import nothing_like_it", "ModuleNotFoundError")]
)
def test_a_file_that_holds_no_study_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(TetherError, match=message):
        find_study(str(tmp_path / "mine.py"))


def test_a_run_on_other_data_is_refused_and_one_whose_folder_moved_is_not(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bench(out: Path) -> Bench:
        return Bench(out, QUICK, quick=True, base=str(tiny_folder))

    first = bench(tmp_path / "first")
    kept = first.train("a", 0, 0, {"data": "circles", "condition": "canny"})
    assert first.train("a", 0, 0, {"data": "circles", "condition": "canny"}) == kept
    with pytest.raises(TetherError, match="a-0 was trained on circles, not on scenes: use another --out"):
        first.train("a", 0, 0, {"data": "scenes", "condition": "canny"})
    first.train("b", 0, 0, {"data": str(tmp_path / "first" / "data" / "scenes-5"), "condition": "canny"})
    (tmp_path / "first").rename(tmp_path / "second")
    inside = {"data": str(tmp_path / "second" / "data" / "scenes-5"), "condition": "canny"}
    assert bench(tmp_path / "second").train("b", 0, 0, inside).is_dir()


def test_conditions_that_show_one_thing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"--cases is 64, .* show 63 different things: .* give at most 63"):
        Bench(tmp_path, replace(QUICK, cases=64)).cases(["emoji3d"], ["canny"])
    with pytest.raises(TetherError, match=r"show 127 different things: .* give at most 126"):
        Bench(tmp_path, replace(QUICK, cases=128)).cases(["emoji3d", "scenes"], ["canny"])


def test_a_numbered_device_is_refused() -> None:
    with pytest.raises(TetherError, match="set CUDA_VISIBLE_DEVICES=1 and give --device cuda"):
        run("guidance", "--device", "cuda:1")


def test_a_study_of_dataclasses_with_postponed_annotations_is_read(tmp_path: Path) -> None:
    shutil.copy(Path(data_size.__file__), tmp_path / "mine.py")
    assert find_study(str(tmp_path / "mine.py")).name == "data-size"


def test_zero_convolutions_do_no_harm_before_training_and_gaussian_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("zero-convolution", "--quick", "--out", "out")
    found = json.loads(Path("out/findings.json").read_text())
    harm = {row["name"]: row["scores"]["harm, step 0"] for row in found["rows"]}
    assert harm["ControlNet"] == harm["ControlNet-lite"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert harm["Gaussian"]["low"] > 1
    assert found["verdict"] == "not judged"
    for name in ("report.md", "sheet.png", "harm.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000

    # Again: nothing is trained or drawn, and the same is found.
    study, bench = find_study("zero-convolution"), Bench(Path("out"), QUICK, quick=True)
    again = study.run(bench)
    assert bench.artist.drawn == 0
    assert {row.name: row.scores["harm, step 0"] for row in again.rows}["Gaussian"] == Score(**harm["Gaussian"])


def test_what_is_kept_is_taken_over_by_the_same_settings_weights_and_steps_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data": "circles", "condition": "canny"}

    def bench(**changes: int) -> Bench:
        return Bench(tmp_path, replace(QUICK, **changes), quick=True, base=str(tiny_folder))

    first = bench().train("a", 0, 0, settings)
    third = bench().train("a", 0, 3, settings)
    assert bench().train("a", 0, 0, settings) == first
    assert bench().train("a", 0, 3, settings) == third
    with pytest.raises(TetherError, match="batches of 2, and 4 are asked for"):
        bench(batch_size=4).train("a", 0, 3, settings)
    with pytest.raises(TetherError, match="learning_rate was"):
        bench().train("a", 0, 0, {**settings, "learning_rate": 1e-5})
    with pytest.raises(TetherError, match="is trained for 3 steps already, and 2 are asked for"):
        bench().train("a", 0, 2, settings)
    monkeypatch.setattr("tether.studies.bench.hash_file", lambda path: "of another canny")
    with pytest.raises(TetherError, match="on another base, or on other shipped controls"):
        bench().train("b", 0, 0, settings)


def judged_ablation(controlnet: float, gaussian: float, lite: float) -> str:
    """The verdict of the ablation where each variant has this F1 in all of four cases, with every prompt."""
    values = {"ControlNet": controlnet, "Gaussian": gaussian, "ControlNet-lite": lite, STRENGTH_0: 0.25}
    of = {name: {key: [[[{"value": value}]] * 4] for key in PROMPTS} for name, value in values.items()}
    rows = [Row(name, {"harm, step 0": Score(0.0, 0.0, 0.0)}) for name in values]
    bench = SimpleNamespace(quick=False, budget=QUICK)
    return _judged(bench, of, Measure("f1", "F1"), rows)[0]  # type: ignore[arg-type]


def test_the_ablation_holds_only_where_gaussian_ones_fall_to_the_level_of_the_light_variant() -> None:
    assert judged_ablation(0.75, 0.32, 0.30) == "holds"
    assert judged_ablation(0.75, 0.70, 0.30) == "holds partly"
    assert judged_ablation(0.75, 0.80, 0.30) == "does not hold at this scale"
    assert judged_ablation(0.25, 0.25, 0.25) == "not judged"  # nothing was learned yet


def test_the_study_of_the_page_runs_in_30_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 30
    Path("hint_encoder.py").write_text(code)
    output = run("hint_encoder.py", "--quick")
    assert "| released |" in output
    assert "| paper |" in output
    assert (tmp_path / "out/study/hint-encoder-quick/report.md").is_file()


def test_the_kinds_of_prompt_are_the_papers(tmp_path: Path) -> None:
    cases = Bench(tmp_path, replace(QUICK, cases=4)).cases(["emoji3d"], ["canny"])
    of = {name: [case.prompt for case in prompted(cases, name)] for name in PROMPTS}
    assert of["none"] == [""] * 4
    assert of["insufficient"] == [INSUFFICIENT] * 4
    assert of["perfect"] == [case.prompt for case in cases]
    assert sorted(of["conflicting"]) == sorted(of["perfect"])
    assert all(ours != theirs for ours, theirs in zip(of["conflicting"], of["perfect"], strict=True))
