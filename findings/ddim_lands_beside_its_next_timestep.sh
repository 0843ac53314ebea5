#!/usr/bin/env bash
# Surprise: diffusers' DDIM steps to a timestep that is not the next one of its own list.
#
# `DDIMScheduler.step(ε, t, x)` computes the previous timestep as t - T // n, whatever `timestep_spacing` is, while
# `set_timesteps(n)` lists other distances with "trailing" and "linspace". With ε = 0 the result is
# x sqrt(ā_prev / ā_t), which shows where a step lands: beside the next timestep of the list, by up to 25 of 1,000.
# Only "leading" spacing, and counts that divide T with "trailing", land where the list says.
#
# Versions: torch 2.13.0, diffusers 0.42.1. Seen (spacing, n: largest distance):
#   leading 7: 0, 10: 0, 30: 0    trailing 7: 1, 10: 0, 30: 1    linspace 7: 25, 10: 11, 30: 2
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import torch
from diffusers import DDIMScheduler

found = {}
for spacing in ("leading", "trailing", "linspace"):
    for steps in (7, 10, 30):
        scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
        scheduler.set_timesteps(steps)
        listed, bars = scheduler.timesteps.tolist(), scheduler.alphas_cumprod.double()
        landed = []
        for timestep in listed[:-1]:
            one = torch.ones(1, dtype=torch.float64)
            after = float(scheduler.step(0 * one, timestep, one).prev_sample)
            landed.append(int((bars - after**2 * bars[timestep]).abs().argmin()))
        found[spacing, steps] = max(abs(a - b) for a, b in zip(landed, listed[1:]))
        print(f"{spacing}, {steps} steps: lands up to {found[spacing, steps]} timesteps beside the next one of its list")
expected = {
    ("leading", 7): 0, ("leading", 10): 0, ("leading", 30): 0, ("trailing", 7): 1, ("trailing", 10): 0,
    ("trailing", 30): 1, ("linspace", 7): 25, ("linspace", 10): 11, ("linspace", 30): 2,
}
raise SystemExit(0 if found == expected else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
