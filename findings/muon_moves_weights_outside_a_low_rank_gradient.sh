#!/usr/bin/env bash
# Surprise: more than half of what PyTorch's Muon does with a gradient of rank 1 is rounding noise, in directions where
# the gradient is zero.
#
# `torch.optim.Muon` orthogonalizes in bfloat16. Each of its five Newton-Schulz iterations multiplies small singular
# values by 3.4445, 485 times in all, and the first thing it does, rounding the gradient to bfloat16, gives a matrix of
# low rank small singular values everywhere. In float32 the same iterations leave them at 5e-5. Such gradients are
# ordinary: a time embedding's linear layer has as many dimensions as a batch has samples.
#
# Versions: torch 2.13.0. Seen, for a 256 x 256 gradient with singular values of 1, as Frobenius norms of the step:
#   rank 1: 0.70 in the gradient's directions, 0.81 outside; in float32 0.70 and 5e-5
#   rank 8: 3.02 in the gradient's directions, 1.32 outside; in float32 3.02 and 5e-5
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import torch

SIZE = 256


def in_float32(gradient):
    x = gradient / gradient.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


def by_pytorch(gradient):
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient.clone()
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    return -weight.detach()


changed = False
for rank in (1, 8):
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(SIZE, rank))[0] for _ in range(2))
    for name, step in (("torch.optim.Muon", by_pytorch), ("the same in float32", in_float32)):
        made = step(left @ right.T)
        along = left @ (left.T @ made @ right) @ right.T
        inside, outside = along.norm().item(), (made - along).norm().item()
        print(f"rank {rank}, {name}: {inside:.2f} in the gradient's directions, {outside:.2g} outside")
        noisy = outside > 0.3 * inside if step is by_pytorch else outside > 1e-3
        changed |= noisy != (step is by_pytorch)
raise SystemExit("the behavior has changed" if changed else 0)
PYTHON
"$work/venv/bin/python" "$work/show.py"
