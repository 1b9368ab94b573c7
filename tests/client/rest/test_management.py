"""The REST and admin clients on the embedded server, which has all of their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import tinkex
from tests.support.facades import everything
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import saved_folder
from tinkex import (
    AdamParams,
    AuthenticationError,
    Datum,
    ModelInput,
    NotFoundError,
    SessionSearchRequest,
    SessionStatusQuery,
    UnprocessableEntityError,
)
from tinkex.local import Server
from tinkex_server.wire.content import files_of

DATUM = Datum(
    model_input=ModelInput.from_ints([5, 6, 7]), loss_fn_inputs={"target_tokens": [6, 7, 8]}
)


@pytest.fixture(scope="module")
def used() -> Iterator[Server]:
    """A server on which something was trained, in a session of its own."""
    with tinkex.local.serve(engine=RecordingEngine()) as server:
        with tinkex.ServiceClient(
            server.base_url, "tml-test", user_metadata={"experiment": "7"}
        ) as service:
            trainer = service.create_lora_training_client("fake/base", rank=4)
            trainer.forward_backward([DATUM], "cross_entropy").result()
            trainer.optim_step(AdamParams()).result()
            trainer.save_state("state").result()
            trainer.save_weights_for_sampler("weights").result()
            trainer.save_weights_external("files").result()
        yield server


def run_id(rest: Any) -> str:
    return rest.list_training_runs().training_runs[-1].training_run_id


def test_sessions_are_listed_and_described(connect_rest: Callable[..., Any], used: Server) -> None:
    rest = connect_rest(used.base_url)
    session_id = everything(rest.iter_sessions())[-1]
    session = rest.get_session(session_id)
    assert session.training_run_ids == [run_id(rest)]
    assert session.user_metadata["experiment"] == "7"
    with pytest.raises(NotFoundError):
        rest.get_session("S9")


def test_a_session_is_found_by_its_name(
    connect: Callable[..., Any], connect_rest: Callable[..., Any], used: Server
) -> None:
    service = connect(used.base_url, display_name="Poems, second try")
    service.create_lora_training_client("fake/base", rank=4)
    rest = connect_rest(used.base_url)
    found = rest.search_sessions(SessionSearchRequest(display_name="second poems")).sessions[0]
    assert found.display_name == "Poems, second try"
    assert rest.get_session(found.session_id).display_name == "Poems, second try"


def test_searching_and_moving_a_session(connect_rest: Callable[..., Any], used: Server) -> None:
    rest = connect_rest(used.base_url)
    finished = SessionSearchRequest(
        user_metadata={"experiment": "7"},
        statuses=[SessionStatusQuery("client_finished", ["success"])],
    )
    [found] = everything(rest.iter_search_sessions(finished))
    assert (found.status.type, found.status.reason.type) == ("client_finished", "success")
    assert found.checkpoints_count == 3
    assert (
        everything(
            rest.iter_search_sessions(SessionSearchRequest(statuses=[SessionStatusQuery("active")]))
        )
        == []
    )
    rest.assign_session_project(found.session_id, "poems")
    [moved] = rest.search_sessions(SessionSearchRequest(project_ids=["poems"])).sessions
    assert moved.session_id == found.session_id
    assert rest.list_training_runs(project_id="poems").cursor.total_count == 1
    assert rest.list_training_runs(project_id="empty").training_runs == []


def test_a_checkpoint_is_published_and_gets_a_time_to_live(
    connect_rest: Callable[..., Any], used: Server
) -> None:
    rest = connect_rest(used.base_url)
    path = f"tinker://{run_id(rest)}/weights/state"

    def listed() -> Any:
        return next(
            each for each in everything(rest.iter_user_checkpoints()) if each.tinker_path == path
        )

    for _ in range(2):
        rest.publish_checkpoint_from_tinker_path(path)
        assert listed().public
    for _ in range(2):
        rest.unpublish_checkpoint(run_id(rest), "weights/state")
        assert not listed().public
    rest.set_checkpoint_ttl_from_tinker_path(path, 7200)
    assert timedelta(minutes=119) < listed().expires_at - datetime.now(UTC) <= timedelta(hours=2)
    rest.set_checkpoint_ttl(run_id(rest), "weights/state", None)
    assert listed().expires_at is None


def test_a_copy_of_weights(connect_rest: Callable[..., Any], used: Server) -> None:
    rest = connect_rest(used.base_url)
    copy = rest.copy_weights(f"tinker://{run_id(rest)}/weights/state", "prose")
    assert rest.get_weights_info_by_tinker_path(copy).base_model == "fake/base"
    rest.delete_checkpoint_from_tinker_path(copy)


def test_the_trace_of_a_session(connect_rest: Callable[..., Any], used: Server) -> None:
    rest = connect_rest(used.base_url)
    session_id = rest.list_sessions().sessions[-1]
    trace = httpx.get(rest.export_session_trace(session_id)).json()
    assert trace["traceEvents"]


def test_the_audit_log_usage_and_storage_are_reported(
    connect_admin: Callable[..., Any], used: Server
) -> None:
    admin, hour = (
        connect_admin(used.base_url),
        datetime.now(UTC).replace(minute=0, second=0, microsecond=0),
    )
    assert "checkpoint.saved" in {
        entry.event for entry in admin.get_audit_log("checkpoints").entries
    }
    assert admin.get_audit_log(day=datetime(2020, 1, 1, tzinfo=UTC).date()).entries == []
    usage = admin.get_billing_usage(hour - timedelta(hours=1), hour + timedelta(hours=1))
    assert {"training", "checkpoint"} <= {event.event_info.type for event in usage.data}
    with pytest.raises(UnprocessableEntityError):
        admin.get_billing_usage(hour - timedelta(days=15), hour)
    [kept] = admin.get_current_checkpoint_storage_usage().data
    assert kept.checkpoint_count >= 3


def test_an_api_key_is_described_and_revoked(connect_rest: Callable[..., Any]) -> None:
    with tinkex.local.serve(engine=RecordingEngine(), api_key="tml-one") as server:
        rest = connect_rest(server.base_url, api_key="tml-one")
        assert rest.get_api_key_info().key_id == 1
        rest.revoke_api_key()
        with pytest.raises(AuthenticationError):
            rest.list_sessions()


def test_downloads_of_every_kind(
    connect_rest: Callable[..., Any], used: Server, tmp_path: Path
) -> None:
    rest = connect_rest(used.base_url)
    for kind, name in (
        ("weights", "state"),
        ("sampler_weights", "weights"),
        ("external_weights", "files"),
    ):
        seen: list[tuple[int, int | None]] = []
        folder = rest.download_checkpoint(
            f"tinker://{run_id(rest)}/{kind}/{name}",
            output_dir=tmp_path,
            progress=lambda *far, seen=seen: seen.append(far),
        )
        kept = saved_folder(used.data_dir, run_id(rest), kind, name)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in files_of(kept)
        }
        assert seen[-1][0] == seen[-1][1]
    urls = rest.get_external_weights_urls(f"tinker://{run_id(rest)}/external_weights/files")
    assert urls.expires > datetime.now(UTC)
    assert rest.get_checkpoint_archive_url(run_id(rest), "weights/state").expires > datetime.now(
        UTC
    )


def test_a_downloaded_adapter_gives_the_servers_logprobs(
    connect_rest: Callable[..., Any], torch_server: Server, tmp_path: Path
) -> None:
    """The adapter, loaded with peft on the base model, gives the server's own logprobs."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompt = [72, 101, 108, 108, 111]
    with tinkex.ServiceClient(torch_server.base_url, "tml-test") as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4, seed=1)
        datum = Datum(
            model_input=ModelInput.from_ints(prompt[:-1]),
            loss_fn_inputs={"target_tokens": prompt[1:]},
        )
        for _ in range(3):
            trainer.forward_backward([datum], "cross_entropy").result()
            trainer.optim_step(AdamParams(learning_rate=1e-2)).result()
        path = trainer.save_weights_for_sampler("trained").result().path
        served = (
            service.create_sampling_client(model_path=path)
            .compute_logprobs(ModelInput.from_ints(prompt))
            .result()
        )
    folder = connect_rest(torch_server.base_url).download_checkpoint(path, output_dir=tmp_path)

    base = AutoModelForCausalLM.from_pretrained(
        Path(tinkex.__file__).parent / "tiny", dtype=torch.float32
    )
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        untrained = base(tokens).logits.log_softmax(-1)[0, range(4), prompt[1:]]
        logits = PeftModel.from_pretrained(base, folder)(tokens).logits
    loaded = logits.log_softmax(-1)[0, range(4), prompt[1:]]
    assert loaded.tolist() == pytest.approx(served[1:], abs=1e-4)
    assert (loaded - untrained).abs().max() > 0.1
