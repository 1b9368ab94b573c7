"""The reprs of values in a Python shell, and their HTML in a notebook: short, and telling."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from tests.support.recording_engine import RecordingEngine
from tinkex import (
    AdamParams,
    BadRequestError,
    Config,
    Datum,
    ModelInput,
    ServiceClient,
    TensorData,
    get_tokenizer,
)
from tinkex.local import Server
from tinkex.types import (
    Checkpoint,
    CheckpointsListResponse,
    Cursor,
    SampledSequence,
    SampleResponse,
    TrainingRun,
)

HOSTILE = "<script>alert(1)</script>"


def text(html: str) -> str:
    """Returns the text of HTML, with a bar between the cells of a table."""
    return re.sub(r"<[^>]*>", "", re.sub(r"</t[dh]>|</tr>|</caption>", "|", html))


def test_tensors_show_few_values_and_their_type() -> None:
    assert repr(TensorData([1, 2, 3])) == "TensorData([1, 2, 3], dtype='int64')"
    assert repr(TensorData([[1.5, 2], [3, 4]])) == (
        "TensorData([[1.5, 2. ], [3. , 4. ]], dtype='float32')"
    )
    assert repr(TensorData(np.arange(10_000))) == (
        "TensorData([0, 1, 2, …, 9997, 9998, 9999], dtype='int64', shape=[10000])"
    )
    sparse = TensorData([5, 6], "int64", [2, 3], [0, 1, 2], [0, 2])
    assert repr(sparse) == "TensorData(sparse, 2 values, dtype='int64', shape=[2, 3])"


def test_datums_show_their_inputs() -> None:
    datum = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3]})
    assert repr(datum) == (
        "Datum(ModelInput(chunks=[EncodedTextChunk(tokens=[1, 2])]), "
        "{'target_tokens': TensorData([2, 3], dtype='int64')})"
    )


def test_generated_models_leave_out_what_is_absent() -> None:
    run = TrainingRun("run-1", "tinkex/tiny", lora_rank=8)
    assert (
        repr(run) == "TrainingRun(training_run_id='run-1', base_model='tinkex/tiny', lora_rank=8)"
    )
    run["colour"] = "red"
    assert repr(run).endswith("lora_rank=8, additional_properties={'colour': 'red'})")
    assert repr(AdamParams(learning_rate=0.1)).startswith("AdamParams(learning_rate=0.1, beta1=")


def page(count: int) -> CheckpointsListResponse:
    made = [
        Checkpoint(
            checkpoint_id=f"weights/{number}",
            checkpoint_type="training",
            time=datetime(2026, 11, 29, 12, number, tzinfo=UTC),
            tinker_path=f"tinker://r/weights/{HOSTILE if number == 0 else number}",
        )
        for number in range(count)
    ]
    return CheckpointsListResponse(made, Cursor(0, 100, total_count=41))


def test_long_lists_are_cut_and_say_so() -> None:
    shown = repr(page(5))
    assert shown.count("Checkpoint(") == 3
    assert ", … 2 more]" in shown
    assert "time=2026-11-29T12:00:00Z" in shown


def test_lists_are_tables_in_a_notebook_without_empty_columns() -> None:
    html = page(2)._repr_html_()
    assert html.startswith("<table><caption>checkpoints: 2 of 41</caption>")
    assert text(html).startswith("checkpoints: 2 of 41|checkpoint_id|checkpoint_type|time|")
    assert html.count("<tr>") == 3
    assert "expires_at" not in html
    assert "<script>" not in html
    assert text(TrainingRun("run-1", "tinkex/tiny")._repr_html_()) == (
        "|TrainingRun||training_run_id|run-1||base_model|tinkex/tiny||"
    )


def sequence(tokens: list[int], logprobs: list[float] | None = None) -> SampledSequence:
    return SampledSequence(
        "stop",
        "id",
        np.array(tokens, np.int64),
        None if logprobs is None else np.array(logprobs, np.float32),
    )


def test_samples_show_tokens_colored_by_probability() -> None:
    drawn = SampleResponse([sequence([104, 105], [-0.01, -5.0])])
    assert repr(drawn) == (
        "SampleResponse([SampledSequence(tokens=[104, 105], stop_reason='stop')])"
    )
    html = drawn._repr_html_()
    likely, unlikely = re.findall(r"background:#(..)(..)..;", html)
    assert likely[0] < likely[1]  # more green than red
    assert unlikely[0] > unlikely[1]
    assert 'title="99.0%, logprob -0.010"' in html
    assert text(html) == "104 105  (stop)"
    assert "… 96 more" in repr(SampleResponse([sequence([1])] * 100))


def test_samples_show_text_where_the_tokenizer_is_loaded() -> None:
    get_tokenizer("tinkex/tiny")
    drawn = SampleResponse([sequence([*b"<b>"], [-1.0] * 3)])
    object.__setattr__(drawn, "base_model", "tinkex/tiny")
    copy = pickle.loads(pickle.dumps(drawn))
    for one in (drawn, copy):
        assert "SampledSequence(text='<b>', tokens=[60, 98, 62]" in repr(one)
    assert text(drawn._repr_html_()) == "&lt;b&gt; (stop)"


def test_errors_say_in_a_notebook_whose_fault_it_is() -> None:
    error = BadRequestError(HOSTILE, status_code=400, advice="Choose another.")
    assert text(error._repr_html_()) == (
        "BadRequestError: &lt;script&gt;alert(1)&lt;/script&gt;fault: user; a retry does not help"
        "Choose another."
    )


def test_settings_show_what_is_not_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_TIMEOUT", "20")
    config = Config(base_url="http://127.0.0.1:1", api_key="tml-secret")
    assert repr(config) == ("<Config base_url=http://127.0.0.1:1 api_key=(hidden) timeout=20.0>")
    assert "|timeout|20.0|TINKEX_TIMEOUT||" in text(config._repr_html_())
    assert "tml-secret" not in config._repr_html_()


def test_what_comes_from_a_server(server: Server, server_engine: RecordingEngine) -> None:
    get_tokenizer("tinkex/tiny")
    with ServiceClient(base_url=server.base_url, api_key="tml-test") as service:
        trainer = service.create_lora_training_client("fake/base")
        datum = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3]})
        server_engine.gate.clear()
        future = trainer.forward_backward([datum] * 5, "cross_entropy")
        waiting, waiting_html = repr(future), future._repr_html_()
        server_engine.gate.set()
        output = future.result()
        failed = trainer.forward_backward([datum], "no such loss")
        assert failed.exception() is not None
        sampled = service.create_sampling_client(base_model="fake/base").sample([1], 1)
        capabilities = service.get_server_capabilities()
        server_html = service.server._repr_html_()
        assert repr(service.server) == "<Dialect tinkex: the embedded server of tinkex>"
        assert sampled.result().base_model == "fake/base"
    assert re.fullmatch(r"<APIFuture forward_backward( request_id=\w+)? done=False>", waiting)
    assert waiting_html.startswith("<code>&lt;APIFuture forward_backward")
    assert re.fullmatch(r"<APIFuture forward_backward request_id=\w+ done=True>", repr(future))
    assert "failed: BadRequestError: 400 unknown loss_fn 'no such loss'" in repr(failed)
    assert re.fullmatch(
        r"ForwardBackwardOutput\(metrics=\{.*\}, loss_fn_outputs=<logprobs of 5 datums>\)",
        repr(output),
    )
    assert "ForwardBackwardOutput of 5 datums|metric|value||" in text(output._repr_html_())
    assert text(capabilities._repr_html_()).startswith("supported_models: 1|model_name|")
    assert "|seq_id_repeats|&#x27;repeats&#x27;|said||" in text(server_html)
