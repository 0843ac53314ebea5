"""Trains the judge of scenes: one small network that sees a picture and says its depth, normals, classes and joints.

    python recipes/judges.py render                 # data/judges.npz: scenes of their own seeds, with exact maps
    python recipes/judges.py train --steps 1000     # runs/judges; again: continues
    python recipes/judges.py measure                # its error on held-out scenes, quoted by its card
    python recipes/ship.py judges runs/judges/judge

It sees rendered scenes and their exact maps alone, never a drawn picture. Its seeds are those of no other training, and
none is held out. Every other scene has a mannequin. Colors, sharpness and noise vary, and half of the pictures went
through the base's autoencoder, so that it does not depend on what the pictures of a diffusion model lack. A moving
average of the weights is what is kept. With a GPU: --device cuda --minutes 3 --batch 128 --widths 48 64 80 96 96.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity, cross_entropy

from common import DATA, SIZE
from render_scenes import posed_scene
from rounds import Round, add_options
from tether.datasets.synthetic.scenes import MAPS, Scene, SceneSpec, render, sample_scene
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES
from tether.evaluation.judge import JUDGED, JudgeNetwork, load_judge
from tether.kinds import kind_of
from tether.kinds.openpose import JOINT_PAIRS

FIRST = 2_000_000
"""The seed of the first scene: training of base and controls uses those from 0 on, 1,000,000 on are held out."""
MOST = 4
"""Mannequins a scene at most."""
SPREAD = 1.5
"""Deviation of a joint's peak in its heat map, in its pixels, two of the picture's."""


def spec_of(number: int) -> SceneSpec:
    """Scene `number`: every other one has a mannequin."""
    first = FIRST + 100 * number
    return posed_scene(first) if number % 2 else sample_scene(first)


def truth(scene: Scene) -> dict[str, np.ndarray]:
    """Pixels `(H, W, 3)`, depth `(H, W)` and normals `(H, W, 3)` as maps, classes `(H, W)`; joints `(4, 18, 3)`."""
    joints = np.zeros((MOST, 18, 3), np.float32)
    for k, one in enumerate(scene.keypoints[:MOST]):
        joints[k] = one
    return {
        "pixels": scene.image,
        "depth": MAPS["depth"](scene)[..., 0],
        "normal": MAPS["normal"](scene),
        "classes": scene.classes.astype(np.uint8),
        "joints": joints,
    }


def draw(number: int) -> dict[str, np.ndarray]:
    cv2.setNumThreads(1)
    return truth(render(spec_of(number), SIZE))


def render_scenes(count: int, processes: int | None, out: Path) -> None:
    """Renders `count` scenes with their exact maps."""
    with Pool(processes) as pool:
        found = list(pool.imap(draw, range(count), chunksize=20))
    part = out.with_suffix(".part.npz")
    part.parent.mkdir(parents=True, exist_ok=True)
    np.savez(part, **{name: np.stack([one[name] for one in found]) for name in found[0]})
    part.replace(out)
    print(f"{out}: {count} scenes", flush=True)


def mirrored(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch mirrored left to right: normals and joints change their sides."""
    flipped = {name: batch[name].flip(2) for name in ("pixels", "depth", "normal", "classes")}
    flipped["normal"][..., 0] = 255 - flipped["normal"][..., 0]
    joints = batch["joints"].clone()
    joints[..., 0] = SIZE - joints[..., 0]
    for right, left in JOINT_PAIRS:
        joints[:, :, [right, left]] = joints[:, :, [left, right]]
    return flipped | {"joints": joints}


def varied(pixels: Tensor) -> Tensor:
    """Pixels `(B, 3, H, W)` in [-1, 1] with other colors, blurred, and with noise."""
    batch = len(pixels)

    def rand(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, 1, 1, device=pixels.device)

    pixels = pixels * (1 + 0.15 * (2 * rand(3) - 1)) + 0.1 * (2 * rand(3) - 1)
    blurred = torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    pixels = torch.lerp(pixels, blurred, rand(1))
    return pixels + 0.08 * rand(1) * torch.randn_like(pixels)


@torch.no_grad()
def coded(vae: AutoencoderKL, pixels: Tensor, loss: float = 0.3) -> Tensor:
    """Pixels `(B, 3, H, W)` in [-1, 1], the first half of them through the autoencoder, with noise of up to `loss` in
    the latents, of which each channel has variance 1."""
    half = pixels[: len(pixels) // 2]
    latents = vae.encode(half).latent_dist.mode()
    latents = latents + loss * torch.rand(len(half), 1, 1, 1, device=half.device) * torch.randn_like(latents)
    return torch.cat([vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1), pixels[len(half) :]])


def heat(joints: Tensor, side: int) -> Tensor:
    """Heat maps `(B, 18, side, side)` of joints `(B, 4, 18, 3)`: the highest of the visible joints' peaks."""
    along = torch.arange(side, device=joints.device) + 0.5
    places = joints[..., :2] * side / SIZE
    x = (along - places[..., :1]).square()
    y = (along - places[..., 1:2]).square()
    peaks = torch.exp(-(x[..., None, :] + y[..., :, None]) / (2 * SPREAD**2)) * joints[..., 2, None, None]
    return peaks.amax(dim=1)


def losses(network: JudgeNetwork, vae: AutoencoderKL, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of depth (L1 and L2), normals (1 - cosine), classes (cross-entropy) and joints (cross-entropy)."""
    pixels = varied(coded(vae, batch["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1))
    found = network(pixels.contiguous(memory_format=torch.channels_last))
    error = found.depth[:, 0] - batch["depth"].float() / 255
    normals = batch["normal"].permute(0, 3, 1, 2).float() / 127.5 - 1
    wanted = heat(batch["joints"], found.joints.shape[-1])
    return {
        "depth": 2 * error.abs().mean() + 10 * error.square().mean(),
        "normals": 2 * (1 - cosine_similarity(found.normals, normals)).mean(),
        "classes": cross_entropy(found.classes, batch["classes"].long()),
        "joints": 100 * binary_cross_entropy_with_logits(found.joints, wanted),
    }


def train(arguments: argparse.Namespace) -> None:
    with np.load(arguments.data) as pack:
        data = {name: torch.from_numpy(pack[name]).to(arguments.device) for name in pack.files}
    torch.manual_seed(arguments.seed)
    network = JudgeNetwork(tuple(arguments.widths)).to(arguments.device, memory_format=torch.channels_last)
    vae = AutoencoderKL.from_pretrained(arguments.vae, torch_dtype=torch.float32).to(arguments.device)

    def keep(average: JudgeNetwork) -> None:
        folder = arguments.out / "judge"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in average.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"widths": average.widths}, indent=2) + "\n")

    for step in (run := Round(network, arguments, keep, log_every=50)):
        torch.manual_seed(arguments.seed * 10**6 + step)
        rows = torch.randint(len(data["pixels"]), (arguments.batch,)).to(arguments.device)
        batch = {name: tensor[rows] for name, tensor in data.items()}
        parts = losses(network, vae, mirrored(batch) if step % 2 else batch)
        run.learn(torch.stack(list(parts.values())).sum(), **parts)


def measure(folder: Path | None, count: int) -> None:
    """Prints the judge's scores on held-out scenes."""
    judge = load_judge(folder)
    tables: dict[str, dict[str, list]] = {}
    for seed in HELD_OUT_SCENES[:count]:
        scene = render(sample_scene(seed), SIZE)
        for kind in JUDGED:
            if kind == "openpose" and not scene.keypoints:
                continue
            found = np.asarray(judge.find(kind, Image.fromarray(scene.image)))
            for one in kind_of(kind).measures:
                numbers = dict(one.compare(found, MAPS[kind](scene)))
                tables.setdefault(f"{kind} {one.title}", {"measure": one, "rows": []})["rows"].append(numbers)
    for name, entry in tables.items():
        keys = {key for row in entry["rows"] for key in row}
        table = {key: np.array([[row.get(key, 0.0)] for row in entry["rows"]]) for key in keys}
        print(f"{name}: {entry['measure'].pool(table):.4f} ({len(entry['rows'])} scenes)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("render", "train", "measure"))
    add_options(parser, out="runs/judges", steps=1000, batch=24, lr=2e-3, seed=1)
    parser.add_argument("--count", type=int, help="scenes: 4000 to train on, all held-out ones to measure on")
    parser.add_argument("--processes", type=int, help="of render; all cores by default")
    parser.add_argument("--data", type=Path, default=DATA / "judges.npz")
    parser.add_argument("--widths", type=int, nargs="+", default=(24, 32, 40, 48, 48), help="see JudgeNetwork")
    parser.add_argument("--vae", type=Path, default=Path("src/tether/weights/base/vae"))
    parser.add_argument("--judge", type=Path, help="of measure; by default the shipped one")
    arguments = parser.parse_args()
    if arguments.what == "render":
        render_scenes(arguments.count or 4000, arguments.processes, arguments.data)
    elif arguments.what == "train":
        train(arguments)
    else:
        measure(arguments.judge, arguments.count or len(HELD_OUT_SCENES))


if __name__ == "__main__":
    main()
