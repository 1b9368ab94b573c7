"""Spans say where a datum's tokens come from, and cover them exactly."""

from __future__ import annotations

from typing import Any

import pytest
from tinkex_proto import tinker_pb2 as pb

from tinkex import (
    Datum,
    ImageChunk,
    InvalidInputError,
    ModelInput,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
)
from tinkex.types import EncodedTextChunk
from tinkex.wire import protobuf

DATUM = Datum([1, 2, 3, 4], {"target_tokens": [2, 3, 4, 5]})
PROMPT = PromptProvenanceSpan(sequence_id="s", offset=1, length=3)
SAMPLED = SampledProvenanceSpan(sequence_id="s", length=1)
ALL_SAMPLED = SampledProvenanceSpan(sequence_id="s", length=4)


def test_spans_are_sent_with_their_datum() -> None:
    datum = DATUM.with_provenance([PROMPT, SAMPLED], [ALL_SAMPLED])
    assert DATUM.model_input_spans is None
    assert (datum.model_input_spans, datum.loss_fn_input_spans) == (
        [PROMPT, SAMPLED],
        [ALL_SAMPLED],
    )
    assert (
        datum
        == Datum(DATUM.model_input, DATUM.loss_fn_inputs, [PROMPT, SAMPLED], [ALL_SAMPLED])
        != DATUM
    )
    raw = protobuf.encode_forward_backward("m", 1, [datum], "ppo", None)
    [message] = pb.ForwardBackwardRequest.FromString(raw).data
    assert list(message.model_input_spans) == [
        pb.ProvenanceSpan(
            prompt_tokens=pb.PromptProvenanceSpan(sequence_id="s", offset=1, length=3)
        ),
        pb.ProvenanceSpan(
            sampled_tokens=pb.SampledProvenanceSpan(sequence_id="s", offset=0, length=1)
        ),
    ]
    assert [span.sampled_tokens.length for span in message.loss_fn_input_spans] == [4]


@pytest.mark.parametrize(
    ("model_input", "loss_fn_inputs", "words"),
    [
        (
            [PROMPT],
            [ALL_SAMPLED],
            "model_input_spans must cover the 4 tokens exactly, found spans of 3 tokens",
        ),
        (
            [PROMPT, SAMPLED],
            [SAMPLED],
            "loss_fn_input_spans must cover the 4 tokens exactly, found spans of 1 tokens",
        ),
        ([], [], "model_input_spans must cover the 4 tokens exactly, found spans of 0 tokens"),
        (
            [PROMPT, SAMPLED],
            None,
            "loss_fn_input_spans is missing: expected spans for .* both, or for neither",
        ),
        (None, [ALL_SAMPLED], "model_input_spans is missing"),
        (
            [PROMPT, (0, 1)],
            [ALL_SAMPLED],
            r"model_input_spans\[1\] must be a PromptProvenanceSpan or .*, found tuple",
        ),
    ],
)
def test_spans_that_do_not_cover_the_tokens_are_refused(
    model_input: Any, loss_fn_inputs: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        DATUM.with_provenance(model_input, loss_fn_inputs)


def test_an_image_of_unknown_length_leaves_the_covering_to_the_server() -> None:
    prompt = ModelInput([EncodedTextChunk([1]), ImageChunk(b"", "png")])
    assert Datum(prompt).with_provenance([PROMPT], [SAMPLED]).model_input_spans == [PROMPT]


@pytest.mark.parametrize("kind", [PromptProvenanceSpan, SampledProvenanceSpan])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"sequence_id": "", "length": 1},
            "sequence_id must be a str that is not empty, found ''",
        ),
        ({"sequence_id": 7, "length": 1}, "sequence_id must be a str that is not empty, found 7"),
        ({"sequence_id": "s", "length": -1}, "length must be an int of 0 or more, found -1"),
        ({"sequence_id": "s", "length": 1.0}, r"length must be an int of 0 or more, found 1\.0"),
        (
            {"sequence_id": "s", "length": 1, "offset": -2},
            "offset must be an int of 0 or more, found -2",
        ),
    ],
)
def test_a_bad_span_is_refused(kind: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{kind.__name__}.{words}"):
        kind(**fields)
