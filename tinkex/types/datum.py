"""`Datum`: one training example."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from tinkex.errors import InvalidInputError
from tinkex.types.model_input import ModelInput, as_model_input
from tinkex.types.tensor import ArrayLike, TensorData, TensorDtype, as_tensor

_DTYPE_BY_INPUT: dict[str, TensorDtype] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}
"""The inputs that the protocol names, all of them one value a token."""


_MOSTLY_ZERO = frozenset({"target_tokens", "weights"})
"""The inputs that are zero almost everywhere where there are several targets a position."""


def _loss_fn_inputs(inputs: Mapping[str, ArrayLike]) -> dict[str, TensorData]:
    return {name: _tensor(name, value) for name, value in inputs.items()}


def _tensor(name: str, value: ArrayLike) -> TensorData:
    field_name = f"loss_fn_inputs[{name!r}]"
    tensor = as_tensor(value, _DTYPE_BY_INPUT.get(name), field_name)
    if name in _DTYPE_BY_INPUT and len(tensor.shape) not in (1, 2):
        raise InvalidInputError(f"{field_name} must be of shape (N,) or (N, K), found {list(tensor.shape)}")
    return tensor.smallest() if name in _MOSTLY_ZERO else tensor


@frozen
class Datum:
    """One training example: what the model reads, and what the loss needs.

    Example, learning to say `b c d` after `a`:
        >>> datum = Datum(
        ...     model_input=ModelInput.from_ints([1, 2, 3]),
        ...     loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]},
        ... )

    Args:
        model_input: N tokens, as a `ModelInput` or token ids.
        loss_fn_inputs: arrays by name, as lists, numpy arrays or torch tensors. `target_tokens` int64; `weights`, `advantages`,
            `logprobs`, `clip_low_threshold`, `clip_high_threshold`, `sequence_ratio_mask` float32; each `(N,)`, for
            several targets a position `(N, K)`.

    Raises:
        InvalidInputError: naming the field: ragged, not numbers, NaN, floats for tokens, or not N long.
    """

    model_input: ModelInput = field(converter=as_model_input)
    loss_fn_inputs: dict[str, TensorData] = field(converter=_loss_fn_inputs, factory=dict[str, TensorData])

    def __attrs_post_init__(self) -> None:
        targets = self.loss_fn_inputs.get("target_tokens")
        if targets is not None and targets.values.size and int(targets.values.min()) < 0:  # type: ignore[arg-type]
            raise InvalidInputError("loss_fn_inputs['target_tokens'] holds a negative token")
        length = _known_length(self.model_input)
        for name, tensor in self.loss_fn_inputs.items():
            if length is not None and name in _DTYPE_BY_INPUT and len(tensor) != length:
                raise InvalidInputError(
                    f"loss_fn_inputs[{name!r}] has {len(tensor)} values for {length} tokens of model_input",
                    advice="One value a token: for next-token targets give the tokens without the last as model_input.",
                )


def _known_length(model_input: ModelInput) -> int | None:
    """In tokens; None when an image leaves it to the server."""
    if any(getattr(chunk, "expected_tokens", 0) is None for chunk in model_input.chunks):
        return None
    return model_input.length
