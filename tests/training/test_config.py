from __future__ import annotations

from pathlib import Path

import pytest

from tether.errors import TetherError
from tether.training.config import TrainConfig


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "run", steps=7, min_snr=5.0, betas=(0.9, 0.99), trackers=("wandb",))
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config


def test_a_config_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written again whenever a run goes on: a kill or a full disk in that moment must not lose the run."""
    config = TrainConfig(out=tmp_path / "run")
    config.save(tmp_path / "config.yaml")

    def full(part: Path, text: str, **_: str) -> None:
        with part.open("w") as file:
            file.write(text[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(TetherError, match="No space left"):
            TrainConfig(out=tmp_path / "run", steps=3).save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_overrides_win_and_none_takes_a_setting_back(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("out: run\nsteps: 7\nbatch_size: 3\nmin_snr: 5\n")
    config = TrainConfig.load(tmp_path / "config.yaml", steps=9, min_snr=None)
    assert (config.steps, config.batch_size, config.min_snr) == (9, 3, None)


def test_no_is_a_precision_however_yaml_reads_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("out: run\nprecision: no\n")
    assert TrainConfig.load(tmp_path / "config.yaml").precision == "no"


@pytest.mark.parametrize(
    "change", [{"validation_images": 4}, {"validation_steps": 4}, {"validation_guidance": 2.0}, {"validation_every": 0}]
)
def test_what_a_look_is_may_not_change_within_a_run(change: dict) -> None:
    before = TrainConfig(out=Path("run"))
    TrainConfig(out=Path("run"), validation_every=7, steps=9).check_continues(before)
    with pytest.raises(TetherError, match=next(iter(change))):
        TrainConfig(out=Path("run"), **change).check_continues(before)


def test_the_learning_rate_is_that_of_the_base_where_none_is_given() -> None:
    out = Path("run")
    assert TrainConfig(out=out).learning_rate == 4e-4
    assert TrainConfig(out=out, base="some/sd15").learning_rate == 1e-5
    assert TrainConfig(out=out, learning_rate=1e-3).learning_rate == 1e-3


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
ALIASES += "out: *h\n"
"""A few hundred bytes that are 9 ** 8 texts."""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("out: run\nlearningrate: 1\n", "learningrate"),
        ("out: run\nsteps: many\n", "steps"),
        ("out: run\nsteps: 0\n", "steps"),
        ("out: run\nlearning_rate: .nan\n", "learning_rate"),
        ("out: run\nstratified_timesteps: true\n", "stratified_timesteps needs randomness: batch"),
        ("out: run\nstart_base: old\n", "start_base needs start_from"),
        ("out: run\nshares: {a: 0, b: 0}\n", "shares must be"),
        ("out: run\nbetas: [0.9, 1.0]\n", "betas"),
        ("steps: 5\n", "out"),
        ("1: 2\nout: run\n", "config.yaml is not a training config: expected lines of 'setting: value'"),
        (f"out: {'[' * 5000}{']' * 5000}\n", "cannot read the training config .*config.yaml"),
        (ALIASES, "training setting out"),
        ("- a\n- b\n", "config.yaml"),
        ("a: [\n", "config.yaml"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(TetherError, match=named) as caught:
        TrainConfig.load(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="cannot read"):
        TrainConfig.load(tmp_path / "none.yaml")


def test_former_names_are_read_and_both_names_of_a_setting_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("out: run\nwatch_every: 7\nempty_prompts: 0.1\n")
    config = TrainConfig.load(tmp_path / "config.yaml", validation_every=9)
    assert (config.validation_every, config.prompt_dropout) == (9, 0.1)
    assert TrainConfig(out=Path("run"), explosion=3.0).divergence_factor == 3.0  # type: ignore[call-arg]
    with pytest.raises(TetherError, match="watch_every and validation_every are the same training setting"):
        TrainConfig.of({"out": "run", "validation_every": 1, "watch_every": 2})


def test_a_misspelled_setting_is_answered_with_the_closest_one() -> None:
    with pytest.raises(TetherError, match=r"unknown training setting 'promptdropout': did you mean prompt_dropout\?"):
        TrainConfig.of({"out": "run", "promptdropout": 1})


def test_the_shipped_controls_recipe_is_a_valid_config() -> None:
    config = TrainConfig.load(Path(__file__).parents[2] / "recipes" / "control-canny.yaml")
    assert (config.optimizer, config.randomness, config.stratified_timesteps) == ("muon", "batch", True)
    assert [loss.loss for loss in config.auxiliary_losses] == ["recipes/grounding.py:SceneGrounding"]


@pytest.mark.parametrize(
    ("given", "kept", "size"),
    [
        (64, 64, 64),
        ("64", 64, 64),
        ("64x64", 64, 64),
        ("96x64", "96x64", (96, 64)),
        (" 96X64 ", "96x64", (96, 64)),
        ([96, 64], "96x64", (96, 64)),
        (None, None, None),
    ],
)
def test_a_resolution_is_a_side_or_width_and_height(given: object, kept: object, size: object, tmp_path: Path) -> None:
    config = TrainConfig.of({"out": tmp_path, "resolution": given})
    assert config.resolution == kept
    assert config.image_size == size
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("given", ["96x64x3", "wide", "", 64.5, True, [1, 2, 3], [], -64, "64x", {"a": 1}, 7])
def test_other_resolutions_are_refused_in_one_line(given: object, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="training setting resolution") as error:
        TrainConfig.of({"out": tmp_path, "resolution": given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bucket_step": 8}, "bucket_step needs buckets: true"),
        ({"buckets": True, "condition": ["canny", "depth"]}, "buckets are for one kind of condition"),
        ({"buckets": True, "data": "x.npz"}, "a packed latents file has one size"),
        ({"latents": "sample", "data": "x.npz"}, "and means of latents"),
    ],
)
def test_sizes_that_the_data_cannot_have_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=message):
        TrainConfig.of({"out": tmp_path} | settings)
