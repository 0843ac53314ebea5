"""The moving average of the weights."""

from __future__ import annotations

import torch

from tether.training.average import MovingAverage


def test_the_average_follows_its_formula() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = MovingAverage([parameter], 0.5)
    expected = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for step in range(12):
        with torch.no_grad():
            parameter.add_(torch.tensor([1.0, -0.5]))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    torch.testing.assert_close(average.averages[0].double(), expected, rtol=1e-6, atol=1e-6)
    with average.swapped():
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-6, atol=1e-6)
    assert parameter.tolist() == [13.0, -4.0]
