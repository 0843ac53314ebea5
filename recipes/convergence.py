"""Does control arrive at once? Trains controls from scratch on the shipped base and draws their condition fidelity.

    python recipes/convergence.py --out runs/convergence                    (again: resumes)

For each kind of condition and each seed a control is trained by `tether train` on `emoji3d`; every 50 steps it draws
the same validation images, and their condition fidelity is recorded. Figure: docs/images/convergence.svg.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from tether.training.config import TrainConfig
from tether.training.convergence import find_convergence
from tether.training.events import Progress
from tether.training.run import train

COLORS = ("#1b6ca8", "#c8553d", "#588157", "#8e5ea2", "#444444")
WIDTH, HEIGHT, LEFT, TOP, GAP = 360, 220, 48, 30, 60

Curve = dict[int, tuple[float, float]]
"""Step -> condition fidelity with and without prompt."""


def run(kind: str, seed: int, steps: int, folder: Path) -> tuple[Curve, int | None]:
    """Trains one control; returns its curve and the step at which control appeared, as of the last validation."""
    config = TrainConfig(
        out=folder / f"{kind}-{seed}",
        condition=kind,
        cache=folder / f"cache-{kind}",
        seed=seed,
        steps=steps,
        batch_size=16,
        validation_every=50,
        validation_images=12,
    )

    def on_progress(progress: Progress) -> None:
        seen = progress.validation
        if seen is not None and progress.step == seen.step:
            print(f"{kind} seed {seed} step {progress.step}: {seen.fidelity:.3f}", flush=True)

    curve = train(config, on_progress=on_progress).outcome.curve
    verdict = find_convergence([seen.step for seen in curve], [seen.fidelity for seen in curve])
    return {seen.step: (seen.fidelity, seen.without_prompt) for seen in curve}, verdict.step


def figure(curves: Mapping[str, list[tuple[Curve, int | None]]], steps: int) -> str:
    """An SVG: one panel a kind, one line a seed (dashed: without prompts), a dot where control appeared."""
    parts = []
    for panel, (kind, runs) in enumerate(curves.items()):
        left = LEFT + panel * (WIDTH + GAP)

        def place(step: float, fidelity: float, left: int = left) -> tuple[float, float]:
            return left + WIDTH * step / steps, TOP + HEIGHT * (1 - fidelity)

        parts.append(f'<text x="{left}" y="{TOP - 10}">{kind}: condition fidelity (edge F1)</text>')
        for tick in range(6):
            y = TOP + HEIGHT * (1 - tick / 5)
            parts.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick / 5:.1f}</text>')
            x = left + WIDTH * tick / 5
            parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{steps * tick // 5}</text>')
        for (curve, converged), color in zip(runs, COLORS, strict=False):
            for side, dash in ((0, ""), (1, ' stroke-dasharray="4 3" stroke-opacity="0.5"')):
                points = " ".join("{:.1f},{:.1f}".format(*place(step, both[side])) for step, both in curve.items())
                parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"{dash}/>')
            if converged in curve:
                x, y = place(converged, curve[converged][0])
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
    width, height = LEFT + len(curves) * (WIDTH + GAP), TOP + HEIGHT + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["canny", "scribble"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path("runs/convergence"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/convergence.svg"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    curves = {}
    for kind in arguments.kinds:
        curves[kind] = [run(kind, seed, arguments.steps, arguments.out) for seed in arguments.seeds]
        print(kind, "control appeared at", [converged for _, converged in curves[kind]])
    arguments.figure.write_text(figure(curves, arguments.steps))


if __name__ == "__main__":
    main()
