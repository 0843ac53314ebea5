#!/usr/bin/env bash
# Surprise: with zero terminal SNR and Karras' sigmas, diffusers' DPM-Solver++ 2M and UniPC fail at the last of 21 or more
# steps.
#
# `rescale_betas_zero_snr` makes the largest sigma 4096, and Karras' spacing then puts the first two of 21 noise levels
# above all but the last training timestep: both become timestep 999. The first call of `step` looks its index up by the
# timestep, and takes the second of two that are equal, so that the schedule is one step ahead, and one too short: the
# last step reads past its end. `set_begin_index(0)` before the loop avoids it. Euler keeps fractional timesteps, which
# do not repeat.
#
# Versions: torch 2.13.0, diffusers 0.42.1. Seen:
#   DPMSolverMultistepScheduler 20: ends, 21: IndexError, 50: IndexError; begin index set: ends
#   UniPCMultistepScheduler     20: ends, 21: AssertionError, 50: AssertionError; begin index set: ends
#   EulerDiscreteScheduler      20, 21, 50: ends
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import torch
import diffusers

SETTINGS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "use_karras_sigmas": True,
}


def run(name, steps, counted):
    scheduler = getattr(diffusers, name)(**SETTINGS)
    scheduler.set_timesteps(steps)
    if counted:
        scheduler.set_begin_index(0)
    x = torch.ones(1, 4, 8, 8)
    try:
        for timestep in scheduler.timesteps:
            x = scheduler.step(torch.zeros_like(x), timestep, x).prev_sample
    except (IndexError, AssertionError) as error:
        return type(error).__name__
    return "ends"


found = {}
for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"):
    for steps in (20, 21, 50):
        found[name, steps] = run(name, steps, False), run(name, steps, True)
        print(f"{name}, {steps} steps: {found[name, steps][0]}; with set_begin_index(0): {found[name, steps][1]}")
failing = {"DPMSolverMultistepScheduler": "IndexError", "UniPCMultistepScheduler": "AssertionError"}
expected = {
    (name, steps): (failing[name] if steps > 20 and name in failing else "ends", "ends")
    for name, steps in found
}
raise SystemExit(0 if found == expected else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
