#!/usr/bin/env bash
# Surprise: at bfloat16 precision OpenVINO computes the sinusoids of a timestep in bfloat16, integers included.
#
# A diffusion model turns its timestep t, an integer below 1000, into sin(t f) and cos(t f). In PyTorch these are
# float32 also in a model that was cast to bfloat16, because t is not a weight. With INFERENCE_PRECISION_HINT bf16 (which
# is the CPU's default wherever it has bfloat16) OpenVINO runs every node of the graph in bfloat16, from the integer
# input on: 481 becomes 480, and t f is rounded before the sine. The sinusoids are then those of another timestep, off by
# up to 1.3, where rounding the results alone would cost 0.002. A U-Net of Stable Diffusion 1.5's size with random
# weights is off by 3.4e-2 that way, and by 1.2e-2 when the sinusoids are an input, which is what PyTorch's bfloat16 has.
#
# Versions: torch 2.13.0, OpenVINO 2026.4.1; needs a processor with bfloat16. Seen, largest difference of sin(t f) to
# float64 for t = 481: f32 below 0.0001, bf16 1.3; for t = 512, which bfloat16 has, 0.9, as the products t f are rounded too. Without
# a linear layer behind the sinusoids the graph stays in float32, so that a small test of them alone shows nothing.
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 openvino==2026.4.1 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import math
import sys

sys.modules["openvino.tools.ovc"] = None  # reports that it was imported
import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder


class Sinusoids(torch.nn.Module):
    """With a linear layer behind them that changes nothing: without one OpenVINO keeps the graph in float32."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(160, 160, bias=False)
        torch.nn.init.eye_(self.layer.weight)

    def forward(self, t):
        return self.layer(torch.sin(t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(160) / 160)))


core = openvino.Core()
if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
    raise SystemExit("this processor has no bfloat16: nothing is shown")
frontend = FrontEndManager().load_by_framework("pytorch")
decoder = TorchScriptPythonDecoder(Sinusoids().eval(), example_input=(torch.tensor([481]),))
model = frontend.convert(frontend.load(decoder))
frequencies = torch.exp(-math.log(10000) * torch.arange(160) / 160).double()
found = {}
for hint in ("f32", "bf16"):
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    for t in (481, 512):
        sines = torch.from_numpy(compiled([torch.tensor([t]).numpy()])[0][0]).double()
        found[hint, t] = float((sines - torch.sin(t * frequencies)).abs().max())
        print(f"{hint}, t = {t}: off by up to {found[hint, t]:.5f}")
as_seen = max(found["f32", 481], found["f32", 512]) < 1e-3 and found["bf16", 481] > 0.5 and found["bf16", 512] > 0.1
raise SystemExit(0 if as_seen else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
