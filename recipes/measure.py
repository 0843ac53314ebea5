"""Measures the shipped base and canny control on what no training saw; the model cards quote its output.

    python recipes/measure.py --out runs/measure

1. Edge F1 (2 px tolerance) of 200 held-out conditions, one seed each: with control, in each way of `SETTINGS`; the same
   seeds at strength 0; and the autoencoder's own round trip. At strength 0 the images are compared, byte by byte,
   with the base's.
2. Color: on 100 held-out scenes the color word of the first solid is changed; counted is how often the solid's mean
   color, inside its own mask, is then nearest to the named one; and the same on those of them that show one thing,
   where the word need not be bound to one of several; in each way of `SETTINGS` too.
3. 64 uncurated samples of the base, prompts drawn by a fixed seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

import tether
from common import DATA, SIZE, load_drawings, to_tensor, training_drawings
from tether import Injection
from tether.datasets.synthetic.emoji import BACKGROUNDS, caption, compose, is_held_out
from tether.datasets.synthetic.scenes import COLORS, recolor, render, sample_scene
from tether.datasets.synthetic.scenes import caption as scene_caption
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES
from tether.images import contact_sheet, from_pixels, save_png
from tether.kinds.canny import edge_map
from tether.kinds.edges import edge_f1

SETTINGS = {
    "both": Injection(sides="both"),
    "recommended": Injection(),
    "conditional": Injection(weighting="conditional"),
}
"""How the control acts: on both sides of guidance, in full on one and in part on the other, on one."""
GRID = {"3d emoji": 0.42, "flat emoji": 0.18, "other emoji": 0.05, "scenes": 0.35}
"""Shares of the sample grid's prompts, the same for every round of training: grids are compared with each other."""


def held_out_pictures(count: int) -> list[tuple[Image.Image, str]]:
    """`count` images with captions, in the shares 45% 3D emoji, 25% flat emoji, 30% scenes."""
    rng, pairs = np.random.default_rng(11), []
    for name, share in (("3d", 0.45), ("flat", 0.25)):
        unseen = [d for d in load_drawings(DATA / f"emoji-{name}.npz") if is_held_out(d.name)]
        for k in range(round(share * count)):
            drawing = unseen[k % len(unseen)]
            pixels, background = compose(drawing, SIZE, rng)
            pairs.append((Image.fromarray(pixels), caption(drawing, background, rng)))
    for seed in HELD_OUT_SCENES[: count - len(pairs)]:
        spec = sample_scene(seed)
        pairs.append((Image.fromarray(render(spec, SIZE).image), scene_caption(spec, rng)))
    return pairs


def measure_edges(base: tether.Base, pipe: tether.Pipeline, plain: tether.Pipeline, count: int, out: Path) -> dict:
    """Edge F1 with control, at strength 0 and of the autoencoder's round trip."""
    scores: dict[str, list[float]] = {name: [] for name in (*SETTINGS, "strength 0", "round trip")}
    identical, rows = 0, []
    for k, (picture, words) in enumerate(held_out_pictures(count)):
        condition = tether.annotate("canny", picture)
        edges = np.asarray(condition.convert("L"))
        steered = {name: draw(pipe, words, condition, k, how) for name, how in SETTINGS.items()}
        silent = draw(pipe, words, condition, k, Injection(strength=0.0))
        identical += silent.tobytes() == plain(words, seed=k)[0].tobytes()
        trip = base.decode_latents(base.encode_images(to_tensor(np.array(picture)[None])))
        for name, result in (steered | {"strength 0": silent, "round trip": from_pixels(trip)[0]}).items():
            scores[name].append(edge_f1(edge_map(np.asarray(result)), edges))
        if k % 10 == 0:
            rows.append([picture, condition, *steered.values(), silent])
    save_png(contact_sheet(rows), out / "edges.png", {})
    means = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
    return {"edge_f1": means, "conditions": count, "strength_0_identical_to_base": identical}


def draw(pipe: tether.Pipeline, words: str, condition: Image.Image, seed: int, how: Injection) -> Image.Image:
    return pipe(words, [condition], seed=seed, injections=[how])[0]


def measure_colors(pipe: tether.Pipeline, count: int, setting: str, out: Path) -> dict:
    """How often a changed color word changes the solid's color to the named one."""
    names = [name for name in COLORS if name not in ("black", "white", "grey")]
    rng, right, rows = np.random.default_rng(12), [], []
    alone: list[bool] = []
    palette = np.array([COLORS[name] for name in names], float)
    for seed in HELD_OUT_SCENES:
        if len(right) == count:
            break
        spec = sample_scene(seed)
        if not spec.solids:
            continue
        scene = render(spec, SIZE)
        others = [name for name in names if name != spec.solids[0].color]
        wanted = others[int(rng.integers(len(others)))]
        condition = tether.annotate("canny", Image.fromarray(scene.image))
        words = scene_caption(recolor(spec, 0, wanted), np.random.default_rng(seed))
        drawn = draw(pipe, words, condition, seed, SETTINGS[setting])
        inside = np.asarray(drawn, float)[scene.instance == 2]
        hue = inside.mean(axis=0)
        nearest = names[int(_hue_distance(hue, palette).argmin())]
        right.append(nearest == wanted)
        alone.append(len(spec.objects) == 1)
        if len(right) % 10 == 0:
            rows.append([Image.fromarray(scene.image), condition, drawn])
    if rows:
        save_png(contact_sheet(rows), out / f"colours-{setting.replace(' ', '-')}.png", {})
    lonely = [followed for followed, single in zip(right, alone, strict=True) if single]
    return {
        "colour_followed": sum(right),
        "scenes": len(right),
        "colour_followed_where_the_solid_is_alone": sum(lonely),
        "scenes_of_one_thing": len(lonely),
    }


def _hue_distance(color: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Distance of chromaticities (color divided by its length): shading changes brightness, not the name."""
    unit = color / (np.linalg.norm(color) + 1e-9)
    return np.linalg.norm(palette / np.linalg.norm(palette, axis=1, keepdims=True) - unit, axis=1)


def training_captions(count: int) -> list[str]:
    """Captions as the denoiser was trained on, of random drawings and scenes in the shares of `GRID`."""
    drawings, rng, found = training_drawings(), np.random.default_rng(13), []
    with np.load(DATA / "scenes.npz") as pack:
        scenes = json.loads(str(pack["captions"]))
    for group in rng.choice(list(GRID), count, p=list(GRID.values())):
        if group == "scenes":
            found.append(str(rng.choice(scenes[int(rng.integers(len(scenes)))])))
        else:
            drawing = drawings[group][int(rng.integers(len(drawings[group])))]
            background = "white" if rng.random() < 0.5 else str(rng.choice(list(BACKGROUNDS)))
            found.append(caption(drawing, background, rng))
    return found


def sample_grid(plain: tether.Pipeline, out: Path) -> None:
    """64 images of prompts that a fixed seed draws from the training captions; none is left out."""
    prompts = training_captions(64)
    drawn = [plain(words, seed=k, guidance_scale=4.0)[0] for k, words in enumerate(prompts)]
    rows = [drawn[k : k + 8] for k in range(0, 64, 8)]
    save_png(contact_sheet(rows), out / "samples.png", {})
    (out / "samples.txt").write_text("\n".join(prompts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="tether")
    parser.add_argument("--control", default="canny")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/measure"))
    parser.add_argument("--only", choices=("grid", "edges", "colours"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base, started = tether.load_base(arguments.base), time.time()
    plain = tether.Pipeline(base)
    if arguments.only in (None, "grid"):
        sample_grid(plain, arguments.out)
    if arguments.only == "grid":
        return
    pipe = tether.Pipeline(base, [tether.ControlNet.load(arguments.control)])
    results: dict = {}
    if arguments.only in (None, "edges"):
        results |= measure_edges(base, pipe, plain, arguments.count, arguments.out)
    if arguments.only in (None, "colours"):
        for setting in SETTINGS:
            results[setting] = measure_colors(pipe, arguments.scenes, setting, arguments.out)
    results["seconds"] = round(time.time() - started)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
