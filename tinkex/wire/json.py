"""Between what users hold and what JSON carries: prompts and arrays to the generated types, results back."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from tinkex_api import models as api

from tinkex.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
    SampledSequence,
    SampleResponse,
    TensorData,
)


def encode_metadata(facts: Mapping[str, str] | None) -> api.UserMetadata | None:
    """None, which is not sent, where there are none."""
    return api.UserMetadata.from_dict(facts) if facts else None


def encode_model_input(value: ModelInput) -> api.ModelInput:
    return api.ModelInput([_encode_chunk(chunk) for chunk in value.chunks])


def _encode_chunk(chunk: ModelInputChunk) -> api.ModelInputChunk:
    match chunk:
        case EncodedTextChunk(tokens):
            return api.ModelInputChunk("encoded_text", tokens=tokens)  # pyright: ignore[reportArgumentType] # orjson writes arrays
        case ImageChunk(data, format, expected):
            return api.ModelInputChunk(
                "image", data=base64.b64encode(data).decode(), format_=format, expected_tokens=expected or None
            )
        case ImageAssetPointerChunk(location, format, expected):
            return api.ModelInputChunk("image_asset_pointer", location=location, format_=format, expected_tokens=expected or None)
        case DmelChunk(dmel):
            return api.ModelInputChunk("dmel", dmel=base64.b64encode(dmel).decode())


def encode_batch(data: Sequence[Datum], loss_fn: str, config: Mapping[str, float | str] | None) -> api.ForwardBackwardInput:
    return api.ForwardBackwardInput(
        data=[_encode_datum(datum) for datum in data],
        loss_fn=loss_fn,
        loss_fn_config=api.LossFnConfig.from_dict(config) if config else None,
    )


def _encode_datum(datum: Datum) -> api.Datum:
    inputs = api.LossFnInputs()
    for name, tensor in datum.loss_fn_inputs.items():
        inputs[name] = _encode_tensor(tensor)
    return _Piece(encode_model_input(datum.model_input), inputs)


class _Piece(api.Datum):
    """Written by itself, so that a large batch leaves other threads, the event loop's above all, their turns."""

    def to_dict(self) -> Any:
        return orjson.Fragment(orjson.dumps(super().to_dict(), option=orjson.OPT_SERIALIZE_NUMPY))


def _encode_tensor(tensor: TensorData) -> api.TensorData:
    # orjson writes the flat array itself
    return api.TensorData(data=tensor.array.ravel(), dtype=tensor.dtype, shape=list(tensor.shape))  # pyright: ignore[reportArgumentType]


def decode_tensor(tensor: api.TensorData) -> TensorData:
    dtype = "int64" if tensor.dtype == "int64" else "float32"
    # null stands for NaN, which JSON has not; it does not pass TensorData's check, which guards what is sent
    array = np.asarray(tensor.data, dtype=np.int64 if dtype == "int64" else np.float32)
    return TensorData.received(array.reshape(tensor.shape) if tensor.shape else array, dtype)


def decode_forward_backward(result: Mapping[str, Any]) -> ForwardBackwardOutput:
    output = api.ForwardBackwardOutput.from_dict(result)
    return ForwardBackwardOutput(
        loss_fn_output_type=(output.loss_fn_output_type or "").rpartition(":")[2],
        loss_fn_outputs=[
            {name: decode_tensor(tensor) for name, tensor in outputs.additional_properties.items()}
            for outputs in output.loss_fn_outputs
        ],
        metrics=output.metrics.additional_properties if output.metrics else {},
    )


def decode_sample(result: Mapping[str, Any], sequence_ids: Sequence[str]) -> SampleResponse:
    """`sequence_ids` are the promise's; a server that gives none leaves the sequences' ids empty."""
    response = api.SampleResponse.from_dict(result)
    ids = [*sequence_ids, *[""] * len(response.sequences)]
    return SampleResponse(
        sequences=[_decode_sequence(seq, id_) for seq, id_ in zip(response.sequences, ids, strict=False)],
        prompt_logprobs=response.prompt_logprobs or None,
        topk_prompt_logprobs=[
            None if row is None else [(int(token), float(logprob)) for token, logprob in row]
            for row in response.topk_prompt_logprobs
        ]
        if response.topk_prompt_logprobs
        else None,
        prompt_cache_hit_tokens=response.prompt_cache_hit_tokens or 0,
    )


def _decode_sequence(sequence: api.SampledSequence, sequence_id: str) -> SampledSequence:
    return SampledSequence(
        tokens_np=np.asarray(sequence.tokens, dtype=np.int64),
        stop_reason=sequence.stop_reason or "",
        logprobs_np=np.asarray(sequence.logprobs, dtype=np.float32) if sequence.logprobs else None,
        sequence_id=sequence_id,
    )
