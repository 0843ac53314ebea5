"""What int8 would gain: a controlled step of the shipped base quantized by NNCF, beside bfloat16 and float32.

    pip install --target out/nncf nncf           brings SciPy and scikit-learn; Tether does not use it
    PYTHONPATH=out/nncf python benchmarks/int8.py

Weights and activations are quantized after training, with the inputs of four pictures of ten steps as calibration.
What is reported is the processor time of base and control, one thread, the ways in turn, and the relative error to
float32 on inputs of those pictures.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import tether
from tether.sampling.engines import openvino as engine

WORDS = ("a house", "a red apple, 3d emoji", "a cat", "a blue cup on a table")


def recorded() -> list[tuple[Any, list[dict[int, np.ndarray]]]]:
    """The graphs of base and control, each with its inputs while pictures are drawn."""
    found: dict[int, tuple[Any, list[dict[int, np.ndarray]]]] = {}
    call = engine._Graph.__call__

    def recording(graph: Any, inputs: list[torch.Tensor]) -> Any:
        arrays = {k: one.float() if one.is_floating_point() else one for k, one in enumerate(inputs)}
        found.setdefault(id(graph), (graph, []))[1].append({k: one.numpy().copy() for k, one in arrays.items()})
        return call(graph, inputs)

    photo = Image.open(Path(tether.__file__).parent / "examples" / "house.webp").convert("RGB")
    edges = tether.annotate("canny", photo.resize((128, 128)))
    pipeline = tether.Pipeline(
        tether.load_base(light=True), [tether.ControlNet.load("canny")], engine=engine.OpenVino()
    )
    engine._Graph.__call__ = recording  # type: ignore[method-assign]
    try:
        for seed, words in enumerate(WORDS):
            pipeline(words, [edges], seed=seed, steps=10)
    finally:
        engine._Graph.__call__ = call  # type: ignore[method-assign]
    return list(found.values())


@torch.no_grad()
def main() -> None:
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    for graph, inputs in recorded():
        data = nncf.Dataset(inputs, lambda one: one)
        int8 = nncf.quantize(graph.model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs))
        ways = {}
        for name, model, hint in (
            ("float32", graph.model, "f32"),
            ("bfloat16", graph.model, "bf16"),
            ("int8", int8, "bf16"),
        ):
            fixed = model.clone()
            fixed.reshape({port: list(inputs[0][k].shape) for k, port in enumerate(fixed.inputs)})
            options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
            ways[name] = core.compile_model(fixed, "CPU", options)
        times: dict[str, list[float]] = {name: [] for name in ways}
        errors: dict[str, list[float]] = {name: [] for name in ways}
        for one in inputs:
            exact = None
            for name, way in ways.items():
                started = time.process_time()
                found = way(one)
                times[name].append(time.process_time() - started)
                whole = np.concatenate([found[k].ravel() for k in range(len(found))])
                exact = whole if exact is None else exact
                errors[name].append(float(np.linalg.norm(whole - exact) / np.linalg.norm(exact)))
        what = "base" if "denoiser" in graph.variant else "control"
        for name in ways:
            milliseconds = 1e3 * statistics.median(times[name])
            print(f"{what:8} {name:9} {milliseconds:6.1f} ms, error {statistics.mean(errors[name]):.1e}", flush=True)


if __name__ == "__main__":
    main()
