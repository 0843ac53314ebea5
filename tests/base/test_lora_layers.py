"""What each kind of layer adds to a weight, from its paper's formula, number by number."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tether.base.lora_layers import Layer
from tether.errors import TetherError


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def change(layer: Layer, weight: Tensor, strength: float = 1.0) -> Tensor:
    layer.check(weight)
    return layer.merged(weight, strength) - weight


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8.0, 2.0), (1.0, 0.25), (0.0, 0.0)])
def test_lora_is_alpha_over_rank_times_b_a(alpha: float | None, scale: float) -> None:
    down, up, weight = numbers(4, 6), numbers(10, 4), numbers(10, 6)
    close(change(Layer("x", {"down": down, "up": up}, alpha), weight, 0.7), 0.7 * scale * up @ down)


def test_a_rank_stabilized_one_divides_by_the_root_of_the_rank() -> None:
    down, up, weight = numbers(4, 6), numbers(10, 4), numbers(10, 6)
    close(change(Layer("x", {"down": down, "up": up}, 8.0, stabilized=True), weight), 4 * up @ down)


@pytest.mark.parametrize("side", [1, 3])
def test_lora_of_a_convolution_is_the_two_convolutions_one_after_the_other(side: int) -> None:
    down, up, weight = numbers(4, 6, side, side), numbers(10, 4, 1, 1), numbers(10, 6, side, side)
    image = numbers(1, 6, 8, 8)
    expected = functional.conv2d(functional.conv2d(image, down), up)
    close(functional.conv2d(image, change(Layer("x", {"down": down, "up": up}), weight)), expected)


def test_lora_with_a_middle_is_three_convolutions() -> None:
    down, mid, up = numbers(4, 6, 1, 1), numbers(4, 4, 3, 3), numbers(10, 4, 1, 1)
    image = numbers(1, 6, 8, 8)
    expected = functional.conv2d(functional.conv2d(functional.conv2d(image, down), mid), up)
    found = change(Layer("x", {"down": down, "mid": mid, "up": up}), numbers(10, 6, 3, 3))
    close(functional.conv2d(image, found), expected)


@pytest.mark.parametrize(("file", "base"), [((10, 4, 1, 1), (10, 6)), ((10, 4), (10, 6, 1, 1))])
def test_linear_layers_and_convolutions_of_one_pixel_are_the_same(file: tuple, base: tuple) -> None:
    up, down = numbers(*file), numbers(4, 6, *file[2:])
    close(change(Layer("x", {"down": down, "up": up}), numbers(*base)).flatten(1), up.flatten(1) @ down.flatten(1))


def test_loha_is_a_product_of_two_products() -> None:
    parts = {
        f"hada_w{k}_{end}": numbers(*shape, seed=k) for k in (1, 2) for end, shape in (("a", (10, 4)), ("b", (4, 6)))
    }
    expected = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    close(change(Layer("x", parts, 2.0), numbers(10, 6), 0.5), 0.5 * 2 / 4 * expected)


def test_loha_of_a_convolution_with_cores() -> None:
    parts = {}
    for k in (1, 2):
        parts |= {f"hada_t{k}": numbers(2, 2, 3, 3, seed=k)}
        parts |= {f"hada_w{k}_a": numbers(2, 5, seed=k), f"hada_w{k}_b": numbers(2, 6, seed=k)}
    expected = torch.ones(5, 6, 3, 3)
    for k in (1, 2):
        core, a, b = parts[f"hada_t{k}"], parts[f"hada_w{k}_a"], parts[f"hada_w{k}_b"]
        whole = torch.zeros(5, 6, 3, 3)
        for i, j in itertools.product(range(2), range(2)):
            whole += a[i][:, None, None, None] * b[j][None, :, None, None] * core[i, j]
        expected = expected * whole
    close(change(Layer("x", parts), numbers(5, 6, 3, 3)), expected)


@pytest.mark.parametrize("first", ["whole", "product"])
@pytest.mark.parametrize("second", ["whole", "product"])
def test_lokr_is_a_kronecker_product(first: str, second: str) -> None:
    one = {"lokr_w1": numbers(2, 3)} if first == "whole" else {"lokr_w1_a": numbers(2, 4), "lokr_w1_b": numbers(4, 3)}
    two = {"lokr_w2": numbers(5, 2)} if second == "whole" else {"lokr_w2_a": numbers(5, 4), "lokr_w2_b": numbers(4, 2)}
    left = one["lokr_w1"] if first == "whole" else one["lokr_w1_a"] @ one["lokr_w1_b"]
    right = two["lokr_w2"] if second == "whole" else two["lokr_w2_a"] @ two["lokr_w2_b"]
    scale = 1.0 if first == second == "whole" else 2 / 4
    found = change(Layer("x", one | two, 2.0), numbers(10, 6))
    for i, j in itertools.product(range(10), range(6)):
        assert found[i, j].item() == pytest.approx(
            scale * (left[i // 5, j // 2] * right[i % 5, j % 2]).item(), abs=1e-5
        )


def test_lokr_of_a_convolution_has_its_second_factor_at_every_place() -> None:
    left, right = numbers(2, 3), numbers(5, 2, 3, 3)
    weight = numbers(10, 6, 3, 3)
    found = change(Layer("x", {"lokr_w1": left, "lokr_w2": right}), weight)
    for y, x in itertools.product(range(3), range(3)):
        close(found[:, :, y, x], torch.kron(left, right[:, :, y, x].contiguous()))
    flat = change(Layer("x", {"lokr_w1": left, "lokr_w2_a": torch.eye(5), "lokr_w2_b": right.flatten(1)}), weight)
    close(flat, found)  # LyCORIS stores the second product flat


def test_a_full_difference_is_added_to_weight_and_bias() -> None:
    weight, bias = numbers(10, 6), numbers(10)
    layer = Layer("x", {"diff": numbers(10, 6, seed=5), "diff_b": numbers(10, seed=5)}, alpha=3.0)
    close(change(layer, weight, 0.5), 0.5 * layer.tensors["diff"])
    close(layer.merged_bias(bias, 0.5), bias + 0.5 * layer.tensors["diff_b"])


@pytest.mark.parametrize("shape", [(10, 6), (10, 6, 3, 3)])
@pytest.mark.parametrize("form", ["one an output", "flat", "one an input"])
def test_dora_gives_each_output_its_own_magnitude(shape: tuple, form: str) -> None:
    weight, down, up = numbers(*shape), numbers(4, *shape[1:]), numbers(10, 4)
    inputs = form == "one an input"
    count, ones = (6 if inputs else 10), [1] * (len(shape) - 1)
    magnitude = numbers(count).abs() + 0.5
    stored = (
        magnitude if form == "flat" else magnitude.reshape(1, 6, *ones[1:]) if inputs else magnitude.reshape(10, *ones)
    )
    layer = Layer("x", {"down": down, "up": up, "magnitude": stored}, 2.0)
    merged = layer.merged(weight, 1.0)
    by_row = (merged.transpose(0, 1) if inputs else merged).flatten(1)
    close(by_row.norm(dim=1), magnitude)
    moved = weight + 0.5 * (up @ down.flatten(1)).reshape(shape)
    direction = (moved.transpose(0, 1) if inputs else moved).flatten(1)
    close(functional.cosine_similarity(by_row, direction), torch.ones(count))
    close(layer.merged(weight, 0.3), weight + 0.3 * (merged - weight))
    close(layer.merged(weight, 0.0), weight)


def test_a_change_in_half_precision_is_rounded_once() -> None:
    down, up, weight = numbers(4, 6), numbers(10, 4), numbers(10, 6).bfloat16()
    merged = Layer("x", {"down": down, "up": up}).merged(weight, 1.0)
    assert torch.equal(merged, (weight.float() + up @ down).bfloat16())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"down": (4, 6)}, "is incomplete: it has down"),
        ({"hada_w1_a": (10, 4), "hada_w1_b": (4, 6)}, "is incomplete"),
        ({"lokr_w1": (2, 3)}, "is incomplete"),
        ({"magnitude": (10, 1)}, "is incomplete: it has no matrix"),
        ({"down": (4, 7), "up": (10, 4)}, r"does not change a weight of shape \(10, 6\)"),
        ({"down": (4, 10), "up": (6, 4)}, "does not change a weight"),
        ({"down": (4, 6), "up": (10, 3)}, "does not change a weight"),
        ({"diff": (10, 5)}, "does not change a weight"),
        ({"diff": (10, 6), "magnitude": (10, 1)}, "magnitude beside a full difference"),
        ({"down": (4, 6), "up": (10, 4), "magnitude": (7, 1)}, "does not change a weight"),
    ],
)
def test_what_is_incomplete_or_of_another_shape_is_refused(tensors: dict, message: str) -> None:
    with pytest.raises(TetherError, match=message):
        Layer("x", {role: numbers(*shape) for role, shape in tensors.items()}).check(numbers(10, 6))


def test_a_low_rank_change_may_have_a_difference_of_the_bias_beside_it() -> None:
    weight, bias = numbers(10, 6), numbers(10)
    tensors = {"down": numbers(4, 6), "up": numbers(10, 4, seed=1), "diff_b": numbers(10, seed=5)}
    layer = Layer("x", tensors)
    layer.check(weight)
    close(change(layer, weight), tensors["up"] @ tensors["down"])
    close(layer.merged_bias(bias, 1.0), bias + tensors["diff_b"])
