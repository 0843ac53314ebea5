"""Self-attention of a drawing at 512 px, computed in other ways than PyTorch's own, side by side.

    python benchmarks/attention.py                                    (2, 8, 4096, 40) in bfloat16
    python benchmarks/attention.py --shape 2 8 1024 80 --dtype float32 --rounds 9
    python benchmarks/attention.py --tiny                             tests this script

    o = softmax(q kᵀ / √d) v        (B, heads, N, d), 4 N² d floating-point operations a head

Ways:

sdpa             `scaled_dot_product_attention`; what all ratios are relative to
padded-48, -64   the same, heads padded with zeros to a width that vector units like
math             the same, PyTorch's plain kernel
chunks-C         two products and a softmax, C queries at a time
sums-C           exp and two products, C queries at a time, v with a column of ones: it gives the sums of the softmax,
                 so that nothing is divided but the result
flex             `flex_attention`, compiled
openvino         OpenVINO's operator, a model of its own

Rounds go through the ways in turn. Reported are the median time, its ratio to `sdpa` in the same round (median of the
ratios), the same of processor time, and the relative error to float64.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v)


def padded(width: int) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        more, scale = width - q.shape[-1], q.shape[-1] ** -0.5
        q, k, v = (pad(one, (0, more)) for one in (q, k, v))
        return scaled_dot_product_attention(q, k, v, scale=scale)[..., : width - more]

    return attend


def math_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v)


def chunks(size: int) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = ((one.flatten(0, 1)) for one in (q * q.shape[-1] ** -0.5, k, v))
        keys, out = k.transpose(1, 2), torch.empty_like(q)
        for head in range(len(q)):
            for start in range(0, q.shape[1], size):
                scores = q[head, start : start + size] @ keys[head]
                out[head, start : start + size] = scores.softmax(-1) @ v[head]
        return out

    def of(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v).view(q.shape)

    return of


def sums(size: int) -> Attention:
    """Scores are bounded by |q| |k|, so that exp(s - |q| max |k|) does not overflow."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, d = q.shape, q.shape[-1]
        q, k, v = (one.flatten(0, 1) for one in (q * (d**-0.5 / math.log(2)), k, v))
        ones = torch.cat([v, v.new_ones(*v.shape[:-1], 8)], dim=-1)
        keys, out = k.transpose(1, 2), torch.empty_like(q)
        scores = q.new_empty(size, k.shape[1])
        for head in range(len(q)):
            for start in range(0, q.shape[1], size):
                rows = q[head, start : start + size]
                part = scores[: len(rows)]
                torch.mm(rows, keys[head], out=part)
                part.sub_(part.amax(-1, keepdim=True)).exp2_()
                found = part @ ones[head]
                out[head, start : start + size] = found[:, :d] / found[:, d : d + 1]
        return out.view(shape)

    return attend


def flex() -> Attention:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v)


def openvino(shape: tuple[int, ...], dtype: torch.dtype) -> Attention:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov  # pyright: ignore[reportMissingImports]
    from openvino import opset13  # pyright: ignore[reportMissingImports]

    ports = [opset13.parameter(list(shape), ov.Type.f32) for _ in range(3)]
    model = ov.Model([opset13.scaled_dot_product_attention(*ports)], ports, "attention")
    precision = {torch.bfloat16: "bf16", torch.float32: "f32"}[dtype]
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        arrays = {index: one.float().numpy() for index, one in enumerate((q, k, v))}
        return torch.from_numpy(compiled(arrays, share_inputs=True, share_outputs=False)[0])

    return attend


def ways(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Callable[[], Attention]]:
    """Name -> what makes it."""
    plain: dict[str, Attention] = {"sdpa": own, "math": math_kernel}
    plain |= {f"padded-{width}": padded(width) for width in (48, 64) if width > shape[-1]}
    plain |= {f"chunks-{size}": chunks(size) for size in (64, 256, 1024)}
    plain |= {f"sums-{size}": sums(size) for size in (64, 128, 256, 512)}
    made: dict[str, Callable[[], Attention]] = {name: (lambda way=way: way) for name, way in plain.items()}
    return made | {"flex": flex, "openvino": lambda: openvino(shape, dtype)}


def measure(shape: tuple[int, ...], dtype: torch.dtype, rounds: int, only: list[str]) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    batch, heads, positions, width = shape
    # As a U-Net has them: heads side by side in memory.
    given = [torch.randn(batch, positions, heads, width, generator=random).to(dtype).transpose(1, 2) for _ in range(3)]
    q, k, v = (one.double() for one in given)
    exact = own(q[:, :, :64], k, v)  # the first queries are enough
    found: dict[str, Attention] = {}
    results: dict[str, dict[str, Any]] = {}
    for name, make in ways(shape, dtype).items():
        if only and name not in only and name != "sdpa":
            continue
        try:
            found[name] = make()
            result = found[name](*given)[:, :, : exact.shape[2]].double()
            results[name] = {"way": name, "error": ((result - exact).norm() / exact.norm()).item()}
        except Exception as error:  # not installed, not supported here
            found.pop(name, None)
            print(f"{name} is left out: {str(error).splitlines()[0][:100]}", file=sys.stderr)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, attend in found.items():
            wall, used = time.perf_counter(), time.process_time()
            attend(*given)
            times[name].append((time.perf_counter() - wall, time.process_time() - used))
    for name, seen in times.items():
        for index, what in enumerate(("wall", "cpu")):
            ratios = [peer[index] / one[index] for peer, one in zip(times["sdpa"], seen, strict=True)]
            results[name] |= {what: statistics.median(one[index] for one in seen)}
            results[name] |= {f"{what} faster": statistics.median(ratios)}
    return list(results.values())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Self-attention, computed in several ways.")
    parser.add_argument("--shape", nargs=4, type=int, default=(2, 8, 4096, 40), metavar=("B", "HEADS", "N", "D"))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=[], help="by default all")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to test this script")
    options = parser.parse_args()
    shape = (1, 2, 96, 8) if options.tiny else tuple(options.shape)
    results = measure(shape, getattr(torch, options.dtype), options.rounds, options.ways)
    print(f"{'way':12} {'ms':>8} {'cpu ms':>8} {'faster':>7} {'by cpu':>7} {'error':>8}")
    for one in results:
        print(
            f"{one['way']:12} {1e3 * one['wall']:8.1f} {1e3 * one['cpu']:8.1f} {one['wall faster']:6.2f}x "
            f"{one['cpu faster']:6.2f}x {one['error']:8.1e}"
        )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"shape": shape, "dtype": options.dtype, "results": results}, indent=2))


if __name__ == "__main__":
    main()
