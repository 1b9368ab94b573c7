"""Muon, an optimizer of matrices: each step has about the same size in every direction of a matrix.

By Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, whose coefficients are these.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_SMALLEST_NORM = 1e-12


class Muon(torch.optim.Optimizer):
    """Over matrices alone, as all of a LoRA adapter's weights are. Its state is one running mean,
    `momentum_buffer`, for each.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 1e-3, momentum: float = 0.9
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    mean = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["momentum"])
                    parameter.sub_(orthogonalize(mean), alpha=group["lr"])


def orthogonalize(matrix: Tensor) -> Tensor:
    """The matrix with its singular values, which may be of any size, brought to between 0.6 and
    1.3; zeros stay zeros.

    Values far below the largest one are raised, but not as far.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T  # the products are smaller so
    wide = wide / wide.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = _A * wide + (_B * gram + _C * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
