"""What each way to compute less costs on the shipped base: held-out conditions, drawn in full and with less.

    python benchmarks/less_work.py --count 50 --out out/less-work.json
    python benchmarks/less_work.py --arms fast deep-3 --count 100
    python benchmarks/less_work.py --true-size                      counts at Stable Diffusion 1.5's size, in seconds
    python benchmarks/less_work.py --arms '{"deep_every": 2, "control": {"tolerance": 0.1}}'         an arm of one's own

Every case is drawn by each arm in turn, with the same seed, so that what else the machine does meets all of them. What
is reported is relative to the full run of the same cases:

f1, prompt   condition fidelity and prompt agreement as `tether evaluate` measures them, and what share of the full
             run's fidelity is left, with its 95% interval over the cases
psnr         of the picture to that of the full run, mean over the cases, in dB
work         multiplications and additions of the denoiser and the control, counted: no noise changes them
time         CPU seconds of the whole picture without loading; on a quiet machine, read `wall` too

Nothing here downloads anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from inference import machine
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tether.base.deep import SplitDenoiser
from tether.base.denoiser import UNetDenoiser
from tether.base.merging import tokens_merged
from tether.base.noise import noise_process
from tether.base.text_once import text_once
from tether.control import Conditioning, ControlNet
from tether.evaluation.cases import Case, held_out_cases, open_held_out
from tether.evaluation.drawing import Arm, Artist, Steering, seeds_of
from tether.evaluation.found import measures_of, numbers_of
from tether.evaluation.intervals import ratio_of, score_of, tabulate
from tether.evaluation.judge import LAYOUT, load_judge
from tether.evaluation.prompts import PROMPT, agreement
from tether.kinds.measures import Numbers
from tether.sampling import Request, Session

ATTENTION: Any = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *others, **more: sdpa_flop_count(
        q, k, v
    )
}
"""PyTorch's counter leaves out its attention on CPUs."""
FULL, KIND, F1 = "full", "canny", "f1_2px"
SETS = ("emoji3d", "scenes")
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    FULL: ({}, {}),
    "fast": ({"fast": True}, {}),
    "deep 2": ({"deep_every": 2}, {}),
    "deep 3": ({"deep_every": 3}, {}),
    "deep 3, 2 skips": ({"deep_every": 3, "deep_skips": 2}, {}),
    "deep 3 from 0.1": ({"deep_every": 3, "deep_window": (0.1, 1.0)}, {}),
    "guidance 0-0.7": ({"guidance_window": (0.0, 0.7)}, {}),
    "every 2": ({}, {"every": 2}),
    "tolerance 0.2": ({}, {"tolerance": 0.2}),
    "merge 0.5": ({"merge_tokens": 0.5}, {}),
}
"""Name -> fields of the request, and of its control."""


def parsed_arm(text: str) -> tuple[str, tuple[dict[str, Any], dict[str, Any]]]:
    """An arm by name, or one of its own: JSON of the request's fields, with those of the control under "control"."""
    if text in ARMS:
        return text, ARMS[text]
    fields = json.loads(text)
    return text, (fields, fields.pop("control", {}))


def drawn(session: Session, request: Request) -> tuple[Any, dict[str, float]]:
    """A picture, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    (one,) = session.draw(request)
    return one.image, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def work_of(session: Session, request: Request) -> float:
    """Floating-point operations of a picture."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        session.draw(request)
    return float(counter.get_total_flops())


def psnr(image: Any, reference: Any) -> float:
    """In dB, at most 99."""
    error = np.mean((np.asarray(image, np.float64) - np.asarray(reference, np.float64)) ** 2)
    return min(float(10 * np.log10(255**2 / error)) if error else 99.0, 99.0)


def measured(cases: list[Case], arms: dict[str, Any], steps: int) -> Iterator[dict[str, dict[str, Any]]]:
    """The numbers of each arm, after each case."""
    session = Session()
    steered = {name: Arm(name, (Steering(KIND, KIND, control),)) for name, (_, control) in arms.items()}
    artists = {
        name: Artist(session, Request(prompt="", steps=steps, **changes), Path()) for name, (changes, _) in arms.items()
    }
    found: dict[str, dict[str, Any]] = {
        name: {"f1": [], "prompt": [], "psnr": [], "wall": [], "cpu": []} for name in arms
    }
    for k, case in enumerate(cases):
        seed = seeds_of(0, case.number, 1)[0]
        full = None
        for name in arms:
            request = session.prepare(artists[name].request(case, steered[name], seed))
            if k == 0:  # opens what is opened once, and counts
                found[name]["work"] = work_of(session, request)
            image, took = drawn(session, request)
            full = full or image
            one = found[name]
            for what, seconds in took.items():
                one[what].append(seconds)
            one["f1"].append([numbers_of(KIND, image, case)[F1]])
            one["prompt"].append([agreed(image, case)])
            one["psnr"].append(psnr(image, full))
        print(f"\r{k + 1}/{len(cases)}", end="", flush=True)
        yield found
    print()


def agreed(image: Any, case: Case) -> Numbers:
    """How many claims of the prompt hold."""
    return agreement(np.asarray(image), case.prompt, load_judge().classes if case.layout == LAYOUT else None)


def summary(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores of each arm, beside the full run's."""
    f1 = next(one for one in measures_of(KIND) if one.key == F1)
    full, rows = found[FULL], []
    for name, one in found.items():
        table, whole = tabulate(one["f1"]), tabulate(full["f1"])
        left = ratio_of(f1, table, whole)
        rows.append(
            {
                "arm": name,
                "f1": score_of(f1, table).value,
                "left": left.value,
                "left_low": left.low,
                "left_high": left.high,
                "prompt": score_of(PROMPT, tabulate(one["prompt"])).value,
                "psnr": statistics.mean(one["psnr"]),
                "work": one["work"] / full["work"],
                **{what: statistics.median(one[what]) / statistics.median(full[what]) for what in ("cpu", "wall")},
                "seconds": statistics.median(one["wall"]),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """For a page of Markdown."""
    lines = [
        "| | F1 | left of it | prompt agreement | PSNR | work | CPU time |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        left = f"{100 * one['left']:.1f}% [{100 * one['left_low']:.1f}, {100 * one['left_high']:.1f}]"
        lines.append(
            f"| {one['arm']} | {one['f1']:.3f} | {left} | {one['prompt']:.3f} | {one['psnr']:.1f} | "
            f"{one['work']:.2f} | {one['cpu']:.2f} |"
        )
    return "\n".join(lines)


def true_size(pixels: int) -> dict[str, float]:
    """Multiplications and additions of a step at Stable Diffusion 1.5's size, in 10^9; nothing is computed.

    Both sides of guidance, 77 tokens; "whole" is U-Net and control.
    """
    side = pixels // 8
    unet: Any = UNet2DConditionModel(cross_attention_dim=768)
    control = ControlNet.from_config(ControlNetModel.from_unet(unet, load_weights_from_unet=False).config)
    latents, timestep = torch.empty(2, 4, side, side), torch.tensor(1)
    text, hint = Conditioning(torch.empty(2, 77, 768)), torch.empty(1, 320, side, side)
    denoiser = UNetDenoiser(unet.eval(), noise_process({}))
    split, shallow = SplitDenoiser(denoiser, 1), control.shallow(1)

    def whole() -> Any:
        return split.predict_whole(latents, timestep, text, control(latents, timestep, text, hint))

    def count(step: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter, torch.no_grad():
            step()
        return counter.get_total_flops() / 2e9

    found = {"whole": count(whole)}
    deep = whole()[1]
    found["shallow"] = count(
        lambda: split.predict_shallow(latents, timestep, text, shallow(latents, timestep, text, hint), deep)
    )
    with text_once([unet, control]):
        whole()
        found["text once"] = count(whole)
    for share in (0.25, 0.5):
        with tokens_merged([unet, control], share, (side, side)):
            found[f"merge {share:g}"] = count(whole)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What computing less costs on the shipped base.")
    parser.add_argument("--arms", nargs="+", help=f"of {', '.join(ARMS)}; or JSON of a request's fields")
    parser.add_argument("--count", type=int, default=50, help="held-out conditions, shared between two sets")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--true-size", action="store_true", help="count the work of a step of Stable Diffusion 1.5")
    options = parser.parse_args()
    if options.true_size:
        for pixels in (256, 512, 768):
            with FakeTensorMode():
                print(pixels, {name: round(count, 1) for name, count in true_size(pixels).items()}, flush=True)
        return
    arms = {FULL: ARMS[FULL]} | dict(parsed_arm(text) for text in options.arms or ARMS)
    cases = held_out_cases([open_held_out(name, 128) for name in SETS], [KIND], (128, 128), options.count)
    rows: list[dict[str, Any]] = []
    for count, found in enumerate(measured(cases, arms, options.steps), 1):
        rows = summary(found)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"machine": machine(), "count": count, "rows": rows}, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
