"""Speed of annotators at 512 pixels, beside OpenCV's own calls in the same run.

    python benchmarks/annotators.py IMAGE [--rounds 15] [--threads 2] [--out out/annotators.json]

Every annotator takes turns with its peer, and the medians are compared: of the time that passes, and of the processor,
which other programs on the machine disturb less. What each peer is:

| annotator | peer |
|---|---|
| canny | `cv2.Canny` at the same thresholds |
| softedge | one gradient at full size: `GaussianBlur`, two `Sobel` in float32, `magnitude`, largest channel |
| scribble | the formula as ControlNet 1.1 computes it: two `GaussianBlur` in float32, minimum, threshold |
| lines | `cv2.createLineSegmentDetector().detect` |

Networks have no peer here: pose, mask, neural lines, and hed where it is installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

from tether.errors import TetherError
from tether.images import fit, open_image
from tether.kinds import annotatable, kind_of

SIDE = 512


def canny(pixels: np.ndarray) -> object:
    return cv2.Canny(pixels, 100, 200)


def gradient(pixels: np.ndarray) -> object:
    blurred = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    dx, dy = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
    red, green, blue = cv2.split(cv2.magnitude(dx, dy))
    return cv2.max(cv2.max(red, green), blue)


def xdog(pixels: np.ndarray) -> object:
    values = pixels.astype(np.float32)
    difference = cv2.GaussianBlur(values, (0, 0), 5.0) - cv2.GaussianBlur(values, (0, 0), 0.5)
    dark = (255 - difference.min(axis=2)).clip(0, 255).astype(np.uint8)
    strokes = np.zeros_like(pixels, shape=pixels.shape[:2])
    strokes[2 * (255 - dark) > 32] = 255
    return strokes


def lsd(pixels: np.ndarray) -> object:
    return cv2.createLineSegmentDetector().detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


PEERS: dict[tuple[str, str], Callable[[np.ndarray], object] | None] = {
    ("canny", "opencv"): canny,
    ("softedge", "gradient"): gradient,
    ("scribble", "auto"): xdog,
    ("lines", "lsd"): lsd,
    ("lineart", "classical"): None,
    ("seg", "regions"): None,
    ("lines", "mlsd"): None,
    ("mask", "u2net"): None,
    ("pose", "holistic"): None,
    ("softedge", "hed"): None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="a photograph; for pose, with a person")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    pixels = np.ascontiguousarray(np.asarray(fit(open_image(arguments.image, background="white"), SIDE, SIDE)))
    rows = []
    for (name, annotator), peer in PEERS.items():
        try:
            annotatable(name, annotator)
        except TetherError as error:
            print(f"{name} {annotator}: left out ({error})")
            continue
        chosen = kind_of(name).annotator(annotator)
        settings = chosen.settings(name, {})
        ways = [lambda chosen=chosen, settings=settings: chosen.detect(pixels, **settings)]
        ways += [] if peer is None else [lambda peer=peer: peer(pixels)]
        (ours, used), *theirs = in_turns(ways, arguments.rounds)
        row = {"kind": name, "annotator": annotator, "ms": ours, "processor_ms": used}
        line = f"{name} {annotator}: {ours:.1f} ms ({used:.1f} of the processor)"
        for passed, busy in theirs:
            row |= {"peer_ms": passed, "peer_processor_ms": busy, "ratio": ours / passed, "busy_ratio": used / busy}
            line += f"; its peer {passed:.1f} ({busy:.1f}): {ours / passed:.2f} ({used / busy:.2f}) times as long"
        rows.append(row)
        print(line)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"date": date.today().isoformat(), "machine": platform.processor(), "threads": arguments.threads}
        arguments.out.write_text(json.dumps(about | {"opencv": cv2.__version__, "rows": rows}, indent=1))


def in_turns(ways: list[Callable[[], object]], rounds: int) -> list[tuple[float, float]]:
    """The median milliseconds of each way, passed and of the processor; the first round is not counted."""
    times: list[list[tuple[float, float]]] = [[] for _ in ways]
    for round_ in range(rounds + 1):
        for way, found in zip(ways, times, strict=True):
            started, busy = time.perf_counter(), time.process_time()
            way()
            if round_:
                found.append((1000 * (time.perf_counter() - started), 1000 * (time.process_time() - busy)))
    return [tuple(statistics.median(one[k] for one in found) for k in (0, 1)) for found in times]  # type: ignore[misc]


if __name__ == "__main__":
    main()
