"""Between the wire's types and the engine's: plain functions.

JSON has no NaN and no infinity: they are written as null, in logprobs and in metrics, rather than
hidden or made an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
import orjson
from attrs import evolve
from numpy.typing import NDArray
from tinkex_api import models as api

from tinkex_server.engine.interface import (
    AdamSettings,
    DimuonSettings,
    Example,
    LoraShape,
    LossResult,
    OptimizerKind,
    OptimizerSettings,
    SampledTokens,
    SampleResult,
    SampleSpec,
    SgdSettings,
)
from tinkex_server.errors import bad_request, malformed
from tinkex_server.wire.loss_inputs import LOSS_FNS, check_inputs

Location = tuple[str | int, ...]

_MOST_CELLS = 1 << 26
"""Of sparse tensors, which are small however many they have: of all in a batch."""

_COLDEST = 1e-30
"""The temperature from which on down samples are greedy: engines divide by it in floats of 32 bits,
in which less is soon 0.
"""

_LARGEST = float(np.finfo(np.float32).max)

_KINDS = {"int64": (np.int64, "iu", "integers"), "float32": (np.float32, "iuf", "numbers")}


def encode(value: object) -> bytes:
    """JSON; arrays as lists, and what is not finite as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def lora_shape(config: api.LoraConfig) -> LoraShape:
    if config.rank < 1:
        raise malformed("lora_config", "rank", message="must be 1 or more")
    if not (config.train_attn or config.train_mlp or config.train_unembed):
        raise malformed(
            "lora_config",
            message="trains nothing: one of train_attn, train_mlp and train_unembed must be true",
        )
    seed = config.seed if isinstance(config.seed, int) else None
    return LoraShape(config.rank, seed, config.train_attn, config.train_mlp, config.train_unembed)


def optimizer_kind(config: api.OptimizerConfig | None) -> OptimizerKind:
    kinds: Mapping[str, OptimizerKind] = {kind: kind for kind in get_args(OptimizerKind)}
    name = config.type if config else "adamw"
    if name not in kinds:
        raise bad_request(f"this server has no optimizer {name!r}; it has {', '.join(kinds)}")
    return kinds[name]


def optimizer_config(kind: OptimizerKind) -> api.OptimizerConfig:
    return api.OptimizerConfig(kind, version=1 if kind == "dimuon" else None)


def optimizer_settings(body: api.OptimStepRequest) -> OptimizerSettings:
    if [body.adam_params, body.optimizer_params, body.sgd_params].count(None) != 2:
        raise malformed(
            "adam_params",
            message="or optimizer_params or sgd_params is needed: one of them, not more",
        )
    if adam := body.adam_params:
        _check_numbers(adam, "adam_params", decays=("beta1", "beta2"))
        if not 0 < adam.eps <= _LARGEST:
            raise malformed(
                "adam_params",
                "eps",
                message=f"must be more than 0, and at most {_LARGEST}, the largest float32",
            )
        return AdamSettings(
            adam.learning_rate,
            adam.beta1,
            adam.beta2,
            adam.eps,
            adam.weight_decay,
            adam.grad_clip_norm,
        )
    if sgd := body.sgd_params:
        _check_numbers(sgd, "sgd_params", decays=("momentum",))
        return SgdSettings(sgd.learning_rate, sgd.momentum, sgd.weight_decay, sgd.grad_clip_norm)
    dimuon = cast("api.DimuonParams", body.optimizer_params)
    if dimuon.type != "dimuon":
        raise malformed(
            "optimizer_params", "type", message=f"is {dimuon.type!r}: this server takes dimuon"
        )
    _check_numbers(dimuon, "optimizer_params", decays=("beta1",))
    return DimuonSettings(dimuon.learning_rate, dimuon.beta1, dimuon.grad_clip_norm)


def _check_numbers(
    params: api.AdamParams | api.DimuonParams | api.SgdParams, field: str, decays: Sequence[str]
) -> None:
    """`decays` are those of which a share is kept, which must be less than all."""
    for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
        if not 0 <= getattr(params, name, 0.0) <= _LARGEST:
            raise malformed(
                field,
                name,
                message=f"must be 0 or more, and at most {_LARGEST}, the largest float32",
            )
    for name in decays:
        if not 0 <= getattr(params, name) < 1:
            raise malformed(field, name, message="must be 0 or more, and less than 1")


def loss_config(batch: api.ForwardBackwardInput, at: Location) -> dict[str, float]:
    """The loss's settings, after a check of its name."""
    if batch.loss_fn == "stable_reinforce":
        raise bad_request(
            "this server has no stable_reinforce: its formula is not published, only that it "
            "wants what the hosted service records at "
            "sampling (record_stability_info). Use cispo or ppo, which bound the ratio of a "
            "policy that has moved on, or "
            "importance_sampling, with the logprobs that came with the samples (loss_fn in the "
            "cookbook)"
        )
    if batch.loss_fn not in LOSS_FNS:
        raise bad_request(
            f"unknown loss_fn {batch.loss_fn!r}; known are {', '.join(LOSS_FNS)}, and custom"
        )
    settings: Mapping[str, Any] = batch.loss_fn_config or {}
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise malformed(*at, "loss_fn_config", name, message="must be a number")
        if not abs(value) <= _LARGEST:
            raise malformed(
                *at,
                "loss_fn_config",
                name,
                message=f"must be finite, and at most {_LARGEST}, the largest float32",
            )
    return dict(settings)


def examples(batch: api.ForwardBackwardInput, at: Location) -> list[Example]:
    if not batch.data:
        raise malformed(*at, "data", message="is empty")
    check_inputs(batch, (*at, "data"))
    _check_cells(batch.data, (*at, "data"))
    return [_example(datum, (*at, "data", index)) for index, datum in enumerate(batch.data)]


def _check_cells(data: Sequence[api.Datum], at: Location) -> None:
    """Sparse tensors take as little as one byte for thousands of cells, so all of a batch are
    bounded before any is made.
    """
    total = 0
    for index, datum in enumerate(data):
        for name, tensor in datum.loss_fn_inputs.items():
            if tensor.sparse_crow_indices is not None and all(
                type(size) is int and size >= 0 for size in tensor.shape or ()
            ):
                total += math.prod(tensor.shape or ())
            if total > _MOST_CELLS:
                text = f"has more than {_MOST_CELLS} cells, with the sparse tensors before it"
                raise malformed(*at, index, "loss_fn_inputs", name, "shape", message=text)


def count_trained(data: Sequence[Example]) -> int:
    """How many tokens the loss is over: those whose weight is not 0, all where there are no
    weights.
    """
    weights = [example.loss_inputs.get("weights") for example in data]
    return sum(
        len(example.tokens) if w is None else int(np.count_nonzero(w))
        for example, w in zip(data, weights, strict=True)
    )


def _example(datum: api.Datum, at: Location) -> Example:
    inputs = datum.loss_fn_inputs
    return Example(
        tokens(datum.model_input, (*at, "model_input")),
        {name: _array(tensor, (*at, "loss_fn_inputs", name)) for name, tensor in inputs.items()},
    )


def tokens(value: api.ModelInput, at: Location) -> NDArray[np.int64]:
    """The text chunks' token ids `(N,)`, one after another."""
    parts = [_chunk(chunk, (*at, "chunks", index)) for index, chunk in enumerate(value.chunks)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _chunk(chunk: api.ModelInputChunk, at: Location) -> NDArray[np.int64]:
    if chunk.type != "encoded_text":
        raise malformed(
            *at, "type", message=f"is {chunk.type!r}: this server reads encoded_text alone"
        )
    if chunk.tokens is None:
        raise malformed(*at, "tokens", message="is missing")
    return _flat(chunk.tokens, "int64", (*at, "tokens")).astype(np.int64, copy=False)


def _array(tensor: api.TensorData, at: Location, pad: int = 0) -> NDArray[np.generic]:
    """Of a sparse tensor, `pad` stands in the cells that are not sent."""
    if tensor.dtype not in _KINDS:
        raise malformed(*at, "dtype", message=f"must be one of {', '.join(_KINDS)}")
    flat = _flat(tensor.data, tensor.dtype, (*at, "data"))
    if tensor.sparse_crow_indices is not None or tensor.sparse_col_indices is not None:
        return _from_csr(flat, tensor, at, pad)
    if not tensor.shape:
        return flat
    if (
        not all(type(size) is int and size >= 0 for size in tensor.shape)
        or math.prod(tensor.shape) != flat.size
    ):
        raise malformed(*at, "shape", message=f"does not fit the {flat.size} values of data")
    return flat.reshape(tensor.shape)


def _from_csr(
    flat: NDArray[np.generic], tensor: api.TensorData, at: Location, pad: int
) -> NDArray[np.generic]:
    rows, columns = _csr_places(flat.size, tensor, at)
    if math.prod(tensor.shape or ()) > _MOST_CELLS:
        raise malformed(*at, "shape", message=f"has more than {_MOST_CELLS} cells")
    array = np.full(tensor.shape or (), pad, flat.dtype)
    array[rows, columns] = flat
    return array


def _csr_places(
    count: int, tensor: api.TensorData, at: Location
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row and the column of each of `count` values."""
    shape = tensor.shape or []
    if len(shape) != 2 or not all(type(size) is int and size >= 0 for size in shape):
        raise malformed(*at, "shape", message="must be two sizes: the tensor is sparse")
    borders, columns = (
        _flat([] if indices is None else indices, "int64", (*at, name)).astype(np.int64, copy=False)
        for name, indices in (
            ("sparse_crow_indices", tensor.sparse_crow_indices),
            ("sparse_col_indices", tensor.sparse_col_indices),
        )
    )
    if (
        borders.size != shape[0] + 1
        or borders[0] != 0
        or borders[-1] != count
        or (np.diff(borders) < 0).any()
    ):
        raise malformed(
            *at,
            "sparse_crow_indices",
            message=f"must be {shape[0] + 1} numbers that rise from 0 to {count}",
        )
    if columns.size != count or ((columns < 0) | (columns >= shape[1])).any():
        raise malformed(
            *at, "sparse_col_indices", message=f"must be {count} numbers from 0 to {shape[1] - 1}"
        )
    return np.repeat(np.arange(shape[0]), np.diff(borders)), columns


def _flat(
    values: Sequence[object] | NDArray[np.generic], dtype: str, at: Location
) -> NDArray[np.generic]:
    target, kinds, words = _KINDS[dtype]
    if not len(values):
        return np.empty(0, target)
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        raise malformed(*at, message=f"must be a flat list of {words}") from None
    if (
        array.ndim != 1
        or array.dtype.kind not in kinds
        or (array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max)
    ):
        raise malformed(*at, message=f"must be a flat list of {words}")
    if array.dtype.kind != "f":
        return array.astype(target, copy=False)
    with np.errstate(over="ignore"):
        fitting = array.astype(target, copy=False)
    if fitting is not array and not (np.isfinite(fitting) == np.isfinite(array)).all():
        raise malformed(*at, message=f"must be numbers that fit in {dtype}")
    return fitting


def sample_spec(request: api.SampleRequest) -> SampleSpec:
    params = request.sampling_params
    _check_sample(request)
    strings, stop_tokens = _stops(params.stop)
    prompt = cast("list[int]", tokens(request.prompt, ("prompt",)).tolist())
    return SampleSpec(
        prompt=prompt,
        num_samples=request.num_samples,
        max_tokens=params.max_tokens if isinstance(params.max_tokens, int) else None,
        temperature=params.temperature if params.temperature > _COLDEST else 0.0,
        top_k=params.top_k,
        top_p=params.top_p,
        seed=params.seed if isinstance(params.seed, int) else None,
        stop_strings=strings,
        stop_tokens=stop_tokens,
        prompt_logprobs=request.prompt_logprobs,
        topk_prompt_logprobs=request.topk_prompt_logprobs,
        topk_sample_logprobs=_count(request.topk_sample_logprobs, "topk_sample_logprobs"),
        target_prompt_tokens=_targets(request.target_prompt_logprobs, len(prompt)),
        prompt_alt_tokens_k=_count(request.prompt_alt_tokens_k, "prompt_alt_tokens_k"),
        prompt_logprobs_last_n=_last_n(request, len(prompt)),
    )


def _count(value: int | None, field: str) -> int:
    if (value or 0) < 0:
        raise malformed(field, message="must be 0 or more")
    return value or 0


def _last_n(request: api.SampleRequest, prompt_length: int) -> int | None:
    count = request.prompt_logprobs_last_n
    if count is None:
        return None
    if not 1 <= count < prompt_length or not request.prompt_logprobs:
        raise malformed(
            "prompt_logprobs_last_n",
            message=f"must be 1 to {prompt_length - 1}, and needs prompt_logprobs",
        )
    return count


def _targets(tensor: api.TensorData | None, prompt_length: int) -> NDArray[np.int64] | None:
    """The tokens asked about at each of the prompt's positions but the first; -1 for none."""
    if tensor is None:
        return None
    at = ("target_prompt_logprobs",)
    targets = _array(tensor, at, pad=-1)
    if targets.dtype != np.int64 or targets.ndim != 2 or len(targets) != prompt_length - 1:
        raise malformed(
            *at,
            message=(
                f"must be int64 of shape [{prompt_length - 1}, K], one row for each token but the "
                "first"
            ),
        )
    return targets.astype(np.int64, copy=False)


def _check_sample(request: api.SampleRequest) -> None:
    params = request.sampling_params
    if request.num_samples < 1:
        raise malformed("num_samples", message="must be 1 or more")
    if isinstance(params.max_tokens, int) and params.max_tokens < 1:
        raise malformed("sampling_params", "max_tokens", message="must be 1 or more")
    if not 0 <= params.temperature < math.inf:
        raise malformed("sampling_params", "temperature", message="must be 0 or more, and finite")
    if params.top_k < -1:
        raise malformed(
            "sampling_params", "top_k", message="must be -1 or more; -1 and 0 turn it off"
        )
    if not 0 < params.top_p <= 1:
        raise malformed("sampling_params", "top_p", message="must be above 0, and at most 1")
    _count(request.topk_prompt_logprobs, "topk_prompt_logprobs")


def _stops(stop: Any) -> tuple[Sequence[str] | None, Sequence[int] | None]:
    """Stop strings and stop tokens. Absent keeps the model's own stop, so both are None; an empty
    list turns it off.
    """
    if stop is None:
        return None, None
    values = cast("list[Any]", stop) if isinstance(stop, list) else [stop]
    if all(isinstance(value, str) and value for value in values):
        return values, []
    if all(type(value) is int for value in values):
        return [], values
    raise malformed(
        "sampling_params",
        "stop",
        message="must be a string, a list of strings, or a list of token ids",
    )


def loss_fields(result: LossResult) -> dict[str, Any]:
    """Of a ForwardBackwardOutput, with arrays in place of its long lists."""
    output = api.ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord",
        loss_fn_outputs=[_outputs(arrays) for arrays in result.loss_fn_outputs],
        metrics=api.Metrics.from_dict(result.metrics),
    )
    return output.to_dict()


def _outputs(arrays: Mapping[str, NDArray[np.float32]]) -> api.LossFnInputs:
    outputs = api.LossFnInputs()
    for name, array in arrays.items():
        outputs[name] = _tensor(array, "float32")
    return outputs


def _tensor(array: NDArray[np.generic], dtype: str) -> api.TensorData:
    # orjson writes the array itself
    return api.TensorData(np.ascontiguousarray(array, dtype).ravel(), dtype, list(array.shape))  # pyright: ignore[reportArgumentType]


def encode_sample(result: SampleResult, targets: api.TensorData | None) -> bytes:
    """`targets` are the tokens that the request asks about, in the layout that their logprobs take,
    too.
    """
    response = api.SampleResponse(
        [_sequence(sequence) for sequence in result.sequences], prompt_cache_hit_tokens=0
    )
    if result.prompt_logprobs is not None:
        response.prompt_logprobs = list(result.prompt_logprobs)
    response.topk_prompt_logprobs = _pairs(result.topk_prompt_logprobs)
    if result.target_prompt_logprobs is not None:
        response.target_prompt_logprobs = _laid_out_as(targets, result.target_prompt_logprobs)
    if result.prompt_alt_tokens is not None:
        alternatives, logprobs = result.prompt_alt_tokens
        response.prompt_alt_tokens = api.PromptAltTokens(
            _tensor(alternatives, "int64"), _tensor(logprobs, "float32")
        )
    return encode(response.to_dict())


def _sequence(sequence: SampledTokens) -> api.SampledSequence:
    top = _pairs(sequence.topk_logprobs)
    return api.SampledSequence(
        list(sequence.tokens),
        list(sequence.logprobs),
        sequence.stop_reason,
        topk_sampled_logprobs=top,
    )


def _pairs(
    rows: Sequence[Sequence[tuple[int, float]] | None] | None,
) -> list[list[list[float]] | None] | None:
    if rows is None:
        return None
    return [None if row is None else [[token, logprob] for token, logprob in row] for row in rows]


def _laid_out_as(targets: api.TensorData | None, logprobs: NDArray[np.float32]) -> api.TensorData:
    """A value for each of the targets' values."""
    if targets is None or targets.sparse_crow_indices is None:
        return _tensor(logprobs, "float32")
    cells = logprobs[_csr_places(len(targets.data), targets, ("target_prompt_logprobs",))]
    return evolve(targets, data=np.ascontiguousarray(cells, np.float32), dtype="float32")
