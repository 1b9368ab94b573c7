"""Conversions between the users' types and JSON: prompts and arrays to the generated types, results
back.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from tinkex_api import models as api
from tinkex_api.types import write_json

from tinkex.errors import InvalidInputError
from tinkex.types import (
    CheckpointSearchRequest,
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    SessionSearchRequest,
    TensorData,
    TopkLogprobs,
)
from tinkex.types.arrays import array_of
from tinkex.wire.sample_results import (
    logprobs_from_first_token,
    sequence_ids,
    topk_from_first_token,
)


def encode_metadata(facts: Mapping[str, str] | None) -> api.UserMetadata | None:
    """Converts metadata; returns None, which is not sent, for none. Raises `InvalidInputError` for
    a name or a value that is not a text.
    """
    for name, value in (facts or dict[str, str]()).items():
        if not (isinstance(name, str) and isinstance(value, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"user_metadata[{name!r}] must map a text to a text, found {value!r}"
            )
    return api.UserMetadata.from_dict(facts) if facts else None


def encode_session_search(request: SessionSearchRequest) -> api.SessionSearchRequest:
    return api.SessionSearchRequest(
        session_id=request.session_id,
        project_ids=None if request.project_ids is None else list(request.project_ids),
        user_metadata=encode_metadata(request.user_metadata),
        display_name=request.display_name,
        owner=request.owner,
        statuses=None if request.statuses is None else list(request.statuses),
        limit=request.limit,
        cursor=request.cursor,
    )


def encode_checkpoint_search(request: CheckpointSearchRequest) -> api.CheckpointSearchRequest:
    return api.CheckpointSearchRequest(
        project_ids=None if request.project_ids is None else list(request.project_ids),
        user_metadata=encode_metadata(request.user_metadata),
        checkpoint_type=request.checkpoint_type,
        owner=request.owner,
        base_models=None if request.base_models is None else list(request.base_models),
        limit=request.limit,
        cursor=request.cursor,
    )


def encode_model_input(value: ModelInput) -> api.ModelInput:
    return api.ModelInput([_encode_chunk(chunk) for chunk in value.with_texts_joined().chunks])


def _encode_chunk(chunk: ModelInputChunk) -> api.ModelInputChunk:
    match chunk:
        case EncodedTextChunk():
            return api.ModelInputChunk("encoded_text", tokens=chunk.tokens_to_send)  # pyright: ignore[reportArgumentType] # orjson writes arrays
        case ImageChunk(data, format, expected):
            return api.ModelInputChunk(
                "image",
                data=base64.b64encode(data).decode(),
                format=format,
                expected_tokens=expected,
            )
        case ImageAssetPointerChunk(location, format, expected):
            return api.ModelInputChunk(
                "image_asset_pointer", location=location, format=format, expected_tokens=expected
            )
        case DmelChunk(dmel):
            return api.ModelInputChunk("dmel", dmel=base64.b64encode(dmel).decode())


def batch_without_data(
    loss_fn: str, config: Mapping[str, float | str] | None
) -> api.ForwardBackwardInput:
    """Returns a batch whose datums `with_data` adds once it is written."""
    return api.ForwardBackwardInput(
        data=[],
        loss_fn=loss_fn,
        loss_fn_config=api.LossFnConfig.from_dict(config) if config else None,
    )


_NO_DATA = b'"data":[]'
"""The data of a batch without datums, which no string in JSON can contain: its quotes would be
escaped.
"""


def with_data(body: bytes, data: Sequence[Datum]) -> bytes:
    """Returns a body whose batch is empty with these datums in it.

    Between the datums of a large batch other threads can run, above all that of the event loop. A
    buffer that grows in place needs no second copy of it.
    """
    before, empty, after = body.partition(_NO_DATA)
    filled = BytesIO()
    filled.write(before + empty[:-1])
    for index, datum in enumerate(data):
        if index:
            filled.write(b",")
        filled.write(write_json(_encode_datum(datum).to_dict()))
    filled.write(empty[-1:] + after)
    return filled.getvalue()


def _encode_datum(datum: Datum) -> api.Datum:
    """Converts a datum without its spans, which have no JSON form."""
    inputs = api.LossFnInputs()
    for name, tensor in datum.loss_fn_inputs.items():
        inputs[name] = encode_tensor(tensor)
    return api.Datum(encode_model_input(datum.model_input), inputs)


def encode_tensor(tensor: TensorData) -> api.TensorData:
    _, crow, col = tensor.csr or (None, None, None)
    # orjson writes the arrays itself
    return api.TensorData(
        data=tensor.values.ravel(),  # pyright: ignore[reportArgumentType]
        dtype=tensor.dtype,
        shape=list(tensor.shape),
        sparse_crow_indices=crow,  # pyright: ignore[reportArgumentType]
        sparse_col_indices=col,  # pyright: ignore[reportArgumentType]
    )


def decode_tensor(tensor: api.TensorData) -> TensorData:
    """Converts a tensor. Its dtype is float32 unless it declares integers, and it is flat unless it
    has a shape.
    """
    dtype = "int64" if (tensor.dtype or "").startswith(("int", "uint")) else "float32"
    # null stands for NaN, which JSON lacks; `received` skips the check for NaN, which is for data
    # that is sent
    array = array_of(tensor.data, np.int64 if dtype == "int64" else np.float32)
    if tensor.sparse_crow_indices is not None and tensor.sparse_col_indices is not None:
        indices = (
            np.asarray(tensor.sparse_crow_indices, np.int64),
            np.asarray(tensor.sparse_col_indices, np.int64),
        )
        return TensorData.received_sparse((array, *indices), dtype, tuple(tensor.shape or ()))
    return TensorData.received(array.reshape(tensor.shape) if tensor.shape else array, dtype)


def decode_forward_backward(result: Mapping[str, Any]) -> ForwardBackwardOutput:
    output = api.ForwardBackwardOutput.from_dict(result)
    return ForwardBackwardOutput(
        loss_fn_output_type=(output.loss_fn_output_type or "").rpartition(":")[2],
        loss_fn_outputs=[
            {name: decode_tensor(tensor) for name, tensor in outputs.items()}
            for outputs in output.loss_fn_outputs
        ],
        metrics=_metrics(output.metrics),
        additional_properties=output.additional_properties,
    )


def _metrics(metrics: api.Metrics | None) -> dict[str, float]:
    """Converts metrics, where null stands for NaN."""
    return {
        name: math.nan if value is None else value  # pyright: ignore[reportUnnecessaryComparison]
        for name, value in (metrics or dict[str, float]()).items()
    }


def decode_sample(
    result: Mapping[str, Any], promise: api.UntypedAPIFuture, prompt_length: int | None
) -> SampleResponse:
    """Converts the result of a sample request.

    Args:
        promise: the server's first answer to the request.
        prompt_length: the number of tokens in the prompt, if it is known.
    """
    response = api.SampleResponse.from_dict(result)
    ids = sequence_ids(promise, len(response.sequences))
    logprobs = (
        np.asarray(response.prompt_logprobs, np.float32) if response.prompt_logprobs else None
    )
    alternatives = response.prompt_alt_tokens
    return SampleResponse(
        sequences=[
            _decode_sequence(seq, id_) for seq, id_ in zip(response.sequences, ids, strict=True)
        ],
        prompt_logprobs_np=logprobs_from_first_token(logprobs, prompt_length),
        topk_prompt_logprobs_np=topk_from_first_token(
            _decode_topk(response.topk_prompt_logprobs), prompt_length
        ),
        target_prompt_logprobs=decode_tensor(response.target_prompt_logprobs)
        if response.target_prompt_logprobs
        else None,
        prompt_cache_hit_tokens=response.prompt_cache_hit_tokens or 0,
        prompt_alt_tokens=PromptAltTokens(
            decode_tensor(alternatives.tokens), decode_tensor(alternatives.logprobs)
        )
        if alternatives
        else None,
        additional_properties=response.additional_properties,
    )


def _decode_sequence(sequence: api.SampledSequence, sequence_id: str) -> SampledSequence:
    return SampledSequence(
        stop_reason=sequence.stop_reason or "",
        sequence_id=sequence_id,
        tokens_np=np.asarray(sequence.tokens, dtype=np.int64),
        logprobs_np=np.asarray(sequence.logprobs, dtype=np.float32) if sequence.logprobs else None,
        topk_logprobs_np=_decode_topk(sequence.topk_sampled_logprobs),
        additional_properties=sequence.additional_properties,
    )


def _decode_topk(rows: Sequence[Sequence[Sequence[float]] | None] | None) -> TopkLogprobs | None:
    return TopkLogprobs.from_rows(rows) if rows else None
