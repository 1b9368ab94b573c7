"""`Datum`: one training example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.types.arrays import ArrayLike, Number, TensorDtype
from tinkex.types.as_dataclass import as_dataclass
from tinkex.types.model_input import MAX_TOKEN, ModelInput, as_model_input
from tinkex.types.provenance import ProvenanceSpan, ProvenanceSpans, as_spans, check_tiling
from tinkex.types.tensor import TensorData, as_tensor

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

LossInput: TypeAlias = TensorData | ArrayLike | Number
"""One loss input: an array, or one number."""
LossFnInputs: TypeAlias = Mapping[str, LossInput]
"""The loss inputs of one datum, by name."""


def _tensors(inputs: LossFnInputs) -> dict[str, TensorData]:
    if not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(
            f"loss_fn_inputs must be a mapping of names to arrays, found {type(inputs).__name__}"
        )
    return {name: _tensor(name, value) for name, value in inputs.items()}


def _tensor(name: str, value: LossInput) -> TensorData:
    tensor = _checked(name, value)
    return tensor.smallest() if name in _MOSTLY_ZERO else tensor


def _checked(name: str, value: LossInput) -> TensorData:
    tensor = as_tensor(value, _DTYPE_BY_INPUT.get(name), _field(name))
    if name in _DTYPE_BY_INPUT and len(tensor.shape) not in (1, 2):
        raise InvalidInputError(
            f"{_field(name)} must be of shape (N,) or (N, K), found {list(tensor.shape)}"
        )
    if name == "target_tokens":
        _check_tokens(tensor)
    return tensor


def _field(name: str) -> str:
    return f"loss_fn_inputs[{name!r}]"


def _check_tokens(targets: TensorData) -> None:
    values: Any = targets.values
    if values.size and not (values.min() >= 0 and values.max() <= MAX_TOKEN):
        wrong = values[(values < 0) | (values > MAX_TOKEN)][0]
        raise InvalidInputError(
            f"{_field('target_tokens')} must hold tokens from 0 to {MAX_TOKEN}, found {wrong}"
        )


@hinted
@as_dataclass
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
        loss_fn_inputs: arrays by name, as lists, numpy arrays or torch tensors. `target_tokens`
            int64; `weights`, `advantages`,
            `logprobs`, `clip_low_threshold`, `clip_high_threshold`, `sequence_ratio_mask` float32;
            each `(N,)`, for several targets a position `(N, K)`, where `target_tokens` and
            `weights` become sparse if that is smaller.
        model_input_spans: which sampled sequences the input's tokens come from, in order; not sent
            to servers that read JSON.
        loss_fn_input_spans: likewise for the target tokens. Both or neither.

    Raises:
        InvalidInputError: naming the field: ragged, not numbers, NaN, floats for tokens, or not N
            long; spans of another length.
    """

    model_input: ModelInput = field(converter=as_model_input)
    loss_fn_inputs: dict[str, TensorData] = field(converter=_tensors, factory=dict[str, TensorData])
    model_input_spans: tuple[ProvenanceSpan, ...] | None = field(
        converter=lambda spans: as_spans(spans, "model_input_spans"), default=None
    )
    loss_fn_input_spans: tuple[ProvenanceSpan, ...] | None = field(
        converter=lambda spans: as_spans(spans, "loss_fn_input_spans"), default=None
    )

    def __attrs_post_init__(self) -> None:
        self._check_lengths()

    def with_provenance(
        self, model_input: ProvenanceSpans, loss_fn_inputs: ProvenanceSpans
    ) -> Datum:
        """The same with the spans of sampled sequences that its tokens and its targets come from.

        Args:
            model_input: in order, together as long as the model input.
            loss_fn_inputs: in order, together as long as `target_tokens`.

        Raises:
            InvalidInputError: they are longer or shorter.
        """
        return evolve(self, model_input_spans=model_input, loss_fn_input_spans=loss_fn_inputs)

    def check(self) -> None:
        """Raises `InvalidInputError`, naming the field, where its arrays were changed to what
        cannot be sent.
        """
        for name, tensor in self.loss_fn_inputs.items():
            if not isinstance(tensor, TensorData):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidInputError(
                    f"{_field(name)} must be a TensorData, found {type(tensor).__name__}",
                    advice="Give it to Datum(...) instead.",
                )
            if _checked(name, tensor).dtype != tensor.dtype:
                raise InvalidInputError(
                    f"{_field(name)} must be of {_DTYPE_BY_INPUT[name]}, found {tensor.dtype}"
                )
        self._check_lengths()

    def _check_lengths(self) -> None:
        length = self.model_input.known_length
        for name, tensor in self.loss_fn_inputs.items():
            if length is not None and name in _DTYPE_BY_INPUT and len(tensor) != length:
                raise InvalidInputError(
                    f"{_field(name)} must have one value a token: expected {length}, found "
                    f"{len(tensor)} values for {length} tokens",
                    advice="For next-token targets give the tokens without the last as model_input.",
                )
        self._check_spans(length)

    def _check_spans(self, length: int | None) -> None:
        if self.model_input_spans is None and self.loss_fn_input_spans is None:
            return
        if self.model_input_spans is None or self.loss_fn_input_spans is None:
            missing = (
                "model_input_spans" if self.model_input_spans is None else "loss_fn_input_spans"
            )
            raise InvalidInputError(
                f"{missing} is missing: expected spans for model_input and loss_fn_inputs both, "
                "or for neither"
            )
        targets = self.loss_fn_inputs.get("target_tokens")
        check_tiling(self.model_input_spans, length, "model_input_spans")
        check_tiling(
            self.loss_fn_input_spans,
            length if targets is None else len(targets),
            "loss_fn_input_spans",
        )
