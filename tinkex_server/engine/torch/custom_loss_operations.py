"""The functions and methods that the graph of a custom loss may call, by name. A graph can reach
nothing else.

Functions whose result size or running time depends on a number are wrapped, so that they are
refused before memory is allocated. In-place operations are harmless, since a graph gets copies.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

MAX_ELEMENTS = 2**26
"""The most elements of any intermediate tensor."""

_MAX_EXPONENT = 64  # the largest exponent of a plain number
_TENSOR_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "T", "mT")
_TUPLE_ATTRIBUTES = ("values", "indices")  # of the results of torch.max and others


def check_count(count: float) -> None:
    """Raises `ValueError` for more elements than a tensor may have."""
    if count > MAX_ELEMENTS:
        raise ValueError(f"creates more than {MAX_ELEMENTS} values")


def _on_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Restricts a function to tensors and numbers: a list or a string times a number could grow
    without bound.
    """

    def checked(*operands: Any) -> Any:
        if not all(isinstance(operand, (Tensor, int, float)) for operand in operands):
            raise TypeError(
                "takes tensors and numbers, not "
                f"{', '.join(type(operand).__name__ for operand in operands)}"
            )
        return function(*operands)

    return checked


def _power(base: Any, exponent: Any) -> Any:
    if (
        not isinstance(base, Tensor)
        and not isinstance(exponent, Tensor)
        and abs(exponent) > _MAX_EXPONENT
    ):
        raise OverflowError(f"raises a plain number to a power above {_MAX_EXPONENT}")
    return base**exponent


def _size_checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def filled(
        *size: Any, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        check_count(
            math.prod(size[0] if len(size) == 1 and isinstance(size[0], (list, tuple)) else size)
        )
        return function(*size, dtype=dtype, device=device)

    return filled


def _arange(
    *bounds: float, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    check_count(abs(end - start) / abs(step))
    return torch.arange(*bounds, dtype=dtype, device=device)


def _pad(
    value: Tensor, widths: Sequence[int], mode: str = "constant", fill: float | None = None
) -> Tensor:
    sizes = list(value.shape)
    for index in range(len(widths) // 2):
        sizes[-1 - index] += widths[2 * index] + widths[2 * index + 1]
    check_count(math.prod(sizes))
    return functional.pad(value, list(widths), mode, fill)


def _attribute(value: Any, name: str) -> Any:
    if name not in (
        _TENSOR_ATTRIBUTES
        if isinstance(value, Tensor)
        else _TUPLE_ATTRIBUTES
        if isinstance(value, tuple)
        else ()
    ):
        raise TypeError(
            f"the attribute {name!r} of {type(value).__name__} cannot be read in a custom loss"
        )
    return getattr(value, name)


def _split(text: str) -> Sequence[str]:
    return text.split()


def _by_name(prefix: str, module: Any, names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Returns functions by their public names and by their own, such as torch._C._nn.softplus,
    since clients send either.
    """
    functions = {
        f"{prefix}.{name}": getattr(module, name)
        for name in names
        if callable(getattr(module, name, None))
    }
    own = {
        f"{function.__module__}.{function.__name__}": function
        for function in functions.values()
        if function.__module__
    }
    return {**own, **functions}


_OPERATORS = _split(
    "add sub mul truediv floordiv mod pow neg pos abs invert and_ or_ xor eq ne lt le gt ge "
    "matmul iadd isub imul itruediv"
)
_MATH = _split("sqrt exp expm1 log log1p log2 log10 pow fabs floor ceil sin cos tan tanh erf")
_TENSOR_OPS = _split("""
    abs neg sign exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square pow reciprocal sin cos
    tan asin acos atan sinh cosh tanh sigmoid logit erf erfc relu floor ceil round trunc frac
    clamp clip clamp_min clamp_max add sub mul div true_divide divide multiply subtract
    floor_divide remainder fmod lerp addcmul addcdiv maximum minimum fmax fmin where masked_fill
    nan_to_num xlogy hypot atan2 eq ne lt le gt ge isnan isinf isfinite isclose logical_and
    logical_or logical_not logical_xor sum mean prod max min amax amin argmax argmin any all std
    var median norm logsumexp nansum nanmean count_nonzero quantile cumsum cumprod cummax cummin
    logcumsumexp diff softmax log_softmax sort argsort topk kthvalue cat concat stack chunk
    split unbind narrow select index_select gather take take_along_dim masked_select reshape
    view flatten unsqueeze squeeze transpose permute t swapaxes movedim flip roll tril triu
    diagonal expand expand_as broadcast_to view_as reshape_as matmul mm mv dot outer detach
    clone contiguous zeros_like ones_like full_like scatter scatter_add index_add to float
    double half bfloat16 long int bool type_as size dim ndimension numel
""")
_FUNCTIONAL = _split("""
    softplus logsigmoid relu relu6 elu selu celu gelu silu mish leaky_relu sigmoid tanh hardtanh
    softmax log_softmax softmin threshold mse_loss l1_loss smooth_l1_loss huber_loss kl_div
    binary_cross_entropy binary_cross_entropy_with_logits poisson_nll_loss gaussian_nll_loss
    hinge_embedding_loss margin_ranking_loss normalize cosine_similarity pairwise_distance
""")
_SPECIAL = _split(
    "expit logit log1p expm1 exp2 xlogy xlog1py entr erf erfc erfcx log_ndtr ndtr digamma gammaln "
    "softmax logsumexp"
)

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "getattr": _attribute,
    **_by_name("math", math, _MATH),
    **{f"operator.{name}": _on_numbers(getattr(operator, name)) for name in _OPERATORS},
    "operator.pow": _on_numbers(_power),
    "operator.getitem": operator.getitem,
    **_by_name("torch", torch, _TENSOR_OPS),
    "torch.zeros": _size_checked(torch.zeros),
    "torch.ones": _size_checked(torch.ones),
    "torch.arange": _arange,
    **_by_name("torch.nn.functional", functional, _FUNCTIONAL),
    "torch.nn.functional.pad": _pad,
    **_by_name("torch.special", torch.special, _SPECIAL),
    **_by_name("torch.linalg", torch.linalg, ["norm", "vector_norm"]),
}
METHODS: Mapping[str, Callable[..., Any]] = {
    name: cast("Callable[..., Any]", getattr(Tensor, name))
    for operation in _TENSOR_OPS
    for name in (operation, f"{operation}_")
    if hasattr(Tensor, name)
}
_DTYPES = _split("float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool")
WORDS: Mapping[str, Mapping[str, Any]] = {
    "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan},
    "dtype": {name: getattr(torch, name) for name in _DTYPES},
    "layout": {"strided": torch.strided},
    "memory_format": {
        "contiguous_format": torch.contiguous_format,
        "preserve_format": torch.preserve_format,
    },
}
"""The values of symbolic arguments, by form and name."""
