#!/usr/bin/env bash
# Surprise: with "trailing" spacing diffusers makes n + 1 timesteps for some n, and the last one is -1.
#
# `set_timesteps(n)` lists round(arange(T, 0, -T / n)) - 1. In floating point 1000 / (1000 / 61) is a little more than
# 61, so that the range has 62 elements, the last of them nearly 0: timestep -1, which no model was trained on. The
# network runs once more than was asked for, and what counts steps (callbacks, windows of a control, a progress bar)
# is off by one. It concerns every scheduler that has this spacing, which bases of zero terminal SNR need.
#
# Versions: torch 2.13.0, diffusers 0.42.1. Seen: below 200 steps it is 61, 103, 121 and 122, with DDIM, Euler,
# DPM-Solver++ and UniPC alike; "leading" makes as many as were asked for.
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

found = {}
for kind in (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
    for spacing in ("trailing", "leading"):
        odd = []
        for steps in range(1, 200):
            scheduler = kind(timestep_spacing=spacing)
            scheduler.set_timesteps(steps)
            if len(scheduler.timesteps) != steps:
                assert (len(scheduler.timesteps), int(scheduler.timesteps[-1])) == (steps + 1, -1)
                odd.append(steps)
        found[kind.__name__, spacing] = odd
        print(f"{kind.__name__}, {spacing}: one timestep too many, -1, for {odd or 'no number of'} steps")
expected = {key: [61, 103, 121, 122] if key[1] == "trailing" else [] for key in found}
raise SystemExit(0 if found == expected else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
