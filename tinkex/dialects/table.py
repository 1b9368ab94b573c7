"""The dialects of the known servers, by name.

Each was read in the server's source code; `tinkex.dialects.measured` has the measurements of
running servers. Any other server is treated as `UNKNOWN`, whose rules are safe on all.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from tinkex.dialects.dialect import Dialect, Evidence, SamplingRules
from tinkex.dialects.measured import evidence_of

UNKNOWN = Dialect()


_SURVEY = "2026-11-23"
_LATER = "November 2026"  # after the survey; the day was not recorded


def _read(release: str, day: str = _SURVEY) -> Evidence:
    return Evidence("read", release, day)


OPTIONAL = (
    *(
        "get_client_config",
        "get_dynamic_config",
        "get_server_capabilities",
        "health",
        "send_telemetry",
        "create_auth_token",
    ),
    *(
        "finish_session",
        "list_sessions",
        "get_session",
        "search_sessions",
        "assign_session_project",
        "export_session_trace",
    ),
    *("get_info", "unload_model", "get_weights_info", "forward", "load_weights"),
    *("copy_weights", "save_weights_external", "get_external_weights_urls", "create_custom_loss"),
    *("sample", "get_sampler", "join_sampling_session", "retrieve_futures", "cancel_future"),
    *("list_training_runs", "get_training_run", "list_checkpoints", "list_user_checkpoints"),
    *(
        "delete_checkpoint",
        "publish_checkpoint",
        "unpublish_checkpoint",
        "set_checkpoint_ttl",
        "get_checkpoint_archive_url",
    ),
    *(
        "get_audit_log",
        "get_billing_usage",
        "get_checkpoint_storage_usage",
        "get_api_key_info",
        "revoke_api_key",
    ),
)
"""The operations of the API that some servers lack."""

_USUAL = (
    "health",
    "send_telemetry",
    "get_server_capabilities",
    "get_info",
    "load_weights",
    "sample",
)
"""The optional operations that nearly all servers have."""

_INSTEAD = {
    "forward": (
        "There a forward is a forward_backward with a flag, which this client sends by itself if "
        "it can."
    ),
    "get_info": "The name of the base model is the one in the call that created the client.",
    "unload_model": "The server frees models by itself.",
    "finish_session": "The server ends sessions by itself.",
    "get_weights_info": "Give base_model and rank, since the server does not tell them.",
    "get_checkpoint_archive_url": (
        "Save the weights with save_weights_external, and download those files."
    ),
}
"""The advice for a missing operation, if there is any."""

UNEXPECTEDLY_MISSING = {
    **_INSTEAD,
    "forward": (
        "If it is open-rl of April 2026, use Config(dialect='open-rl-old'): a forward is then sent "
        "as a forward_backward of cross_entropy with all weights 0, which adds no gradient. For "
        "another server, look for a newer release."
    ),
}
"""The advice for an operation that a server was not known to lack."""


def _all_but(*there: str, **instead: str) -> Mapping[str, str]:
    """Returns the optional operations except these and the usual ones, each with advice.

    Args:
        there: operations that the server has.
        instead: operations that it lacks, with advice on what to do instead.
    """
    absent = (name for name in OPTIONAL if name not in (*there, *_USUAL) or name in instead)
    return {name: instead.get(name) or _INSTEAD.get(name, "") for name in absent}


_IS_AND_PPO = frozenset({"cross_entropy", "importance_sampling", "ppo"})
_ALL_RATIOS = _IS_AND_PPO | {"cispo", "dro"}
_UP_TO_THE_CONTEXT = SamplingRules(default_max_tokens=None)

_DIALECTS = (
    Dialect(
        name="tinkex",
        about="the embedded server of tinkex",
        source=Evidence("measured", "this release", "each run of its tests"),
        encodings=("protobuf",),
        parallel_chunks=True,
        pending="408",
        hold=20.0,
        cancels=True,
        seq_id_order="ordered",
        seq_id_repeats="repeats",
        inflight_saves=True,
        loads_are_true=True,
        resume="by_session",
        streams_samples=True,
        serves_tokenizers=True,
        keeps_metrics=True,
        sampling=_UP_TO_THE_CONTEXT,
    ),
    Dialect(
        name="hosted",
        about="the hosted service, as its client 0.38 needs it",
        source=_read("client 0.38"),
        encodings=("protobuf",),
        results="protobuf",
        parallel_chunks=True,
        hold=30.0,
        seq_id_order="ordered",
        seq_id_repeats="repeats",
        missing={
            name: _INSTEAD.get(name, "")
            for name in ("unload_model", "forward", "get_checkpoint_archive_url")
        },
        inflight_saves=True,
        resume="by_session",
        sampling=_UP_TO_THE_CONTEXT,
    ),
    Dialect(
        name="hosted-0.25",
        about="the hosted service at the time of its client 0.25",
        source=_read("client 0.25"),
        encodings=("protobuf",),
        results="protobuf",
        parallel_chunks=True,
        hold=30.0,
        seq_id_order="ordered",
        seq_id_repeats="repeats",
        missing={
            name: _INSTEAD.get(name, "")
            for name in (
                "forward",
                "finish_session",
                "join_sampling_session",
                "retrieve_futures",
                "cancel_future",
                "create_custom_loss",
            )
        },
        sampling=_UP_TO_THE_CONTEXT,
    ),
    Dialect(
        name="skyrl-0.3",
        about="NovaSky-AI/SkyRL, release 0.3",
        source=_read("0.3.0", _LATER),
        encodings=("json",),
        results="json",
        pending="408",
        failed="400",
        hold=300.0,
        seq_id_repeats="ignores",
        overtakes=True,
        divides_by_weights=True,
        bare_archive_ids=True,
        loads_keep_optimizer=True,
        loads_are_true=True,
        missing=_all_but(
            *("get_client_config", "unload_model", "get_weights_info", "forward", "get_sampler"),
            *(
                "list_training_runs",
                "get_training_run",
                "list_checkpoints",
                "get_checkpoint_archive_url",
            ),
        ),
    ),
    Dialect(
        name="skyrl",
        about="NovaSky-AI/SkyRL, main of August 2026",
        source=_read("main of 2026-08-21"),
        encodings=("protobuf",),
        pending="408",
        failed="400",
        hold=300.0,
        seq_id_repeats="repeats",
        overtakes=True,
        divides_by_weights=True,
        bare_archive_ids=True,
        missing=_all_but(
            *("get_client_config", "unload_model", "get_weights_info", "forward", "get_sampler"),
            *(
                "list_training_runs",
                "get_training_run",
                "list_checkpoints",
                "delete_checkpoint",
                "get_checkpoint_archive_url",
            ),
        ),
    ),
    Dialect(
        name="skyrl-0.4",
        about="NovaSky-AI/SkyRL, release 0.4",
        source=_read("0.4.0", _LATER),
        encodings=("protobuf",),
        results="protobuf",
        pending="408",
        failed="400",
        hold=300.0,
        seq_id_repeats="repeats",
        overtakes=True,
        divides_by_weights=True,
        bare_archive_ids=True,
        missing=_all_but(
            *("get_client_config", "unload_model", "get_weights_info", "get_sampler"),
            *(
                "list_training_runs",
                "get_training_run",
                "list_checkpoints",
                "delete_checkpoint",
                "get_checkpoint_archive_url",
            ),
        ),
    ),
    Dialect(
        name="open-rl-old",
        about="gke-labs/open-rl up to v0.0.3",
        source=_read("2026-04-29"),
        encodings=("json",),
        results="json",
        failed="400",
        hold=60.0,
        seq_id_repeats="ignores",
        missing=_all_but(
            "get_client_config",
            forward=(
                "Use forward_backward of cross_entropy with all weights 0, which adds no gradient."
            ),
        ),
        asks_to_save_optimizer=True,
        forwards_by_zero_weights=True,
        losses=_IS_AND_PPO,
        sampling=SamplingRules(base_models=False, prompt_logprobs=False, seeds=False, stops=False),
    ),
    Dialect(
        name="open-rl",
        about="gke-labs/open-rl from v0.0.4",
        source=_read("v0.0.4"),
        encodings=("protobuf",),
        failed="400",
        hold=60.0,
        seq_id_repeats="ignores",
        missing=_all_but("get_client_config", "get_weights_info", "forward", "get_sampler"),
        forwards_by_zero_weights=True,
        asks_to_save_optimizer=True,
        losses=_IS_AND_PPO,
    ),
    Dialect(
        name="tuft",
        about="agentscope-ai/TuFT, August 2026",
        source=_read("2026-08-20"),
        encodings=("protobuf",),
        max_body_bytes=64 * 2**20,
        failed="422",
        fails_by_kind=True,
        hold=120.0,
        seq_id_order="strict",
        seq_id_repeats="refuses",
        failed_step_keeps_number=True,
        missing=_all_but(
            *(
                "get_client_config",
                "create_auth_token",
                "list_sessions",
                "get_session",
                "unload_model",
                "get_weights_info",
            ),
            *(
                "get_sampler",
                "list_training_runs",
                "get_training_run",
                "list_checkpoints",
                "list_user_checkpoints",
            ),
            *(
                "delete_checkpoint",
                "publish_checkpoint",
                "unpublish_checkpoint",
                "get_checkpoint_archive_url",
            ),
        ),
        losses=_ALL_RATIOS,
    ),
    Dialect(
        name="tinker-cloud-old",
        about="GMISWE/tinker-cloud up to August 2026",
        source=_read("2026-08-06"),
        encodings=("json",),
        results="json",
        pending="408",
        failed="400",
        seq_id_repeats="ignores",
        missing=_all_but(
            *(
                "list_sessions",
                "get_session",
                "unload_model",
                "get_weights_info",
                "forward",
                "get_sampler",
                "get_training_run",
            ),
            health="It answers at /health.",
            load_weights=(
                "It loads a checkpoint only into a new model: use "
                "create_training_client_from_state."
            ),
        ),
        loss_notes={"ppo": "its verl backend trains plain importance sampling"},
        resume="by_create",
        tells_rank=False,
        sampling=SamplingRules(base_models=False, max_tokens=4096),
    ),
    Dialect(
        name="tinker-cloud",
        about="GMISWE/tinker-cloud from September 2026",
        source=_read("September 2026"),
        encodings=("protobuf",),
        pending="408",
        failed="400",
        hold=30.0,
        bulk_results=True,
        cancels=True,
        missing=_all_but(
            *(
                "get_client_config",
                "get_dynamic_config",
                "finish_session",
                "list_sessions",
                "get_session",
                "unload_model",
            ),
            *(
                "get_weights_info",
                "forward",
                "save_weights_external",
                "get_sampler",
                "join_sampling_session",
            ),
            *(
                "retrieve_futures",
                "cancel_future",
                "get_training_run",
                "get_checkpoint_storage_usage",
            ),
        ),
        loss_notes={"ppo": "its verl backend trains plain importance sampling"},
        joins_samplers=True,
        tells_rank=False,
        sampling=SamplingRules(base_models=False, max_tokens=4096),
    ),
    Dialect(
        name="twinkle",
        about="modelscope/twinkle, July 2026",
        source=_read("2026-07-22"),
        encodings=("json",),
        results="json",
        bearer=True,
        hold=30.0,
        seq_id_repeats="ignores",
        missing=_all_but(
            *(
                "unload_model",
                "get_weights_info",
                "forward",
                "list_training_runs",
                "get_training_run",
                "list_checkpoints",
            ),
            *("delete_checkpoint", "publish_checkpoint"),
        ),
        pads_logprobs=True,
        losses=frozenset({"cross_entropy", "importance_sampling"}),
        loss_notes={
            "importance_sampling": "it is GRPO clipped at 0.2, and needs an even number of datums"
        },
        sampling=SamplingRules(
            names_base=True, greedy_temperature=1e-6, prompt_logprobs=False, seeds=False
        ),
    ),
    Dialect(
        name="miles",
        about="radixark/miles, September 2026",
        source=_read("September 2026"),
        encodings=("protobuf",),
        hold=30.0,
        cancels=True,
        seq_id_order="ordered",
        seq_id_repeats="repeats",
        missing=_all_but(
            "get_client_config", "get_dynamic_config", "get_weights_info", "cancel_future"
        ),
        losses=_ALL_RATIOS,
        sampling=SamplingRules(max_samples=64),
    ),
    Dialect(
        name="spindle",
        about="Modal Spindle, November 2026",
        source=_read("November 2026", _LATER),
        encodings=("protobuf",),
        parallel_chunks=True,
        pending="408",
        hold=30.0,
        seq_id_order="ordered",
        refusals_take_numbers=True,
        missing={"get_checkpoint_archive_url": _INSTEAD["get_checkpoint_archive_url"]},
        resume="by_session",
    ),
    Dialect(
        name="xorl",
        about="togethercomputer/xorl, August 2026",
        source=_read("2026-08-22"),
        encodings=("json",),
        results="json",
        hold=45.0,
        seq_id_repeats="ignores",
        missing=_all_but(
            *("unload_model", "forward", "list_training_runs"),
            sample="Sample from the SGLang server that loads the adapter.",
            get_info=_INSTEAD["get_info"],
            get_server_capabilities="Use the model that the server was started with.",
            send_telemetry="It keeps no telemetry.",
        ),
        evidence={"losses": _read("2026-08-22", _LATER)},
        losses=frozenset(
            {
                "cross_entropy",
                "causallm_loss",
                "policy_loss",
                "importance_sampling",
                "cispo",
                "drgrpo",
                "opd_loss",
            }
        ),
    ),
    Dialect(
        name="verl",
        about="verl-project/verl-recipe, verl_tinker, August 2026",
        source=_read("2026-08"),
        encodings=("json",),
        results="json",
        hold=30.0,
        results_once=True,
        seq_id_repeats="ignores",
        missing=_all_but(
            "get_client_config", "get_session", "get_weights_info", "forward", "get_sampler"
        ),
        evidence={"losses": _read("2026-08-05", _LATER)},
        losses=_ALL_RATIOS | {"custom_from_config"},
    ),
    Dialect(
        name="arctic",
        about="Snowflake Arctic-Platform, integrations/tinker",
        source=_read("PR 110"),
        encodings=("protobuf",),
        pending="at_once",
        long_posts=True,
        results_once=True,
        seq_id_repeats="ignores",
        missing=_all_but(
            *("get_client_config", "create_auth_token", "forward"),
            load_weights="It keeps no training state; start again from the base model.",
            get_weights_info="It keeps no training state; start again from the base model.",
        ),
        losses=_IS_AND_PPO,
        resume="never",
        sampling=SamplingRules(temperature=1.0),
    ),
    Dialect(
        name="hatchery",
        about="axolotl-ai-cloud/hatchery-core, July 2026",
        source=_read("2026-07-10"),
        encodings=("json",),
        results="json",
        hold=60.0,
        splits_batches=False,
        saves_once=True,
        seq_id_repeats="ignores",
        missing=_all_but(
            *(
                "get_client_config",
                "unload_model",
                "get_weights_info",
                "forward",
                "list_checkpoints",
                "delete_checkpoint",
            ),
            *(
                "publish_checkpoint",
                "unpublish_checkpoint",
                "set_checkpoint_ttl",
                "get_checkpoint_archive_url",
            ),
        ),
        unloads_by_query=True,
        sampling=SamplingRules(saved_names=False, top_p_off=0.999999, top_k_off=1000),
    ),
    Dialect(
        name="mlx-tinker",
        about="mlx-tinker, September 2026",
        source=_read("September 2026"),
        encodings=("json",),
        results="json",
        hold=1.0,
        seq_id_repeats="ignores",
        missing=_all_but("unload_model", "forward"),
        losses=_ALL_RATIOS,
    ),
)

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: evolve(dialect, evidence={**dialect.evidence, **evidence_of(dialect.name)})
    for dialect in _DIALECTS
}
