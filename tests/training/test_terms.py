"""Which run a checkpoint belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tether.errors import TetherError
from tether.training.trainer import Trainer


def test_going_on_with_other_settings_is_refused_in_one_line(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, steps=2)
    with pytest.raises(TetherError, match=r"learning_rate was 0.001 and is now 0.5") as caught:
        tiny.train(tmp_path, steps=4, learning_rate=0.5)
    assert "\n" not in str(caught.value)


def test_going_on_with_another_number_of_samples_a_step_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, steps=2, batch_size=4)
    with pytest.raises(TetherError, match="4 samples per step, these settings make 2"):
        tiny.train(tmp_path, steps=4, batch_size=2)


def test_another_base_or_other_data_under_the_same_name_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    def trainer(**identity: str) -> Trainer:
        base = tiny.make_base()
        config = tiny.make_config(tmp_path, steps=2)
        return Trainer(base, tiny.make_control(base), tiny.batches, config, identity=identity)

    trainer(base="a", data="b").fit()
    with pytest.raises(TetherError, match="another data"):
        trainer(base="a", data="c").fit()
    assert trainer(base="a", data="b").fit().step == 2


def test_an_adafactor_run_of_relative_steps_does_not_go_on_with_absolute_ones(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=2, optimizer="adafactor")
    terms = trainer.terms.to_json()
    trainer.terms.check_continues(json.loads(json.dumps(terms)))
    earlier = {name: value for name, value in terms.items() if name != "adafactor_steps"}
    with pytest.raises(TetherError, match="a run of an earlier version, whose adafactor hardly moved"):
        trainer.terms.check_continues(earlier)
    tiny.make_trainer(tmp_path, steps=2).terms.check_continues(
        earlier | {"settings": terms["settings"] | {"optimizer": "adamw"}}
    )
