"""An evaluation from cases to table, JSON and sheet, with few steps: numbers are checked, not quality."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.evaluation import Arm, Artist, Case, Evaluation, Steering, evaluate, held_out_cases, open_held_out
from tether.evaluation.found import finder, numbers_of
from tether.evaluation.intervals import Score
from tether.evaluation.report import notes, report, table
from tether.evaluation.run import AUTOENCODER, EXCHANGED, SOURCE, STRENGTH_0
from tether.evaluation.sheet import draw_sheet, ranked
from tether.kinds import annotate
from tether.kinds.ade20k import COLORS
from tether.sampling import Request, Session

ARMS = [Arm(STRENGTH_0), Arm("canny", (Steering("canny", "canny", {"strength": 1.0}),))]
TEMPLATE = Request(prompt="", steps=1)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session()


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return held_out_cases([open_held_out("emoji3d", 128)], ["canny"], (128, 128), 3)


@pytest.fixture(scope="module")
def found(session: Session, cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(cases, ARMS, Artist(session, TEMPLATE, tmp_path_factory.mktemp("pictures")), ["canny"], images=2)


def value(score: Score | None) -> float:
    assert score is not None
    return score.value


def test_the_sources_follow_their_own_conditions_and_the_autoencoder_loses_little(found: Evaluation) -> None:
    assert value(found.score(SOURCE, "canny/f1_2px")) == 1.0
    assert value(found.score(SOURCE, "canny/f1_exact")) == 1.0
    assert 0.8 < value(found.score(AUTOENCODER, "canny/f1_2px")) < 1.0


def test_every_arm_has_every_measure_and_an_interval_around_it(found: Evaluation) -> None:
    for arm in (STRENGTH_0, "canny"):
        for name in ("canny/f1_2px", "canny/f1_exact", "diversity", "sharpness"):
            score = found.score(arm, name)
            assert score is not None
            assert score.low <= score.value <= score.high
    assert found.score(SOURCE, "diversity") is None
    assert found.score("no such arm", "sharpness") is None


def test_the_ratio_to_strength_0_is_that_of_the_scores(found: Evaluation) -> None:
    better = value(found.times_better("canny", "canny/f1_2px"))
    scores = [value(found.score(arm, "canny/f1_2px")) for arm in ("canny", STRENGTH_0)]
    assert better == pytest.approx(scores[0] / scores[1])
    assert found.times_better("canny", "canny/f1_2px", reference="no such arm") is None


def test_prompt_agreement_is_measured_with_its_own_error(found: Evaluation) -> None:
    assert value(found.score(SOURCE, "prompt")) > value(found.score(EXCHANGED, "prompt"))
    assert any("other colors" in line for line in notes(found))


def test_an_interrupted_run_draws_only_the_rest(session: Session, cases: list[Case], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 4:
            raise KeyboardInterrupt

    first = Artist(session, TEMPLATE, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(cases, ARMS, first, ["canny"], on_progress=stop)
    assert first.drawn == 4
    second = Artist(session, TEMPLATE, tmp_path)
    evaluate(cases, ARMS, second, ["canny"])
    assert second.drawn == 2


def test_batches_measure_the_same_of_every_case(session: Session, cases: list[Case], tmp_path: Path) -> None:
    one_by_one = evaluate(cases, ARMS, Artist(session, TEMPLATE, tmp_path), ["canny"], images=2)
    again = Artist(session, TEMPLATE, tmp_path, batch=4)  # two cases at once, then the third
    heard: list[int] = []
    batched = evaluate(cases, ARMS, again, ["canny"], images=2, on_progress=lambda done, total: heard.append(done))
    assert again.drawn == 0
    assert heard == list(range(1, 13))
    assert batched.pictures == one_by_one.pictures
    assert batched.numbers == one_by_one.numbers


def test_the_table_has_a_row_a_measure(found: Evaluation) -> None:
    rows = table(found, [arm.name for arm in ARMS])
    assert rows[0] == ["", STRENGTH_0, "canny", "canny, x better", SOURCE, AUTOENCODER]
    assert len({len(row) for row in rows}) == 1
    titles = [row[0] for row in rows[1:]]
    assert titles[:2] == ["canny: edge F1, 2 px ↑", "canny: edge F1, exact ↑"]
    assert len(titles) == len(found.measures)


def test_json_holds_every_number_and_no_nan(found: Evaluation) -> None:
    read = json.loads(json.dumps(report(found, {"seed": 0}), allow_nan=False))
    assert read["scores"]["canny"]["canny/f1_2px"]["value"] == value(found.score("canny", "canny/f1_2px"))
    assert len(read["cases"]) == 3
    numbers = read["cases"][0]["numbers"]["canny"]["canny/f1_2px"]
    assert len(numbers) == 2
    assert all(0 <= one["value"] <= 1 for one in numbers)
    assert len(read["cases"][0]["pictures"]["canny"]) == 2
    assert read["machine"]["threads"] >= 1


def test_cases_are_ranked_best_first_and_the_sheet_shows_them(found: Evaluation) -> None:
    order = ranked(found, "canny", "canny/f1_2px")
    scores = [found.of_picture("canny", "canny/f1_2px", k) for k in order]
    assert scores == sorted(scores, reverse=True)
    sheet = draw_sheet(found, "canny", ["canny"])
    assert sheet.width > 5 * 128
    assert sheet.height > 3 * 128


def test_classes_that_a_set_brings_are_not_compared_with_areas_in_their_mean_colors() -> None:
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    classes = Image.fromarray(np.full((64, 64, 3), COLORS[0], np.uint8))
    given = Case("a", "", image, {"seg": classes})
    assert finder("seg", given) is None  # no network for ADE20K is there
    assert numbers_of("seg", image, given) == {}
    made = Case("a", "", image, {"seg": annotate("seg", image)}, annotated=frozenset({"seg"}))
    assert finder("seg", made) == "annotator"
    assert "miou" in numbers_of("seg", image, made)


def test_sets_of_which_only_some_can_be_measured_are_refused_before_drawing(tmp_path: Path) -> None:
    scene = held_out_cases([open_held_out("scenes", 128)], ["seg"], (128, 128), 1)
    given = replace(scene[0], key="folder/a", exact=frozenset(), layout="")
    assert finder("seg", given) is None
    artist = Artist(Session(), TEMPLATE, tmp_path)
    with pytest.raises(TetherError, match="not for those like that of folder/a: measure the sets one by one"):
        evaluate([*scene, given], [Arm(STRENGTH_0)], artist, ["seg"])
    assert artist.drawn == 0


def test_a_measure_without_a_better_direction_has_no_arrow(found: Evaluation) -> None:
    heads = [row[0] for row in table(found, [arm.name for arm in ARMS])]
    assert "sharpness (of 255)" in heads
    assert "canny: edge F1, 2 px ↑" in heads
    assert report(found, {})["measures"]["sharpness"]["higher_is_better"] is None


def test_what_is_inpainted_is_measured_in_the_hole() -> None:
    (case,) = held_out_cases([open_held_out("emoji3d", 64)], ["inpaint"], (64, 64), 1)
    assert case.mask is not None
    hole = np.asarray(case.mask.convert("L")) >= 128
    pixels = case.pixels.copy()
    pixels[~hole] = 255 - pixels[~hole]  # what is kept is not measured
    assert numbers_of("inpaint", Image.fromarray(pixels), case)["delta_e"]["value"] == 0
