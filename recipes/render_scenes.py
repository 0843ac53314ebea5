"""Renders the scenes: data/scenes.npz for training, and data/scenes-held-out.npz, which training never sees.

python recipes/render_scenes.py --count 5000
python recipes/render_scenes.py --count 5000 --maps --out data/scenes-maps.npz       (for controls)

With `--maps` the file has the exact condition maps of each scene too, maps_KIND (`tether.datasets.synthetic.scenes`).
With `--mannequins` every other scene has one, in any pose: a control is told the pose, and need not know it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from itertools import count
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from common import CAPTIONS, SIZE
from grounding import covered
from tether.datasets.synthetic.scenes import SceneSpec, caption, render, sample_scene
from tether.datasets.synthetic.scenes.maps import MAPS
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES

POSES = ("standing", "waving", "raising both arms", "in a t-pose")
"""Poses of most mannequins that are trained on: limbs that hide nothing, and few ways to stand."""
OTHER_POSES, ALONE, TALL, NEAR = 0.2, 0.5, 2.1, -0.45
POSED = 4_000_000
"""The seed of the first scene of `--mannequins`: others are of the judge's, and held out."""


def training_scene(seed: int) -> SceneSpec:
    """A random scene of which mannequins are mostly in few poses, and large: half of them alone, or by one thing."""
    spec, rng = sample_scene(seed), np.random.default_rng([2, seed])
    if spec.mannequins and len(spec.objects) > 2:
        spec = sample_scene(seed, max_objects=2)
    if spec.mannequins and rng.random() < ALONE:
        first = spec.mannequins[0]
        height = min(1.4 * first.height, TALL)
        spec = replace(spec, solids=(), mannequins=(replace(first, x=0.3 * first.x, z=NEAR, height=height),))
    posed = tuple(
        mannequin if rng.random() < OTHER_POSES else replace(mannequin, pose=str(rng.choice(POSES)))
        for mannequin in spec.mannequins
    )
    return replace(spec, mannequins=posed)


def posed_scene(first: int) -> SceneSpec:
    """The first scene with a mannequin, in any pose, of the seeds from `first` on."""
    return next(spec for spec in map(sample_scene, count(first)) if spec.mannequins)


def spec_of(seed: int, mannequins: bool) -> SceneSpec:
    """The scene of a seed: as it is where it is held out, else for training."""
    if seed in HELD_OUT_SCENES:
        return sample_scene(seed)
    return posed_scene(POSED + 100 * seed) if mannequins and seed % 2 else training_scene(seed)


def draw(seed: int, maps: bool, mannequins: bool) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, np.ndarray]]:
    """One scene's pixels, uint8 `(128, 128, 3)`, where its things are (`covered`), captions, and its exact maps."""
    spec = spec_of(seed, mannequins)
    scene = render(spec, SIZE)
    found = {f"maps_{kind}": make(scene) for kind, make in MAPS.items()} if maps else {}
    return scene.image, covered(scene.instance), captions(spec, seed), found


def captions(spec: SceneSpec, seed: int) -> list[str]:
    """`CAPTIONS` captions of the scene of a seed."""
    rng = np.random.default_rng([1, seed])
    return [caption(spec, rng) for _ in range(CAPTIONS)]


def pack(path: Path, seeds: range, processes: int | None, maps: bool = False, mannequins: bool = False) -> None:
    """Renders the scenes of `seeds` and writes pixels, places, captions and, if asked for, maps."""
    with Pool(processes) as pool:
        drawn = pool.imap(partial(draw, maps=maps, mannequins=mannequins), seeds, chunksize=20)
        pixels, places, words, found = zip(*drawn, strict=True)
    arrays = {name: np.stack([each[name] for each in found]) for name in found[0]}
    arrays |= {"pixels": np.stack(pixels), "places": np.stack(places), "captions": np.array(json.dumps(words))}
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(path)
    print(f"{path}: {len(pixels)} scenes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--held-out", type=int, default=500, help="as many of the held-out ones")
    parser.add_argument("--processes", type=int, help="as many at a time; all cores by default")
    parser.add_argument("--maps", action="store_true", help="of the scenes for training, the exact maps too")
    parser.add_argument("--mannequins", action="store_true", help="in every other of the scenes for training")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, help="data/scenes.npz by default")
    arguments = parser.parse_args()
    if arguments.held_out:
        pack(arguments.data / "scenes-held-out.npz", HELD_OUT_SCENES[: arguments.held_out], arguments.processes)
    out, options = arguments.out or arguments.data / "scenes.npz", (arguments.maps, arguments.mannequins)
    pack(out, range(arguments.count), arguments.processes, *options)


if __name__ == "__main__":
    main()
