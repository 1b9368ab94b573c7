"""The table of dialects against the contract and the embedded server's profiles, and the
recognition of a dialect by first answers.
"""

from __future__ import annotations

from typing import Any

import pytest
from tinkex_api.models import ClientConfigResponse, ClientDynamicConfigResponse

from tests.support.contract import CONTRACT
from tests.support.first_contact import first_contact
from tinkex.dialects import resend
from tinkex.dialects.detect import (
    RECOGNISED,
    FirstAnswers,
    has_route,
    recognise,
    with_flags,
)
from tinkex.dialects.dialect import Dialect
from tinkex.dialects.table import DIALECTS, UNKNOWN
from tinkex_server.profiles import PROFILES

OPERATIONS = {
    operation["operationId"]: operation
    for item in CONTRACT["paths"].values()
    for method, operation in item.items()
    if method in ("get", "post", "put", "delete")
}
LOOK_ALIKES = {
    "hosted": "unknown",  # it is known by its address alone
    "hosted-0.25": "unknown",
    "skyrl": "skyrl-0.3",
    "arctic": "unknown",
    "mlx-tinker": "unknown",
}
"""The dialects that servers without signs of their own are taken for."""


SKYRL = {"pjwt_auth_enabled": False}
OPEN_RL = {"sample_dispatch_bytes_semaphore_size": 10_485_760, "proto_write_fwdbwd": False}
SPINDLE = {
    "proto_write_fwdbwd": True,
    "parallel_fwdbwd_chunks": True,
    "create_model_via_load_weights": True,
}


def seen(config: dict[str, Any] | None = None, **facts: Any) -> FirstAnswers:
    known = {"hosted": False, "dynamic": None, "has_capabilities": True, "has_health": True}
    return FirstAnswers(
        config=None if config is None else ClientConfigResponse.from_dict(config),
        **{**known, **facts},
    )


def test_every_dialect_can_be_tried_on_a_profile_of_its_name() -> None:
    assert list(DIALECTS) == list(PROFILES)


@pytest.mark.rule(1, 20)
@pytest.mark.parametrize("name", CONTRACT["x-tinker-servers"])
def test_the_table_and_the_contract_agree_on_what_a_server_lacks(name: str) -> None:
    spoken_of = {operation for dialect in DIALECTS.values() for operation in dialect.missing}
    lacking = {
        operation
        for operation, facts in OPERATIONS.items()
        if name in facts.get("x-tinker-missing-on", ())
    }
    assert set(DIALECTS[name].missing) == lacking & spoken_of


def test_missing_operations_of_the_table_are_in_the_contract() -> None:
    for dialect in DIALECTS.values():
        assert dialect.missing.keys() <= OPERATIONS.keys()


@pytest.mark.rule(1)
@pytest.mark.parametrize("name", PROFILES)
def test_a_server_is_recognised_by_its_first_answers(name: str) -> None:
    assert recognise(first_contact(PROFILES[name])).name == LOOK_ALIKES.get(name, name)


def test_every_detected_dialect_is_tested() -> None:
    found = {recognise(first_contact(profile)).name for profile in PROFILES.values()}
    assert found - {"unknown"} == RECOGNISED - {"hosted"}
    assert recognise(seen({}, hosted=True)).name == "hosted"


@pytest.mark.rule(1)
@pytest.mark.parametrize(
    ("first", "name"),
    [
        (seen({"no_such_flag": True}), "unknown"),
        (seen({}), "unknown"),
        (seen({}, dynamic=ClientDynamicConfigResponse()), "miles"),
        (seen({"pjwt_auth_enabled": False, "another": 1}), "unknown"),
        (seen(None), "unknown"),
        (seen(None, has_health=False), "tinker-cloud-old"),
        (seen(None, has_capabilities=False, has_health=False), "xorl"),
        (seen(None, request_ids=True), "twinkle"),
        (seen(None, request_ids=True, has_capabilities=False), "xorl"),
        (seen({"no_such_flag": True}, request_ids=True), "unknown"),
        (seen(SKYRL), "skyrl-0.3"),
        (seen(SKYRL, has_telling_route=False), "skyrl-0.3"),
        (seen(SKYRL, has_telling_route=True), "skyrl-0.4"),
        (seen(OPEN_RL), "open-rl"),
        (seen(OPEN_RL, has_telling_route=True), "open-rl"),
        (seen(OPEN_RL, has_telling_route=False), "open-rl-old"),
        (seen(SPINDLE, has_telling_route=True), "spindle"),
        # it may be the hosted service at another address
        (seen(SPINDLE, has_telling_route=False), "unknown"),
    ],
)
def test_unknown_signs_lead_to_the_safe_defaults(first: FirstAnswers, name: str) -> None:
    assert recognise(first).name == name


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, {"detail": "Not Found"}, False),
        (404, {"error": "Not Found"}, False),
        (405, {"detail": "Method Not Allowed"}, False),
        (404, {"detail": "no profiling is under way"}, True),
        (200, {"deployments": []}, True),
        (200, [], True),
        (401, {"detail": "no key"}, None),  # which may come before a route is looked for
        (404, "default backend - 404", None),  # of what stands before a server
        (200, "<html>", None),
        (502, {"detail": "bad gateway"}, None),
    ],
)
def test_an_answer_shows_whether_a_route_exists(status: int, body: Any, told: bool | None) -> None:
    assert has_route(status, body) is told


@pytest.mark.rule(4)
@pytest.mark.parametrize("name", PROFILES)
def test_the_encoding_of_a_guessed_dialect_may_be_changed(name: str) -> None:
    dialect = recognise(first_contact(PROFILES[name]))
    assert dialect.encodings == (
        ("protobuf",)
        if name in ("tinkex", "spindle")
        else tuple(dict.fromkeys((*dialect.encodings, "json", "protobuf")))
    )
    if dialect.name == name:
        assert dialect.encodings[0] == DIALECTS[name].encodings[0]


@pytest.mark.rule(4, 10, 13, 18)
def test_a_servers_own_flags_take_precedence_over_the_table() -> None:
    config = ClientConfigResponse(
        parallel_fwdbwd_chunks=False,
        fwdbwd_max_chunk_len=7,
        fwdbwd_max_chunk_bytes_count=70,
        proto_compress_fwdbwd=True,
        create_model_via_load_weights=True,
        seq_id_repeats="refuses",
        reports_state_loss=True,
    )
    flagged = with_flags(
        DIALECTS["hosted-0.25"], config, ClientDynamicConfigResponse(sample_cancel_enabled=True)
    )
    assert not flagged.parallel_chunks
    assert (flagged.chunk_limits.max_items, flagged.chunk_limits.max_size) == (7, 70)
    assert flagged.compress_protobuf
    assert flagged.resume == "by_session"
    assert flagged.seq_id_repeats == "refuses"
    assert flagged.reports_state_loss
    assert flagged.cancels


@pytest.mark.rule(10, 18)
def test_flags_that_are_missing_zero_or_unknown_change_nothing() -> None:
    config = ClientConfigResponse(
        fwdbwd_max_chunk_len=0, fwdbwd_max_chunk_bytes_count=0, seq_id_repeats="by moonlight"
    )
    for dialect in (UNKNOWN, DIALECTS["tuft"], DIALECTS["skyrl"]):
        assert with_flags(dialect, config, None) == dialect
    assert not with_flags(UNKNOWN, None, None).parallel_chunks, (
        "together only where the server says so"
    )


@pytest.mark.rule(11)
def test_a_server_that_is_not_known_is_sent_nothing_twice() -> None:
    assert resend.decide("unanswered", "optim_step", Dialect().seq_id_repeats) == "unknown"
    assert Dialect() == UNKNOWN
