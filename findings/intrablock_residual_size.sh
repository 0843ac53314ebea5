#!/usr/bin/env bash
# Surprise: one argument of diffusers' U-Net, two places.
#
# `UNet2DConditionModel.forward(down_intrablock_additional_residuals=[...])` takes one feature for each encoder block
# (what a T2I-Adapter gives). In a block with cross-attention the feature is added *before* the downsampler; in a plain
# `DownBlock2D` it is added *after* it. So the size that a feature must have depends on the class of the block: for the
# same latents and the same channels, block 0 wants 16x16 in one U-Net and 8x8 in the other.
#
# Versions: torch 2.13.0, diffusers 0.42.1, transformers 5.23.0. Seen:
#   CrossAttnDownBlock2D 16: accepted    CrossAttnDownBlock2D 8: RuntimeError
#   DownBlock2D 16: RuntimeError         DownBlock2D 8: accepted
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import torch
from diffusers import UNet2DConditionModel

expected = {
    ("CrossAttnDownBlock2D", 16): True, ("CrossAttnDownBlock2D", 8): False,
    ("DownBlock2D", 16): False, ("DownBlock2D", 8): True,
}
found = {}
for first in ("CrossAttnDownBlock2D", "DownBlock2D"):
    last = first.replace("Down", "Up", 1)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=1, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=(first, "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", last),
    ).eval()
    latents, text = torch.randn(1, 4, 16, 16), torch.randn(1, 3, 8)
    for side in (16, 8):
        features = [torch.ones(1, 8, side, side), torch.ones(1, 8, 8, 8)]
        try:
            with torch.no_grad():
                unet(latents, torch.tensor(5), text, down_intrablock_additional_residuals=features)
            found[first, side] = True
        except RuntimeError:
            found[first, side] = False
for (block, side), accepted in found.items():
    print(f"{block} with a {side}x{side} feature: {'accepted' if accepted else 'RuntimeError'}")
raise SystemExit(0 if found == expected else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py"
