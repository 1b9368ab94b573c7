"""The table of dialects, against the contract and the embedded server's profiles; and which dialect a server's first answers lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tinkex_api.models import ClientConfigResponse, ClientDynamicConfigResponse

from tinkex.dialects import fate
from tinkex.dialects.dialect import Dialect
from tinkex.dialects.recognition import RECOGNISED, Seen, recognise, with_flags
from tinkex.dialects.table import DIALECTS, UNKNOWN
from tinkex.local.profiles import PROFILES, Profile
from tinkex.local.routes import server as embedded

CONTRACT = yaml.safe_load((Path(__file__).parents[1] / "openapi" / "tinker.yaml").read_text())
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
    "open-rl-old": "open-rl",
    "arctic": "unknown",
    "twinkle": "unknown",
    "mlx-tinker": "unknown",
}
"""What a server that cannot be told from others is taken for."""


def flags(profile: Profile, operation: str, own: Any, kind: Any) -> Any:
    """What a server of this profile answers to a question for its flags; None where it lacks the call."""
    if f"POST {operation}" in profile.missing:
        return None
    reply = profile.replies.get(operation)
    return kind.from_dict(reply.body if reply else own.to_dict())


def first_contact(profile: Profile) -> Seen:
    config = flags(profile, "client/config", embedded._FLAGS, ClientConfigResponse)
    return Seen(
        hosted=False,
        config=config,
        dynamic=flags(profile, "client/dynamic_config", embedded._CHANGING_FLAGS, ClientDynamicConfigResponse) if config else None,
        has_capabilities="GET get_server_capabilities" not in profile.missing,
        has_health="GET healthz" not in profile.missing,
    )


def seen(config: dict[str, Any] | None = None, **facts: Any) -> Seen:
    known = {"hosted": False, "dynamic": None, "has_capabilities": True, "has_health": True}
    return Seen(config=None if config is None else ClientConfigResponse.from_dict(config), **{**known, **facts})


def test_every_dialect_can_be_tried_on_a_profile_of_its_name() -> None:
    assert list(DIALECTS) == list(PROFILES)


@pytest.mark.rule(1, 20)
@pytest.mark.parametrize("name", CONTRACT["x-tinker-servers"])
def test_the_table_and_the_contract_agree_on_what_a_server_lacks(name: str) -> None:
    spoken_of = {operation for dialect in DIALECTS.values() for operation in dialect.missing}
    lacking = {operation for operation, facts in OPERATIONS.items() if name in facts.get("x-tinker-missing-on", ())}
    assert set(DIALECTS[name].missing) == lacking & spoken_of


def test_what_the_table_calls_missing_is_of_the_contract() -> None:
    for dialect in DIALECTS.values():
        assert dialect.missing.keys() <= OPERATIONS.keys()


@pytest.mark.rule(1)
@pytest.mark.parametrize("name", PROFILES)
def test_a_server_is_recognised_by_its_first_answers(name: str) -> None:
    assert recognise(first_contact(PROFILES[name])).name == LOOK_ALIKES.get(name, name)


def test_whoever_is_recognised_is_tried() -> None:
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
    ],
)
def test_what_is_no_sign_leads_to_what_is_safe_on_all(first: Seen, name: str) -> None:
    assert recognise(first).name == name


@pytest.mark.rule(4)
@pytest.mark.parametrize("name", PROFILES)
def test_the_encoding_of_a_server_that_is_guessed_is_not_taken_for_certain(name: str) -> None:
    dialect = recognise(first_contact(PROFILES[name]))
    assert dialect.encodings == (
        ("protobuf",) if name == "tinkex" else tuple(dict.fromkeys((*dialect.encodings, "json", "protobuf")))
    )
    if dialect.name == name:
        assert dialect.encodings[0] == DIALECTS[name].encodings[0]


@pytest.mark.rule(4, 10, 13, 18)
def test_a_servers_own_flags_go_before_the_table() -> None:
    config = ClientConfigResponse(
        parallel_fwdbwd_chunks=False,
        fwdbwd_max_chunk_len=7,
        fwdbwd_max_chunk_bytes_count=70,
        proto_compress_fwdbwd=True,
        create_model_via_load_weights=True,
        seq_id_repeats="refuses",
    )
    flagged = with_flags(DIALECTS["hosted-0.25"], config, ClientDynamicConfigResponse(sample_cancel_enabled=True))
    assert not flagged.parallel_chunks
    assert (flagged.chunk_limits.max_items, flagged.chunk_limits.max_size) == (7, 70)
    assert flagged.compress_protobuf
    assert flagged.resume == "by_session"
    assert flagged.seq_id_repeats == "refuses"
    assert flagged.cancels


@pytest.mark.rule(10, 18)
def test_flags_that_are_missing_zero_or_unknown_change_nothing() -> None:
    config = ClientConfigResponse(fwdbwd_max_chunk_len=0, fwdbwd_max_chunk_bytes_count=0, seq_id_repeats="by moonlight")
    for dialect in (UNKNOWN, DIALECTS["tuft"], DIALECTS["skyrl"]):
        assert with_flags(dialect, config, None) == dialect
    assert not with_flags(UNKNOWN, None, None).parallel_chunks, "together only where the server says so"


@pytest.mark.rule(11)
def test_a_server_that_is_not_known_is_sent_nothing_twice() -> None:
    assert fate.verdict("unanswered", "optim_step", Dialect().seq_id_repeats) == "unknown"
    assert Dialect() == UNKNOWN
