"""Where studies run: trains variants, draws and measures, keeps all of it, and resumes what was interrupted.

    OUT/runs/VARIANT-SEED/               a run of the trainer, see `tether.training.run`
    OUT/runs/VARIANT-SEED/at-STEP/       the control after STEP steps
    OUT/weights.json                     what base and shipped controls the runs stand on
    OUT/cache/                           latents and text states, shared by all runs
    OUT/data/SET-COUNT/                  the beginnings of sets, for studies of their size
    OUT/images/                          see `tether.evaluation.drawing`
    OUT/report.md, findings.json, sheet.png, FIGURE.png

A run is trained by Tether's one trainer: killed and continued, it ends with the same bits.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.control.store import WEIGHTS
from tether.datasets.build import build_dataset
from tether.datasets.synthetic.builtin import builtin_source
from tether.errors import TetherError
from tether.evaluation import Arm, Artist, Case, Evaluation, evaluate, held_out_cases, open_held_out
from tether.evaluation.cases import HeldOut
from tether.evaluation.drawing import Steering, seeds_of
from tether.files.atomic import make_folder, write_text
from tether.files.hashing import hash_file, hash_modules
from tether.sampling import Request, Session
from tether.studies.chosen import Chosen, evenly
from tether.studies.study import Budget
from tether.training.auxiliary import make_auxiliary_losses
from tether.training.config import CONFIG, TrainConfig
from tether.training.events import Outcome, Validation
from tether.training.plan import Plan, measure
from tether.training.run import RESULT, prepare_base, train
from tether.training.start import open_start
from tether.weights import shipped

__all__ = ["Bench", "steered"]

TRAINING = {
    "learning_rate": 4e-4,
    "warmup_steps": 20,
    "max_grad_norm": 1.0,
    "ema": 0.99,
    "validation_every": 0,
    "checkpoint_every": 100,
    "keep_checkpoints": 1,
    "trackers": (),
}
"""How variants are trained, where a study does not say otherwise."""


class Bench:
    """Trains, draws and measures for one study.

    Args:
        out: the study's folder.
        budget: how much it may do.
        quick: whether the numbers mean nothing, as only whether everything runs is to be seen.
        base: what `tether.load_base` opens.
        device: where to train and draw.
        on_progress: called with what is being done, how much of it is done, and how much there is.
    """

    def __init__(
        self,
        out: Path,
        budget: Budget,
        *,
        quick: bool = False,
        base: str = "tether",
        device: str = "cpu",
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.out, self.budget, self.quick, self.base, self.device = out, budget, quick, base, device
        self.on_progress = on_progress or (lambda stage, done, total: None)
        self._checked = False
        self.session = Session(notify=lambda line: None)
        template = Request(prompt="", base=base, device=device, steps=budget.sampling_steps)
        self.artist = Artist(self.session, template, out / "images")

    def train(self, variant: str, seed: int, at: int, settings: Mapping[str, Any]) -> Path:
        """The folder of a variant's control after `at` steps, trained until there if it is not yet.

        Ask for fewer steps before more: a run only goes on. What is kept is taken over only where a new run would have
        the same settings and begin with the same weights.

        Args:
            variant: its name.
            seed: of everything random in its training.
            at: optimizer steps; 0 is the control before training.
            settings: of `tether.training.config.TrainConfig`; those of the bench are used where it says nothing.

        Raises:
            TetherError: as `tether.training.run.train`; when the folder holds runs of other settings or weights, or one
                that is past `at`.
        """
        run = self.out / "runs" / f"{variant}-{seed}"
        kept = run / f"at-{at}"
        config = self.config(settings, seed, at, run)
        self._check_weights()
        if (run / CONFIG).is_file():
            before = TrainConfig.load(run / CONFIG)
            config.check_continues(before)
            if self._place(config.data, run) != self._place(before.data, before.out):
                raise TetherError(f"{run} was trained on {before.data}, not on {config.data}: use another --out")
            if before.samples_a_step != config.samples_a_step:
                raise TetherError(
                    f"{run} has a run with batches of {before.samples_a_step}, and {config.samples_a_step} are asked "
                    "for: use another --out"
                )
        if kept.is_dir():
            return kept
        if at == 0:
            _, control = open_start(config)
            control.save(kept)
            config.save(run / CONFIG)
            return kept
        result = train(
            config, on_progress=lambda now: self.on_progress(f"training {variant}, seed {seed}", now.step, now.steps)
        )
        if result.control is None:  # a signal; the checkpoint is written
            raise KeyboardInterrupt
        if result.outcome.step != at:
            raise TetherError(
                f"{run} is trained for {result.outcome.step} steps already, and {at} are asked for: use another --out"
            )
        part = kept.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(result.control, part)
        part.rename(kept)
        return kept

    @staticmethod
    def _place(data: str, run: Path) -> str:
        """A set's name; of data in the study's folder their place in it, as the folder may have moved."""
        folder = run.parent.parent
        return str(Path(data).relative_to(folder)) if Path(data).is_relative_to(folder) else data

    def _check_weights(self) -> None:
        """Refuses a folder whose runs stand on other weights than are there now; notes them in a new one."""
        if self._checked:
            return
        modules = {f"base.{k}": module for k, module in enumerate(self.artist.base.modules())}
        found = {"base": hash_modules(modules), "canny": hash_file(shipped("control-canny") / WEIGHTS)}
        file = self.out / "weights.json"
        if not file.is_file():
            make_folder(self.out)
            write_text(file, json.dumps(found, indent=1))
        elif json.loads(file.read_text()) != found:
            raise TetherError(
                f"{self.out} has runs on another base, or on other shipped controls ({file.name}): use another --out"
            )
        self._checked = True

    def config(self, settings: Mapping[str, Any], seed: int, steps: int, run: Path) -> TrainConfig:
        """The settings of a run, see `train`."""
        return TrainConfig.of(
            {
                **TRAINING,
                "batch_size": self.budget.batch_size,
                "device": "cpu" if self.device == "cpu" else "auto",
                "base": self.base,
                **settings,
                "seed": seed,
                "steps": max(steps, 1),
                "out": run,
                "cache": self.out / "cache",
            }
        )

    def cost(self, settings: Mapping[str, Any]) -> Plan:
        """Parameters, memory and the time of an update of a variant, measured on random numbers.

        Args:
            settings: as for `train`; auxiliary losses must need no more than a batch.
        """
        config = self.config(settings, 0, 1, self.out / "cost")
        base, control = open_start(config)
        auxiliary = make_auxiliary_losses(config.auxiliary_losses, control, base)
        prepare_base(base, config)
        return measure(base, control, config, {name: loss for name, (_, loss) in auxiliary.items()})

    def training_cases(self, name: str, kinds: Sequence[str], count: int) -> list[Case]:
        """Conditions of names that training sees, evenly from one of the package's sets; to choose or learn by."""
        source = builtin_source(name, self.artist.base.sample_size, None)
        return self._trained_on(name, evenly(source, count), kinds)

    def first_cases(self, name: str, kinds: Sequence[str], count: int) -> list[Case]:
        """The first conditions of one of the package's sets, which every `subset` of it contains."""
        source = builtin_source(name, self.artist.base.sample_size, None)
        return self._trained_on(name, Chosen(source, range(count)), kinds)

    def _trained_on(self, name: str, some: Chosen, kinds: Sequence[str]) -> list[Case]:
        side = self.artist.base.sample_size
        return held_out_cases(
            [HeldOut(f"train {name}", some, "train")],
            kinds,
            (side, side),
            len(some),
            on_progress=lambda done, total: self.on_progress("preparing training pictures", done, total),
        )

    def subset(self, name: str, kind: str, count: int) -> Path:
        """The first `count` samples of one of the package's sets, built as a data set to train on, once."""
        folder = self.out / "data" / f"{name}-{count}"
        build_dataset(
            name,
            folder,
            kind,
            size=self.artist.base.sample_size,
            count=count,
            workers=0,
            on_progress=lambda done, total: self.on_progress(f"building {count} pairs", done, total),
        )
        return folder

    def curve(self, variant: str, seed: int) -> list[Validation]:
        """The validations of a run that is trained to its end: settings with `validation_every` above 0."""
        result = self.out / "runs" / f"{variant}-{seed}" / RESULT
        return Outcome.from_json(json.loads(result.read_text())["outcome"]).curve

    def cases(self, sets: Sequence[str], kinds: Sequence[str]) -> list[Case]:
        """Held-out conditions of the budget, shared between some sets; see `tether.evaluation.cases`.

        Raises:
            TetherError: when two are of one subject: intervals take conditions for independent.
        """
        side = self.artist.base.sample_size
        held_out = [open_held_out(name, side) for name in sets]
        cases = held_out_cases(
            held_out,
            kinds,
            (side, side),
            self.budget.cases,
            on_progress=lambda done, total: self.on_progress("preparing conditions", done, total),
        )
        subjects = {case.subject for case in cases}
        if len(subjects) < len(cases):
            fewest = min(Counter(subject.partition("/")[0] for subject in subjects).values())  # of a set
            raise TetherError(
                f"--cases is {self.budget.cases}, and {len(cases)} held-out conditions of {', '.join(sets)} show "
                f"{len(subjects)} different things: intervals would be too narrow, so give at most {fewest * len(sets)}"
            )
        return cases

    def draw(self, cases: Sequence[Case], arm: Arm) -> None:
        """Draws what `measure` measures of an arm, with one image a condition, so that it is there."""
        for done, case in enumerate(cases, 1):
            (seed,) = seeds_of(0, case.number, 1)
            self.artist.picture(case, arm, seed)
            self.on_progress(f"drawing {arm.name}", done, len(cases))

    def measure(
        self,
        cases: Sequence[Case],
        arms: Sequence[Arm],
        kinds: Sequence[str],
        *,
        images: int = 1,
        words: Sequence[Any] = (),
        changes: Mapping[str, Any] | None = None,
        stage: str = "drawing and measuring",
    ) -> Evaluation:
        """Draws and measures; see `tether.evaluation.run.evaluate`.

        Args:
            cases: the conditions.
            arms: the ways to draw them.
            kinds: whose measures are taken.
            images: images a condition.
            words: further measures of an image and its prompt.
            changes: fields of the request other than the bench's: guidance_scale, ...
            stage: for progress.
        """
        artist = self.artist
        if changes:
            artist = Artist(self.session, artist.template.model_copy(update=changes), artist.folder)
        return evaluate(
            cases,
            arms,
            artist,
            kinds,
            images=images,
            words=words,
            on_progress=lambda done, total: self.on_progress(stage, done, total),
        )


def steered(name: str, ref: str | Path, kind: str, **settings: Any) -> Arm:
    """An arm with one control; `settings` are those of `tether.sampling.ControlRequest`."""
    return Arm(name, (Steering(str(ref), kind, settings),))
