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
"""The dtypes of the inputs that the protocol names; each has one value per token."""

_MOSTLY_ZERO = frozenset({"target_tokens", "weights"})
"""The inputs that are mostly zero when a position has several targets."""

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
    _check_dimensions(name, tensor)
    if name == "target_tokens":
        _check_tokens(tensor)
    return tensor


def _check_dimensions(name: str, tensor: TensorData) -> None:
    if name in _DTYPE_BY_INPUT and len(tensor.shape) not in (1, 2):
        raise InvalidInputError(
            f"{_field(name)} must be of shape (N,) or (N, K), found {list(tensor.shape)}"
        )


def _field(name: str) -> str:
    return f"loss_fn_inputs[{name!r}]"


def _check_tokens(targets: TensorData) -> None:
    values: Any = targets.values
    if values.size and not (values.min() >= 0 and values.max() <= MAX_TOKEN):
        wrong = values[(values < 0) | (values > MAX_TOKEN)][0]
        raise InvalidInputError(
            f"{_field('target_tokens')} must hold tokens from 0 to {MAX_TOKEN}, found {wrong}",
            advice="To leave a token out of the loss, give it the weight (or the advantage) 0."
            if wrong == _IGNORED_ELSEWHERE
            else None,
        )


_IGNORED_ELSEWHERE = -100
"""The label by which transformers leaves a token out of the loss."""


@hinted
@as_dataclass
@frozen(repr=False)
class Datum:
    """One training example: the tokens that the model reads, and the inputs of the loss function.

    Example:
        >>> datum = Datum(
        ...     model_input=ModelInput.from_ints([1, 2, 3]),
        ...     loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]},
        ... )
        >>> datum.loss_fn_inputs["weights"].dtype, datum.loss_fn_inputs["weights"].shape
        ('float32', [3])

    Args:
        model_input: N tokens, as a `ModelInput` or token ids.
        loss_fn_inputs: arrays by name, as lists, numpy arrays or torch tensors. `target_tokens` is
            int64; `weights`, `advantages`, `logprobs`, `clip_low_threshold`, `clip_high_threshold`
            and `sequence_ratio_mask` are float32. Each has the shape `(N,)`, or `(N, K)` for K
            targets per position; then `target_tokens` and `weights` become sparse where that is
            smaller.
        model_input_spans: the sampled sequences that the input's tokens come from, in order. They
            are not sent to servers that read JSON.
        loss_fn_input_spans: the same for the target tokens. Give both or neither.

    Raises:
        InvalidInputError: an array is ragged, not numeric, not finite, of floats for tokens, or not
            of length N; or the spans have another length. The message names the field.
    """

    model_input: ModelInput = field(converter=as_model_input)
    loss_fn_inputs: dict[str, TensorData] = field(converter=_tensors, factory=dict[str, TensorData])
    model_input_spans: list[ProvenanceSpan] | None = field(
        converter=lambda spans: as_spans(spans, "model_input_spans"), default=None
    )
    loss_fn_input_spans: list[ProvenanceSpan] | None = field(
        converter=lambda spans: as_spans(spans, "loss_fn_input_spans"), default=None
    )

    def __attrs_post_init__(self) -> None:
        self._check_lengths()

    def __repr__(self) -> str:
        spans = {
            "model_input_spans": self.model_input_spans,
            "loss_fn_input_spans": self.loss_fn_input_spans,
        }
        known = "".join(f", {name}={value}" for name, value in spans.items() if value is not None)
        return f"Datum({self.model_input!r}, {self.loss_fn_inputs!r}{known})"

    def with_provenance(
        self, model_input: ProvenanceSpans, loss_fn_inputs: ProvenanceSpans
    ) -> Datum:
        """Returns a copy that says which sampled sequences its tokens and targets come from.

        Args:
            model_input: spans in order, together as long as the model input.
            loss_fn_inputs: spans in order, together as long as `target_tokens`.

        Raises:
            InvalidInputError: the spans are longer or shorter than the tokens.
        """
        return evolve(self, model_input_spans=model_input, loss_fn_input_spans=loss_fn_inputs)

    def check(self) -> None:
        """Raises `InvalidInputError`, naming the field, if an array was changed after construction
        and cannot be sent.
        """
        self.check_form()
        self.check_values()

    def check_form(self) -> None:
        """Does the part of `check` that looks at types, dtypes and shapes, and reads no numbers."""
        for name, tensor in self.loss_fn_inputs.items():
            if not isinstance(tensor, TensorData):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidInputError(
                    f"{_field(name)} must be a TensorData, found {type(tensor).__name__}",
                    advice="Pass the array to Datum(...), which converts it.",
                )
            if _DTYPE_BY_INPUT.get(name, tensor.dtype) != tensor.dtype:
                _checked(name, tensor)  # which says more of floats for tokens
                raise InvalidInputError(
                    f"{_field(name)} must be of {_DTYPE_BY_INPUT[name]}, found {tensor.dtype}"
                )
            _check_dimensions(name, tensor)
        self._check_lengths()

    def check_values(self) -> None:
        """Does the part of `check` that reads all numbers."""
        for name, tensor in self.loss_fn_inputs.items():
            _checked(name, tensor)

    @property
    def input_bytes(self) -> int:
        """The number of bytes of all loss inputs."""
        return sum(tensor.nbytes for tensor in self.loss_fn_inputs.values())

    def _check_lengths(self) -> None:
        length = self.model_input.known_length
        for name, tensor in self.loss_fn_inputs.items():
            if length is not None and name in _DTYPE_BY_INPUT and len(tensor) != length:
                raise InvalidInputError(
                    f"{_field(name)} must have one value per token: expected {length}, found "
                    f"{len(tensor)} values for {length} tokens",
                    advice="For next-token targets, pass model_input=tokens[:-1].",
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
