"""Graphs of TFLite and ONNX files -> graphs that `tether.detectors.graph` runs.

The operations of a file are read by schema (packages `tflite` and `onnx`); the constants of a TFLite file, which may be
sparse or in half precision, come from its own interpreter (`ai-edge-litert`), those of an ONNX file from ONNX Runtime,
which also folds what is constant. Both run the original for comparison.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

SPARSE = 0.35
"""Weights with a smaller share of non-zeros are stored by their non-zeros."""


@dataclass
class Graph:
    """A graph in the making.

    Attributes:
        input: the name of the input.
        outputs: names of the outputs.
        nodes: [operation, inputs, output, arguments].
        weights: float32 arrays by name.
    """

    input: str
    outputs: list[str]
    nodes: list[list[Any]] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def node(self, operation: str, inputs: list[str], output: str, **about: Any) -> None:
        self.nodes.append([operation, inputs, output, about])

    def pruned(self) -> Graph:
        """Without what no output needs, and with short names."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if node[2] in needed:
                kept.append(node)
                needed |= set(node[1])
        kept.reverse()
        names = {self.input: "x"} | {name: f"w{k}" for k, name in enumerate(n for n in self.weights if n in needed)}
        names |= {node[2]: f"v{k}" for k, node in enumerate(kept)}
        nodes = [[op, [names[name] for name in inputs], names[output], about] for op, inputs, output, about in kept]
        weights = {names[name]: weight for name, weight in self.weights.items() if name in needed}
        return Graph("x", [names[name] for name in self.outputs], nodes, weights)

    def save(self, path: Path, about: dict[str, str]) -> None:
        """Writes the graph with its weights in half precision."""
        graph = self.pruned()
        tensors: dict[str, torch.Tensor] = {}
        for name, weight in graph.weights.items():
            if np.abs(weight).max(initial=0) > 65000:
                raise ValueError(f"{name} does not fit half precision")
            half = torch.from_numpy(np.ascontiguousarray(weight)).half()
            used = half.numpy() != 0
            if weight.size > 1000 and used.mean() < SPARSE:
                tensors[f"{name}.values"] = half[torch.from_numpy(used)]
                tensors[f"{name}.mask"] = torch.from_numpy(np.packbits(used))
                tensors[f"{name}.shape"] = torch.tensor(weight.shape)
            else:
                tensors[name] = half
        text = json.dumps({"input": graph.input, "outputs": graph.outputs, "nodes": graph.nodes}, separators=(",", ":"))
        save_file(tensors, path, {"graph": text, **about})


class TFLite:
    """A TFLite file: its graph, and its own interpreter."""

    def __init__(self, path: Path) -> None:
        import tflite
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._schema: Any = tflite
        self.model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        self.graph = self.model.Subgraphs(0)
        self.interpreter = Interpreter(
            str(path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self.interpreter.allocate_tensors()
        codes = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
        self.operators = []
        for k in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(k)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            self.operators.append((codes[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())], operator))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """The outputs of the original for `(1, H, W, C)`."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], x)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(one["index"]).copy() for one in self.interpreter.get_output_details()]

    def shape(self, index: int) -> list[int]:
        return self.graph.Tensors(int(index)).ShapeAsNumpy().tolist()

    def output_indices(self) -> list[int]:
        return [one["index"] for one in self.interpreter.get_output_details()]

    def options(self, operator: Any, kind: str) -> Any:
        options = getattr(self._schema, kind)()
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options


_ACTS = {0: "", 1: "relu", 3: "relu6"}


def from_tflite(file: TFLite) -> Graph:
    """The graph of a TFLite file, `(B, H, W, C)` turned into `(B, C, H, W)`."""
    shape = file.interpreter.get_input_details()[0]["shape"]
    file.run(np.zeros(shape, np.float32))  # so that constants are unpacked
    produced = {int(op.Outputs(0)) for name, op in file.operators if name not in ("DEQUANTIZE", "DENSIFY")}
    constants = {
        int(index)
        for name, op in file.operators
        if name not in ("DEQUANTIZE", "DENSIFY")
        for index in op.InputsAsNumpy()
        if index >= 0 and int(index) not in produced and int(index) != int(file.graph.Inputs(0))
    }
    graph = Graph(str(file.graph.Inputs(0)), [str(index) for index in file.output_indices()])
    values = {index: file.interpreter.get_tensor(index).copy() for index in constants}
    for name, operator in file.operators:
        if name not in ("DEQUANTIZE", "DENSIFY"):
            _READERS[name](file, graph, operator, values)
    for name in {name for node in graph.nodes for name in node[1]} - {node[2] for node in graph.nodes}:
        if name != graph.input and name not in graph.weights:
            raise ValueError(f"constant {name} is used in a way that is not known")
    return graph


def _ends(file: TFLite, operator: Any) -> tuple[str, str]:
    return str(operator.Inputs(0)), str(operator.Outputs(0))


def _same(size: int, kernel: int, stride: int, dilation: int, valid: bool) -> tuple[int, int]:
    """TensorFlow's padding before and after."""
    if valid:
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _read_conv(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray], depthwise: bool) -> None:
    options = file.options(operator, "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
    x, y = _ends(file, operator)
    weight = values[int(operator.Inputs(1))].astype(np.float32)  # (out, h, w, in), or (1, h, w, out) depthwise
    weight = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
    bias = values[int(operator.Inputs(2))].astype(np.float32)
    stride, dilation = int(options.StrideW()), int(options.DilationWFactor())
    if stride != options.StrideH() or dilation != options.DilationHFactor():
        raise ValueError("strides and dilations differ in x and y")
    _, height, width, channels = file.shape(operator.Inputs(0))
    valid = options.Padding() == 1
    top, bottom = _same(height, weight.shape[2], stride, dilation, valid)
    left, right = _same(width, weight.shape[3], stride, dilation, valid)
    graph.weights |= {f"{y}.weight": weight, f"{y}.bias": bias}
    about: dict[str, Any] = {
        "stride": stride,
        "pad": [left, right, top, bottom],
        "act": _ACTS[options.FusedActivationFunction()],
    }
    if dilation > 1:
        about["dilation"] = dilation
    if depthwise:
        about["groups"] = channels
    graph.node("conv", [x, f"{y}.weight", f"{y}.bias"], y, **about)


def _read_pad(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    (b0, b1), (top, bottom), (left, right), (c0, c1) = values[int(operator.Inputs(1))].tolist()
    if b0 or b1:
        raise ValueError("padding of the batch")
    graph.node("pad", [x], y, pad=[left, right, top, bottom, c0, c1])


def _read_add(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    act = _ACTS[file.options(operator, "AddOptions").FusedActivationFunction()]
    graph.node("add", [x, str(operator.Inputs(1))], y, act=act)


def _read_pool(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    options = file.options(operator, "Pool2DOptions")
    x, y = _ends(file, operator)
    _, height, width, _ = file.shape(operator.Inputs(0))
    size, stride, valid = int(options.FilterWidth()), int(options.StrideW()), options.Padding() == 1
    top, bottom = _same(height, size, stride, 1, valid)
    left, right = _same(width, size, stride, 1, valid)
    graph.node("max_pool", [x], y, size=size, stride=stride, pad=[left, right, top, bottom])


def _read_prelu(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    graph.weights[f"{y}.slope"] = values[int(operator.Inputs(1))].astype(np.float32).reshape(-1)
    graph.node("prelu", [x, f"{y}.slope"], y)


def _read_resize(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    options = file.options(operator, "ResizeBilinearOptions")
    x, y = _ends(file, operator)
    if not options.AlignCorners() and not options.HalfPixelCenters():
        raise ValueError("a bilinear resize from the corner of the first pixel")
    graph.node("resize", [x], y, size=file.shape(operator.Outputs(0))[1:3], align=bool(options.AlignCorners()))


def _read_depth_to_space(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    graph.node("depth_to_space", [x], y, block=int(file.options(operator, "DepthToSpaceOptions").BlockSize()))


def _read_reshape(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    graph.node("rows", [x], y, columns=file.shape(operator.Outputs(0))[-1])


def _read_concat(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    rank = len(file.shape(operator.Outputs(0)))
    axis = int(file.options(operator, "ConcatenationOptions").Axis()) % rank
    inputs = [str(index) for index in operator.InputsAsNumpy()]
    graph.node("concat", inputs, str(operator.Outputs(0)), axis=(0, 2, 3, 1)[axis] if rank == 4 else axis)


def _read_mean(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    if sorted(values[int(operator.Inputs(1))].tolist()) != [1, 2]:
        raise ValueError("a mean over something else than height and width")
    graph.node("mean", [x], y)


def _read_linear(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    graph.weights[f"{y}.weight"] = values[int(operator.Inputs(1))].astype(np.float32)
    graph.weights[f"{y}.bias"] = values[int(operator.Inputs(2))].astype(np.float32)
    graph.node("linear", [x, f"{y}.weight", f"{y}.bias"], y)


def _read_slice(file: TFLite, graph: Graph, operator: Any, values: dict[int, np.ndarray]) -> None:
    x, y = _ends(file, operator)
    before, after = file.shape(operator.Inputs(0)), file.shape(operator.Outputs(0))
    start = values[int(operator.Inputs(1))].tolist()
    if before[:3] != after[:3] or len(before) != 4:
        raise ValueError("a slice of something else than channels")
    graph.node("channels", [x], y, start=start[3], end=start[3] + after[3])


_READERS = {
    "CONV_2D": lambda *about: _read_conv(*about, depthwise=False),
    "DEPTHWISE_CONV_2D": lambda *about: _read_conv(*about, depthwise=True),
    "PAD": _read_pad,
    "ADD": _read_add,
    "MAX_POOL_2D": _read_pool,
    "PRELU": _read_prelu,
    "RELU": lambda file, graph, operator, values: graph.node(
        "relu", [str(operator.Inputs(0))], str(operator.Outputs(0))
    ),
    "LOGISTIC": lambda file, graph, op, values: graph.node("sigmoid", [str(op.Inputs(0))], str(op.Outputs(0))),
    "RESIZE_BILINEAR": _read_resize,
    "DEPTH_TO_SPACE": _read_depth_to_space,
    "RESHAPE": _read_reshape,
    "CONCATENATION": _read_concat,
    "MEAN": _read_mean,
    "FULLY_CONNECTED": _read_linear,
    "STRIDED_SLICE": _read_slice,
}


def from_onnx(path: Path, outputs: list[str], first: str, work: Path) -> Graph:
    """The graph of an ONNX file of convolutions, from the value `first` to `outputs`.

    Args:
        path: the file.
        outputs: names of the values that are wanted, `(B, C, H, W)`.
        first: the name of the value that is the input.
        work: a folder for the folded file.
    """
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(work / "folded.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(work / "folded.onnx").graph
    values = {one.name: numpy_helper.to_array(one) for one in model.initializer}
    for node in model.node:
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    needed, wanted = [], set(outputs)
    for node in reversed(model.node):
        if wanted & set(node.output) and first not in node.output and node.op_type != "Constant":
            needed.append(node)
            wanted |= set(node.input)
    graph = Graph(first, outputs)
    for node in reversed(needed):
        about = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        _ONNX[node.op_type](graph, list(node.input), node.output[0], about, values)
    return graph


def _onnx_conv(graph: Graph, inputs: list[str], y: str, about: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    top, left, bottom, right = about.get("pads", [0, 0, 0, 0])
    names = [f"{y}.weight", f"{y}.bias"][: len(inputs) - 1]
    graph.weights |= {name: values[given].astype(np.float32) for name, given in zip(names, inputs[1:], strict=True)}
    arguments: dict[str, Any] = {"stride": about.get("strides", [1])[0], "pad": [left, right, top, bottom]}
    if about.get("dilations", [1])[0] != 1:
        arguments["dilation"] = about["dilations"][0]
    if about.get("group", 1) != 1:
        arguments["groups"] = about["group"]
    graph.node("conv", [inputs[0], *names], y, **arguments)


def _onnx_pool(graph: Graph, inputs: list[str], y: str, about: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    if any(about.get("pads", [0])):
        raise ValueError("a padded pooling")
    ceil = bool(about.get("ceil_mode", 0))
    graph.node("max_pool", [inputs[0]], y, size=about["kernel_shape"][0], stride=about["strides"][0], ceil=ceil)


def _onnx_resize(graph: Graph, inputs: list[str], y: str, about: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    mode = about["coordinate_transformation_mode"]
    if about["mode"] != b"linear" or mode not in (b"half_pixel", b"pytorch_half_pixel", b"align_corners"):
        raise ValueError(f"a resize of another kind: {about}")
    size = values[inputs[3]].tolist()[2:]
    graph.node("resize", [inputs[0]], y, size=size, align=mode == b"align_corners")


def _onnx_pad(graph: Graph, inputs: list[str], y: str, about: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    _, _, top, left, _, _, bottom, right = values[inputs[1]].tolist()
    graph.node("pad", [inputs[0]], y, pad=[left, right, top, bottom])


def _onnx_clip(graph: Graph, inputs: list[str], y: str, about: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    if (float(values[inputs[1]]), float(values[inputs[2]])) != (0.0, 6.0):
        raise ValueError("a clip to something else than 0 to 6")
    for node in graph.nodes:
        if node[2] == inputs[0] and node[0] == "conv":
            node[2], node[3]["act"] = y, "relu6"
            return
    raise ValueError("a clip of something else than a convolution")


_ONNX = {
    "Conv": _onnx_conv,
    "MaxPool": _onnx_pool,
    "Resize": _onnx_resize,
    "Pad": _onnx_pad,
    "Clip": _onnx_clip,
    "Relu": lambda graph, inputs, y, about, values: graph.node("relu", inputs, y),
    "Sigmoid": lambda graph, inputs, y, about, values: graph.node("sigmoid", inputs, y),
    "Add": lambda graph, inputs, y, about, values: graph.node("add", inputs, y),
    "Concat": lambda graph, inputs, y, about, values: graph.node("concat", inputs, y, axis=about["axis"]),
}
