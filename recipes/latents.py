"""Draws and encodes the planned images and the scenes once, so that the denoiser never waits for the autoencoder.

    python recipes/latents.py --vae runs/autoencoder/vae --base runs/base
    python recipes/latents.py --mixture data/mixture-wide.npz --out data/latents-wide.npz --edges
    python recipes/latents.py --mixture data/mixture-wide.npz --scene-file data/scenes-maps.npz \\
        --out data/latents-union.npz --images

First the autoencoder's latents are standardized: the mean and the standard deviation of each of the 4 channels
over the training images are folded into `quant_conv` and `post_quant_conv`, so that every channel has mean 0 and
variance 1 (`scaling_factor` is then 1). Images round-trip exactly as before. An autoencoder that was trained on after
that, as with `recipes/autoencoder.py --start`, is standardized again by `--again`; `--base` gets the result, and other
files of latents must be made again with it.

The result is a packed latents file, which `tether train` reads too (`tether.training.packed`), with further arrays:

    tokens      int16 (N, C, TOKENS): of the captions
    words       int64 (G, C, GROUPS): the tokens of each group as bits, of the last G rows, those of GROUNDED
    places      uint8 (G, GROUPS, PLACES, PLACES): the share of each place that each group covers, in 255ths

With `--edges`, for a control, Canny edges of random thresholds are found once too, `EDGES` of each image. Some are
made as a person would draw: of the blurred image, so that fine lines are missing, or with lines that waver. With
`--images`, for a control of several kinds, the images are kept, and the exact maps of the scenes where their file has
them. `--annotate KIND ...` makes conditions of these kinds of all images once, one of each: a GPU learns faster than
the processor annotates.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from multiprocessing.pool import Pool as Workers
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from common import DATA, to_tensor
from compositing import Compositor
from grounding import scene_spans
from mixture import TOKENIZER
from samples import CAPTIONS, GROUNDED, tokenize
from tether.kinds.canny import edge_map, random_canny
from tether.training.packed_kinds import PackedConditions

EDGES = 3
"""Edge maps of each image."""
PLAIN, BLURRED = 0.6, 0.25
"""Shares of edge maps: of the image as it is, of it blurred; the lines of the others waver."""
BATCH = 256


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 `(B, H, W, 3)` -> latents `(B, 4, h, w)`, the posterior's means; on the CPU."""
    with torch.autocast(vae.device.type, torch.bfloat16):
        return vae.encode(to_tensor(images.to(vae.device))).latent_dist.mode().float().cpu()


@torch.no_grad()
def standardize(vae: AutoencoderKL, latents: Tensor) -> None:
    """Folds each latent channel's mean m and deviation s over `latents` `(N, 4, h, w)` into the autoencoder.

    The mean head becomes (W/s, (b - m)/s), the log-variance head's bias falls by 2 log s, and
    `post_quant_conv(z)` becomes `post_quant_conv(s z + m)`.
    """
    m, s = latents.mean(dim=(0, 2, 3)).to(vae.device), latents.std(dim=(0, 2, 3)).to(vae.device)
    quant, post, n = vae.quant_conv, vae.post_quant_conv, len(m)
    quant.weight[:n] /= s.view(-1, 1, 1, 1)
    quant.bias[:n] = (quant.bias[:n] - m) / s
    quant.bias[n:] -= 2 * s.log()
    post.bias += post.weight.flatten(1) @ m
    post.weight *= s.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def edges(job: tuple[int, np.ndarray]) -> np.ndarray:
    """`EDGES` random edge maps of the image of a number, one bit a pixel: uint8 `(EDGES, H, W / 8)`."""
    number, image = job
    rng, maps = np.random.default_rng([9, number]), []
    for drawn in rng.random(EDGES):
        if drawn < PLAIN:
            maps.append(random_canny(image, rng))
        elif drawn < PLAIN + BLURRED:
            low = rng.uniform(20, 60)  # blurred, all gradients are weaker
            blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 2.2))
            maps.append(edge_map(blurred, low, low + rng.uniform(20, 60)))
        else:
            maps.append(random_canny(wavering(image, rng), rng))
    return np.packbits(np.stack(maps) > 0, axis=2)


def wavering(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image of which every place is moved by up to some 2 pixels, neighboring places alike."""
    side = image.shape[0]
    moved = [cv2.resize(rng.normal(0, 0.9, (9, 9)), (side, side), interpolation=cv2.INTER_CUBIC) for _ in range(2)]
    y, x = np.mgrid[:side, :side]
    places = [(at + by).astype(np.float32) for at, by in ((x, moved[0]), (y, moved[1]))]
    return cv2.remap(image, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def annotated(pool: Workers, images: np.ndarray, kind: str) -> np.ndarray:
    """Conditions of a kind, one of each image and varied at random, uint8 `(N, H, W, 3)`."""
    jobs = ((kind, number, image) for number, image in enumerate(images))
    return np.stack(pool.map(annotate, jobs, chunksize=64))


def annotate(job: tuple[str, int, np.ndarray]) -> np.ndarray:
    cv2.setNumThreads(1)
    kind, number, image = job
    made = PackedConditions(image[None], {}, [kind], "images").condition(0, kind, number)
    return made.permute(1, 2, 0).numpy()


@dataclass
class Scenes:
    """The first scenes of recipes/render_scenes.py's file.

    Pixels, where their things are, `CAPTIONS` captions each, and exact maps, maps_KIND, where the file has them.
    """

    pixels: np.ndarray
    places: np.ndarray
    captions: list[list[str]]
    maps: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path, count: int | None) -> Scenes:
        with np.load(path) as pack:
            captions = [row[:CAPTIONS] for row in json.loads(str(pack["captions"]))[:count]]
            maps = {name: pack[name][:count] for name in pack if name.startswith("maps_")}
            return cls(pack["pixels"][:count], pack["places"][:count], captions, maps)

    def tokenized(self, pool: Workers) -> Any:
        """The promise of `scene_tokens` of parts of the captions."""
        parts = [self.captions[k : k + 500] for k in range(0, len(self.captions), 500)]
        return pool.map_async(scene_tokens, parts, chunksize=1)


def scene_tokens(captions: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """`tokenize` of scenes' captions, `(N, CAPTIONS, TOKENS)` and `(N, CAPTIONS, GROUPS)`."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    tokens, words = tokenize([(caption, scene_spans(caption)) for row in captions for caption in row], tokenizer)
    return tokens.reshape(len(captions), CAPTIONS, -1), words.reshape(len(captions), CAPTIONS, -1)


def batches(compositor: Compositor, scenes: Scenes) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All images in batches, uint8 `(B, H, W, 3)`, the composed ones with where their things are."""
    for rows in torch.arange(len(compositor), device=compositor.layers.device).split(BATCH):
        yield compositor.draw(rows)
    for batch in torch.from_numpy(scenes.pixels).split(BATCH):
        yield batch, None


def standardize_on(vae: AutoencoderKL, compositor: Compositor, scenes: Scenes) -> None:
    """`standardize` over some of the training images."""
    order = np.random.default_rng(8).permutation(len(compositor))[:3072]
    some = torch.from_numpy(order).to(compositor.layers.device)
    sample = [encode(vae, compositor.draw(rows)[0]) for rows in some.split(BATCH)]
    sample.append(encode(vae, torch.from_numpy(scenes.pixels[:1024])))
    standardize(vae, torch.cat(sample))


def encode_all(
    vae: AutoencoderKL, compositor: Compositor, scenes: Scenes, pool: Workers | None, images: bool
) -> dict[str, np.ndarray]:
    """Latents of all images, where the things of the grounded ones are, and, with a pool, edges; or the images."""
    latents, covered, found, kept = [], [], [], []
    for batch, places in batches(compositor, scenes):
        if images:
            kept.append(batch.cpu().numpy())
        if pool is not None:
            jobs = enumerate(batch.cpu().numpy(), start=sum(len(part) for part in latents))
            found.append(pool.map_async(edges, jobs, chunksize=32))
        latents.append(encode(vae, batch).half())
        if places is not None:
            covered.append(places.cpu())
    first = compositor.first(GROUNDED[0])
    arrays = {
        "latents": torch.cat(latents).numpy(),
        "places": np.concatenate([torch.cat(covered).numpy()[first:], scenes.places]),
    }
    arrays |= {"images": np.concatenate(kept)} if kept else {}
    return arrays | ({"edges": np.concatenate([np.stack(part.get()) for part in found])} if found else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("src/tether/weights/base/vae"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--mixture", type=Path, default=DATA / "mixture.npz")
    parser.add_argument("--scenes", type=int, help="as many of the scenes at most")
    parser.add_argument("--out", type=Path, default=DATA / "latents.npz")
    parser.add_argument("--scene-file", type=Path, help="data/scenes.npz by default")
    parser.add_argument("--edges", action="store_true")
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--annotate", nargs="+", default=[], metavar="KIND", help="with --images")
    parser.add_argument("--again", action="store_true", help="standardize although it was done")
    parser.add_argument("--base", type=Path, help="folder to write the standardized autoencoder to, as vae/")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    if arguments.annotate and not arguments.images:
        parser.error("--annotate needs --images")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes below are parallel enough

    scenes = Scenes.read(arguments.scene_file or arguments.data / "scenes.npz", arguments.scenes)
    with Pool() as pool:  # started before the device is, which processes cannot share
        asked = scenes.tokenized(pool)
        compositor = Compositor(arguments.data / "bank.npz", arguments.mixture, arguments.device)
        vae = AutoencoderKL.from_pretrained(arguments.vae, torch_dtype=torch.float32).to(arguments.device)
        vae.to(memory_format=torch.channels_last)
        if arguments.again or vae.config.scaling_factor != 1.0:  # 1 says that it has been done
            if arguments.base is None:
                parser.error("the autoencoder will be standardized: --base says where to")
            standardize_on(vae, compositor, scenes)
        if arguments.base:
            vae.save_pretrained(arguments.base / "vae")
        arrays = encode_all(vae, compositor, scenes, pool if arguments.edges else None, arguments.images)
        tokens, words = (np.concatenate(parts) for parts in zip(*asked.get(), strict=True))
        arrays |= scenes.maps if arguments.images else {}
        for kind in arguments.annotate:
            exact = arrays.get(f"maps_{kind}", np.empty((0, *arrays["images"].shape[1:]), np.uint8))
            made = annotated(pool, arrays["images"][: len(arrays["images"]) - len(exact)], kind)
            arrays[f"maps_{kind}"] = np.concatenate([made, exact])
            print(f"{len(made)} conditions {kind}", flush=True)
    counts = compositor.counts | {GROUNDED[-1]: len(scenes.pixels)}
    arrays |= {
        "tokens": np.concatenate([compositor.tokens, tokens]),
        "words": np.concatenate([compositor.words[compositor.first(GROUNDED[0]) :], words]),
        "captions": np.array(json.dumps(compositor.captions + scenes.captions)),
        "counts": np.array(json.dumps(counts)),
    }
    moments = arrays["latents"].astype(np.float32)
    print(f"{len(moments)} latents, mean {moments.mean():.3f}, std {moments.std():.3f}, {counts}")
    np.savez(arguments.out, **arrays)


if __name__ == "__main__":
    main()
