"""One controlled step of the shipped base by each engine and dtype: how far from float32, and processor time.

python benchmarks/engines.py
python benchmarks/engines.py --engines eager compile --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import tether
from tether.sampling.engines import engine as open_engine

TIMESTEPS = (901, 481, 61)
EXACT = "eager float32"


def make_call(engine: str, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """timestep -> the prediction of both sides of guidance, in float32."""
    base, control = tether.load_base(dtype=dtype), tether.ControlNet.load("canny", dtype=dtype)
    photo = Image.open(Path(tether.__file__).parent / "examples" / "house.webp").convert("RGB")
    edges = tether.annotate("canny", photo.resize((base.sample_size, base.sample_size)))
    condition = torch.from_numpy(np.asarray(edges.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
    text, hint = base.encode_prompts(["", "a house, 3d emoji"]), control.encode(condition.to(dtype))
    side, channels = base.sample_size // base.latent_factor, base.denoiser.spec.latent_channels
    latents = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)
    denoiser, (steered,) = open_engine(engine).prepare(base.denoiser, [control])

    def call(timestep: int) -> Tensor:
        t = torch.tensor(timestep)
        return denoiser.predict(latents, t, text, steered(latents, t, text, hint)).float()

    return call


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="A step of the shipped base by each engine.")
    parser.add_argument("--engines", nargs="+", default=["eager", "openvino"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    names = [(name, dtype) for name in options.engines for dtype in ("float32", "bfloat16")]
    calls = {f"{name} {dtype}": make_call(name, getattr(torch, dtype)) for name, dtype in names}
    exact = [(calls.get(EXACT) or make_call("eager", torch.float32))(t) for t in TIMESTEPS]
    errors = {
        name: [float((call(t) - one).norm() / one.norm()) for t, one in zip(TIMESTEPS, exact, strict=True)]
        for name, call in calls.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            started = time.process_time()
            call(481)
            times[name].append(time.process_time() - started)
    for name, seen in times.items():
        words = ", ".join(f"{one:.1e}" for one in errors[name])
        print(f"{name:18} {1e3 * statistics.median(seen):7.1f} ms of processor time, errors {words}")


if __name__ == "__main__":
    main()
