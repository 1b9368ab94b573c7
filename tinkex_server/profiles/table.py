"""The table of profiles. Each states what was observed of a server: read in its source, or measured
(m) as it ran.

The table is independent of the client's table of dialects, so that a mistake in one shows against
the other. Where nothing is known of a server, its profile behaves as the embedded server does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve

from tinkex_server.errors import Reason
from tinkex_server.ids import Ids
from tinkex_server.jobs.seq_ids import SeqIds
from tinkex_server.profiles.paths import PathForms
from tinkex_server.profiles.profile import (
    BATCHES,
    NUMBERED,
    Auth,
    Batches,
    Bodies,
    Edits,
    Loading,
    Loss,
    Profile,
    Rule,
    Sampling,
)
from tinkex_server.profiles.templates import Each, Ref, Reply, also, only

# ---- common to several servers ----

_FINISH = "POST sessions/{session_id}/finish"
_SESSIONS = "GET sessions", "GET sessions/{session_id}"
_RUNS = "GET training_runs", "GET training_runs/{run_id}", "GET training_runs/{run_id}/checkpoints"
_CHECKPOINT = "training_runs/{run_id}/checkpoints/{kind}/{name}"
_PUBLISH = f"POST {_CHECKPOINT}/publish", f"DELETE {_CHECKPOINT}/publish"
_CLIENT_CONFIG, _CHANGING_CONFIG = "POST client/config", "POST client/dynamic_config"
_BULK_POLLS = "POST retrieve_futures"
_NEW_SAMPLING = "POST join_sampling_session", _BULK_POLLS, "POST cancel_future"
_HOSTED_ONLY = (
    "GET auth/apikey/me",
    "DELETE auth/apikey/me",
    "POST sessions/search",
    "POST checkpoints/search",
    "POST external_weights_upload_start",
    "POST external_weights_upload_finish",
    "PUT sessions/{session_id}/project",
    "GET sessions/{session_id}/trace_export",
    "POST create_custom_loss",
    "POST copy_weights",
    f"GET {_CHECKPOINT}/external_weights_urls",
    "GET audit",
    "GET billing/usage/events",
)
_SINCE_28 = (
    *_HOSTED_ONLY,
    "POST save_weights_external",
    "GET billing/usage/checkpoints/current",
    _FINISH,
)
_ARCHIVES = f"GET {_CHECKPOINT}/archive", f"GET {_CHECKPOINT}/download"
_TTL = f"PUT {_CHECKPOINT}/ttl"
_NO_REST = *_RUNS, "GET checkpoints", f"DELETE {_CHECKPOINT}", *_PUBLISH, _TTL, *_ARCHIVES

_TRY_AGAIN = {"type": "try_again", "request_id": Ref("request_id")}
_TRY_AGAIN_STATE = {**_TRY_AGAIN, "queue_state": "active"}
_FAILED_400 = Reply(400, {"detail": Ref("error")})
_TIMED_OUT = Reply(408, {"detail": "Timeout waiting for result"})


def _losses(*names: str) -> Mapping[str, Loss]:
    """Returns losses that have the engine's names on the wire."""
    return {name: Loss(name=name) for name in names}


def _failed(user: str, server: str) -> Mapping[str, Reply]:
    """Returns answers to failures: 200, with these categories."""
    return {
        "user": Reply(200, {"error": Ref("error"), "category": user}),
        "server": Reply(200, {"error": Ref("error"), "category": server}),
    }


def _routes(*groups: str | Iterable[str]) -> frozenset[str]:
    return frozenset(
        route for group in groups for route in ([group] if isinstance(group, str) else group)
    )


_NULL_PATH = also(path=Ref("path"))  # null for ephemeral weights, where others leave it out
_ID_AS_PATH = also(path=Ref("path", "sampling_session_id"))  # ephemeral weights have a path too
_IGNORED = SeqIds(repeats=False, turn="on arrival")
_WITHOUT_OPTIMIZER = Edits(defaults={"optimizer": False})

# ---- the hosted service ----

HOSTED = Profile(
    name="hosted",
    about="The service of Thinking Machines, as its client 0.38 needs it",
    # the client dropped these in 0.25, 0.26 and 0.36
    missing=_routes("POST forward", "POST unload_model", _ARCHIVES),
    auth=Auth(),
    # the client sends nothing else; the status of a refusal is unknown
    bodies=Bodies(json=False, zstd=True),
    replies={
        "client/config": Reply(
            200,
            {
                "pjwt_auth_enabled": False,
                "parallel_fwdbwd_chunks": True,
                "fwdbwd_max_chunk_len": 1024,
                "fwdbwd_max_chunk_bytes_count": 5_000_000,
                "proto_compress_fwdbwd": False,
                "sample_enable_stuck_detection": True,
            },
        )
    },
    hold=30.0,
    pending=Reply(408, _TRY_AGAIN_STATE),
    failed=_failed("user", "server"),
    results_as="protobuf",
    metadata_above=1_000_000,  # the threshold is a guess
    shapes={"get_info": also(optimizer_config={"type": "adamw"})},
    # "not permitted with seq_id N"; a model is made by load_weights
    loading=Loading(first_request_only=True),
)

HOSTED_0_25 = Profile(
    name="hosted-0.25",
    about="The service of Thinking Machines, as its client 0.25 needs it",
    missing=_routes("POST forward", _SINCE_28, _NEW_SAMPLING),
    auth=Auth(),
    bodies=Bodies(json=False, zstd=True),
    replies={
        "client/config": Reply(
            200,
            {
                "pjwt_auth_enabled": False,
                "parallel_fwdbwd_chunks": True,
                "fwdbwd_max_chunk_len": 1024,
                "fwdbwd_max_chunk_bytes_count": 5_000_000,
                "proto_compress_fwdbwd": False,
                "create_model_via_load_weights": True,
            },
        )
    },
    hold=30.0,
    pending=Reply(408, _TRY_AGAIN_STATE),
    failed=_failed("user", "server"),
    results_as="protobuf",
    sample_sequence_ids=False,
    loading=Loading(first_request_only=True),
)

# ---- SkyRL ----

_SKYRL_MISSING = _routes(
    _SINCE_28,
    _SESSIONS,
    _NEW_SAMPLING,
    "GET checkpoints",
    _PUBLISH,
    _TTL,
    _CHANGING_CONFIG,
    "POST auth/token",
)
_SKYRL_PROMISE = also(future_id=Ref("request_id"), status="pending")
_SKYRL_IDS = Ids(
    session="session_{hex}",
    model="model_{digest}",
    sampler="sampling_{digest}",
    request="{decimal}",
)
_SKYRL_SHAPES = {
    "create_model": also(
        base_model=Ref("sent.base_model"), lora_config=Ref("sent.lora_config"), status="created"
    ),
    "get_server_capabilities": only(
        supported_models=Each("supported_models", {"model_name": Ref("model_name")})
    ),
    "get_info": only(
        model_id=Ref("model_id"),
        status="created",
        model_data={
            "base_model": Ref("model_data.model_name"),
            "lora_config": {"rank": Ref("lora_rank")},
            "model_name": Ref("model_data.model_name"),
        },
    ),
    "weights_info": only(base_model=Ref("base_model"), is_lora=True, lora_rank=Ref("lora_rank")),
}
_SKYRL_OPTIM_METRICS = only(
    metrics={
        "skyrl.ai/grad_norm": Ref("metrics.grad_norm"),
        "skyrl.ai/learning_rate": Ref("metrics.learning_rate"),
    }
)
_SKYRL_RULES = (
    Rule(operations=("asample",), field="sampling_params.max_tokens", status=422, needed=True),
    Rule(operations=("asample",), field="sampling_params.stop", status=422, not_text=True),
    Rule(operations=("save_weights",), field="path", status=422, needed=True),
)

SKYRL_0_3 = Profile(
    name="skyrl-0.3",
    about="NovaSky-AI/SkyRL, release 0.3.0 of skyrl.tinker",
    missing=_SKYRL_MISSING | {f"DELETE {_CHECKPOINT}"},
    bodies=Bodies(protobuf=False, other="unhandled"),
    replies={"client/config": Reply(200, {"pjwt_auth_enabled": False})},
    ids=_SKYRL_IDS,
    # seq_id is dropped: a repeated request is applied twice
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    promise=_SKYRL_PROMISE,
    sample_sequence_ids=False,
    hold=300.0,
    pending=_TIMED_OUT,
    # a failure without a message
    failed={"user": _FAILED_400, "server": Reply(500, {"detail": "Unknown error"})},
    shapes=_SKYRL_SHAPES,
    # its JAX backend gives no metrics
    results={
        "forward_backward": also(metrics={}),
        "forward": also(metrics={}),
        "optim_step": _SKYRL_OPTIM_METRICS,
    },
    results_as="json",
    rules=_SKYRL_RULES,
    # dtype and shape of arrays are dropped
    batches=Batches(
        losses=_losses("cross_entropy", "importance_sampling", "ppo", "cispo"),
        unknown_loss=422,
        flat="shapes dropped",
    ),
    sampling=Sampling(prompt_logprobs="without the first"),
    # only into an existing model, and always with the optimizer's state
    edits={"load_weights": Edits(forced={"optimizer": True})},
    loading=Loading(by_session=False),
    bare_archives=True,
    full_weights_at_rank_0=True,
)

SKYRL = Profile(
    name="skyrl",
    about="NovaSky-AI/SkyRL, skyrl.tinker, August 2026",
    missing=_SKYRL_MISSING,
    bodies=Bodies(zstd=True),
    replies={"client/config": Reply(200, {"pjwt_auth_enabled": False})},
    ids=_SKYRL_IDS,
    # a repeat with the same body gets the same request, with another body 409; requests run in the
    # order of arrival, whatever their numbers
    seq_ids=SeqIds(turn="on arrival", conflict=Reason.CONFLICT),
    promise=_SKYRL_PROMISE,
    sample_sequence_ids=False,
    hold=300.0,
    pending=_TIMED_OUT,
    failed={"user": _FAILED_400},
    kept_after_delivery=300.0,
    shapes=_SKYRL_SHAPES,
    results={
        "forward_backward": also(
            metrics={
                "total_loss:sum": Ref("derived.loss_sum"),
                "pg_loss:last": Ref("derived.loss_mean"),
            }
        ),
        "forward": also(
            metrics={
                "total_loss:sum": Ref("derived.loss_sum"),
                "pg_loss:last": Ref("derived.loss_mean"),
            }
        ),
        "optim_step": _SKYRL_OPTIM_METRICS,
    },
    rules=_SKYRL_RULES,
    batches=Batches(
        losses=_losses("cross_entropy", "importance_sampling", "ppo", "cispo"), unknown_loss=422
    ),
    sampling=Sampling(prompt_logprobs="without the first"),
    edits={"load_weights": Edits(defaults={"optimizer": True})},
    loading=Loading(by_session=False, first_request_only=True),
    bare_archives=True,
    full_weights_at_rank_0=True,
)

SKYRL_0_4 = evolve(
    SKYRL,
    name="skyrl-0.4",
    about="NovaSky-AI/SkyRL, release 0.4.0 of skyrl.tinker",
    missing=_SKYRL_MISSING | {"POST forward"},
    bodies=Bodies(json=False, zstd=True),  # JSON is 415
    # clients recognize it by a 404 outside the API with a text of its own; the text is a guess
    replies={
        **SKYRL.replies,
        "/profiling_status": Reply(404, {"detail": "no profiling is under way"}),
    },
    results_as="protobuf",
)

# ---- open-rl ----

_OPEN_RL_MISSING = _routes(
    _SINCE_28,
    _SESSIONS,
    _NO_REST,
    _NEW_SAMPLING,
    _CHANGING_CONFIG,
    "POST auth/token",
    "POST unload_model",
)
_OPEN_RL_FLAGS = Reply(
    200,
    {
        "sample_dispatch_bytes_semaphore_size": 10_485_760,
        "inflight_response_bytes_semaphore_size": 52_428_800,
        "parallel_fwdbwd_chunks": False,
        "proto_write_fwdbwd": False,
    },
)
_OPEN_RL_PATHS = PathForms(
    weights="{data_dir}/checkpoints/{run_id}/weights/{name}",  # absolute folders (m)
    sampler="tinker://{run_id}-samp-{name}",  # (m)
)
_OPEN_RL_FAILED = {
    "user": Reply(400, {"type": "RequestFailedResponse", "error_message": Ref("error")})
}
_OPEN_RL_BATCHES = Batches(losses=_losses("cross_entropy", "importance_sampling", "ppo"))

OPEN_RL_OLD = Profile(
    name="open-rl-old",
    about="gke-labs/open-rl up to v0.0.3",
    missing=_OPEN_RL_MISSING
    | _routes("POST forward", "POST weights_info", "GET samplers/{sampler_id}"),
    bodies=Bodies(protobuf=False, other="unhandled"),
    replies={"client/config": _OPEN_RL_FLAGS},
    # all sessions have this id (m)
    ids=Ids(session="sess-real-123", model="{digest}", request="{uuid}"),
    seq_ids=_IGNORED,  # a repeat adds its gradient again (m)
    sample_repeats=False,
    creates_anew=True,
    sample_sequence_ids=False,
    hold=60.0,
    pending=Reply(200, _TRY_AGAIN),
    failed=_OPEN_RL_FAILED,
    unknown="pending",
    shapes={
        "create_model": also(request_id=Ref("model_id")),
        "get_info": also(lora_rank=16),  # whatever was asked for (m)
    },
    results={"save_weights_for_sampler": _ID_AS_PATH},
    results_as="json",
    batches=_OPEN_RL_BATCHES,
    edits={
        "asample": Edits(
            defaults={"sampling_params.max_tokens": 20},
            ignored=("sampling_params.seed", "sampling_params.stop"),  # stop (m)
        ),
        "load_weights": _WITHOUT_OPTIMIZER,
    },
    sampling=Sampling(
        base_models=False,  # sampling the session fails (m)
        base_session="samp-session-live-123",
        first_chunk_only=True,
        stop_reason="stop",  # at max_tokens too (m)
        prompt_logprobs="never",
    ),
    loading=Loading(by_session=False, no_model=400, optimizer_if_saved=True),  # (m)
    paths=_OPEN_RL_PATHS,
    names_samplers=False,
)

OPEN_RL = Profile(
    name="open-rl",
    about="gke-labs/open-rl from v0.0.4",
    missing=_OPEN_RL_MISSING,
    bodies=Bodies(),
    replies={"client/config": _OPEN_RL_FLAGS},
    refusal={"error": Ref("detail")},
    ids=Ids(session="{uuid}", model="{digest}", sampler="{session_id}/{number}", request="{uuid}"),
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    hold=60.0,
    pending=Reply(200, _TRY_AGAIN),
    failed=_OPEN_RL_FAILED,
    unknown="pending",
    results={"save_weights_for_sampler": _ID_AS_PATH},
    batches=_OPEN_RL_BATCHES,
    edits={
        "asample": Edits(defaults={"sampling_params.max_tokens": 20}),
        "load_weights": _WITHOUT_OPTIMIZER,
    },
    loading=Loading(by_session=False, optimizer_if_saved=True),
    paths=_OPEN_RL_PATHS,
    names_samplers=False,
)

# ---- TuFT ----

TUFT = Profile(
    name="tuft",
    about="agentscope-ai/TuFT, August 2026",
    missing=_routes(
        _SINCE_28,
        _NEW_SAMPLING,
        _CHANGING_CONFIG,
        "POST forward",
        _TTL,
        f"GET {_CHECKPOINT}/download",
    ),
    # (m)
    auth=Auth(
        wrong=403, open_to_all=frozenset({"healthz", "client/config", "get_server_capabilities"})
    ),
    bodies=Bodies(json=False, zstd=True, most_bytes=64 << 20, release=(0, 25)),  # JSON is 415 (m)
    # the defaults of the official client (m)
    replies={
        "client/config": Reply(
            200,
            {
                "pjwt_auth_enabled": False,
                "create_model_via_load_weights": False,
                "use_pyqwest_transport": False,
                "proto_write_fwdbwd": False,
                "parallel_fwdbwd_chunks": False,
            },
        ),
        # a file on its own disk (m)
        f"{_CHECKPOINT}/archive": Reply(
            302, "", {"location": "file:///srv/tuft/checkpoints/archive.tar.gz"}
        ),
    },
    statuses={
        "create_session": 201,
        "create_sampling_session": 201,
        "create_model": 202,
        "unload_model": 202,
        "asample": 202,
        **dict.fromkeys(NUMBERED, 202),
        _CHECKPOINT: 204,
    },
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="{uuid}"),
    # 409 "expected N, got M" when the request runs; failed steps do not count, and requests without
    # a number are not checked (m)
    seq_ids=SeqIds(repeats=False, turn="on arrival, refused out of turn"),
    sample_sequence_ids=False,
    refuses_late=frozenset({404}),
    hold=120.0,
    pending=Reply(200, _TRY_AGAIN_STATE),
    failed={
        "user": Reply(404, {"detail": Ref("error")}),  # 400, 403 and 409 too (m)
        "server": Reply(422, {"detail": Ref("error")}),
        "order": Reply(409, {"detail": Ref("error")}),
    },
    results={
        "optim_step": only(metrics=None),  # (m)
        "save_weights": also(type=None),
        "save_weights_for_sampler": also(type=None),
    },
    batches=Batches(
        losses=_losses("cross_entropy", "importance_sampling", "ppo", "cispo", "dro"),
        unknown_loss=422,
    ),
    loading=Loading(by_session=False, no_model=400, missing_checkpoint=404),
)

# ---- tinker-cloud ----

_CLOUD_MISSING = _routes(
    _HOSTED_ONLY,
    "POST auth/token",
    "GET training_runs",
    "GET training_runs/{run_id}/checkpoints",
    "GET checkpoints",
    f"DELETE {_CHECKPOINT}",
    _PUBLISH,
    _TTL,
    _ARCHIVES,
)
# training operations need no key
_CLOUD_AUTH = Auth(open_to_all=frozenset({*NUMBERED, "healthz"}))  # a bearer token is 401 (m)
_CLOUD_ERROR = {"error": Ref("detail"), "status_code": Ref("status"), "path": Ref("path")}  # (m)
_CLOUD_RULES = (
    Rule(operations=("asample",), field="sampling_params.stop", status=422, not_text=True),
    Rule(operations=("asample",), field="sampling_params.max_tokens", most=4096),
)
_CLOUD_SAMPLE = Edits(
    defaults={
        "sampling_params.temperature": 0.7,
        "sampling_params.top_p": 0.9,
        "sampling_params.top_k": 50,
        "sampling_params.max_tokens": 256,
    }
)
_CLOUD_CREATED = also(
    base_model=Ref("sent.base_model"), lora_config=Ref("sent.lora_config"), status="created"
)
# whatever the model is (m)
_CLOUD_INFO = {
    "get_info": also(is_lora=False, lora_rank=None),
    "weights_info": also(lora_rank=None),
}

TINKER_CLOUD_OLD = Profile(
    name="tinker-cloud-old",
    about="GMISWE/tinker-cloud, up to August 2026",
    missing=_CLOUD_MISSING
    | _routes(_SINCE_28, _NEW_SAMPLING, _CLIENT_CONFIG, _CHANGING_CONFIG, "GET healthz"),
    auth=_CLOUD_AUTH,
    bodies=Bodies(protobuf=False, other="unhandled"),
    replies={
        "load_weights": Reply(
            200,
            {
                "error": "load_weights is not supported",
                "reason": "pass checkpoint_path to create_model instead",
            },
        )
    },
    refusal=_CLOUD_ERROR,
    ids=Ids(
        session="{uuid}", model="model_{digest}", sampler="sampler_{digest}", request="req_{hex}"
    ),
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    sample_sequence_ids=False,
    hold=0.0,
    pending=Reply(
        408,
        {"error": "Future is still pending", "status_code": 408, "path": "/api/v1/retrieve_future"},
    ),
    failed={
        "user": Reply(
            400, {"error": Ref("error"), "status_code": 400, "path": "/api/v1/retrieve_future"}
        )
    },
    shapes={"create_model": _CLOUD_CREATED, **_CLOUD_INFO},
    results={"save_weights_for_sampler": _NULL_PATH},
    results_as="json",
    rules=_CLOUD_RULES,
    edits={"asample": _CLOUD_SAMPLE},
    sampling=Sampling(base_is_first_live=True),  # (m)
    checkpoint_in_create_model=True,
)

TINKER_CLOUD = Profile(
    name="tinker-cloud",
    about="GMISWE/tinker-cloud, September 2026",
    missing=_CLOUD_MISSING,
    auth=_CLOUD_AUTH,
    bodies=Bodies(zstd=True),
    replies={
        "client/config": Reply(
            200,
            {
                "pjwt_auth_enabled": False,
                "proto_compress_fwdbwd": True,
                "sample_use_retrieve_futures": True,
            },
        )
    },
    refusal=_CLOUD_ERROR,
    ids=Ids(
        session="{uuid}", model="model_{digest}", sampler="sampler_{digest}", request="req_{hex}"
    ),
    # numbers have no meaning: requests run in the order of arrival
    seq_ids=_IGNORED,
    hold=30.0,
    pending=Reply(
        408,
        {"error": "Future is still pending", "status_code": 408, "path": "/api/v1/retrieve_future"},
    ),
    failed={
        "user": Reply(
            400, {"error": Ref("error"), "status_code": 400, "path": "/api/v1/retrieve_future"}
        )
    },
    shapes={"create_model": _CLOUD_CREATED, **_CLOUD_INFO},
    results={"save_weights_for_sampler": _NULL_PATH},
    rules=_CLOUD_RULES,
    batches=Batches(sparse=False),
    edits={"asample": _CLOUD_SAMPLE},
    sampling=Sampling(base_models=False),  # by design
)

# ---- twinkle ----

_CROSS_ENTROPY = Loss(name="cross_entropy", settings=False)

TWINKLE = Profile(
    name="twinkle",
    about="modelscope/twinkle, July 2026",
    missing=_routes(
        _SINCE_28,
        _SESSIONS,
        _NEW_SAMPLING,
        _CLIENT_CONFIG,
        _CHANGING_CONFIG,
        "GET checkpoints",
        "GET samplers/{sampler_id}",
        "POST auth/token",
        f"DELETE {_CHECKPOINT}/publish",
        _TTL,
        _ARCHIVES,
    ),
    # behind Ray's proxy: errors are JSON and keep the connection open, and each answer has an
    # x-request-id (m)
    request_ids=True,
    bodies=Bodies(protobuf=False, other=500, release=(0, 16)),
    ids=Ids(
        session="session-{hex}", model="{digest}", sampler="sampling-{digest}", request="req_{hex}"
    ),
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    sample_sequence_ids=False,
    hold=30.0,
    pending=Reply(200, _TRY_AGAIN_STATE),
    failed=_failed("User", "Server"),
    unknown="pending",
    results={
        "forward_backward": also(metrics={"loss:avg": Ref("derived.loss_mean")}),  # (m)
        "forward": also(metrics={"loss:avg": Ref("derived.loss_mean")}),
        "save_weights_for_sampler": _NULL_PATH,
    },
    results_as="json",
    batches=Batches(
        losses={
            "cross_entropy": _CROSS_ENTROPY,
            # clipped at 0.8 and 1.2
            "importance_sampling": Loss(name="ppo", settings=False),
            # the other losses that the types of 0.16 allow are silently trained as cross-entropy
            "ppo": _CROSS_ENTROPY,
            "cispo": _CROSS_ENTROPY,
            "dro": _CROSS_ENTROPY,
        },
        unknown_loss=422,
        even_with_bearer=frozenset({"importance_sampling"}),  # (m)
        padded_forward=True,  # (m)
    ),
    edits={
        "asample": Edits(
            defaults={"sampling_params.max_tokens": 256}, ignored=("sampling_params.seed",)
        )
    },
    sampling=Sampling(zero_temperature_is=1.0, needs_base=True),  # (m)
    loading=Loading(by_session=False),
    paths=PathForms(
        weights="twinkle://{run_id}/weights/{name}",
        sampler="twinkle://{run_id}/sampler_weights/{name}",
    ),
    names_samplers=False,  # the path ends in a time (m)
    needs_gradient=True,  # (m)
    null_answers=frozenset({_CHECKPOINT}),
)

# ---- miles ----

MILES = Profile(
    name="miles",
    about="radixark/miles, miles/tinker, September 2026",
    missing=_routes(
        _SINCE_28,
        _SESSIONS,
        _NO_REST,
        "POST join_sampling_session",
        _BULK_POLLS,
        "POST forward",
        "POST unload_model",
        "GET samplers/{sampler_id}",
        "POST auth/token",
    ),
    auth=Auth(headers=("x-api-key", "authorization"), missing=400, wrong=403),
    bodies=Bodies(zstd=True, release=(0, 29)),
    replies={"client/config": Reply(200, {}), "client/dynamic_config": Reply(200, {})},
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="req_{hex}"),
    # seq_ids: ordered, idempotent, from 1, as in the contract
    hold=30.0,
    pending=Reply(200, _TRY_AGAIN_STATE),
    failed=_failed("user", "server"),
    unknown=Reply(410, {"detail": "Unknown or expired request"}),
    results={"save_weights_for_sampler": _ID_AS_PATH},
    rules=(
        Rule(operations=NUMBERED, field="model_id", needed=True),
        Rule(operations=NUMBERED, field="seq_id", needed=True),
        Rule(operations=BATCHES, field="forward_backward_input.data", most=1024),
        Rule(operations=("asample",), field="num_samples", most=64),
        Rule(operations=("create_model",), field="lora_config.seed", absent=True),
        Rule(
            operations=("create_model", "save_weights", "save_weights_for_sampler"),
            field="user_metadata",
            absent=True,
        ),
        Rule(
            operations=("save_weights", "save_weights_for_sampler"),
            field="ttl_seconds",
            absent=True,
        ),
    ),
    batches=Batches(
        losses=_losses("cross_entropy", "importance_sampling", "ppo", "cispo", "dro"),
        weights_needed=True,
        known_inputs_only=True,
        flat="refused",
    ),
    loading=Loading(by_session=False),
)

# ---- Spindle ----

SPINDLE = Profile(
    name="spindle",
    about="Modal Spindle, November 2026",
    missing=_routes(f"GET {_CHECKPOINT}/archive"),
    auth=Auth(),
    bodies=Bodies(zstd=True),
    replies={
        "client/config": Reply(
            200,
            {
                "pjwt_auth_enabled": False,
                "proto_write_fwdbwd": True,
                "parallel_fwdbwd_chunks": True,
                "create_model_via_load_weights": True,
            },
        ),
        "spindle/deployments": Reply(200, {"deployments": []}),
        f"{_CHECKPOINT}/archive": Reply(405, {"detail": "Method Not Allowed"}),
    },
    seq_ids=SeqIds(conflict=Reason.CONFLICT),
    refusals_take_numbers=True,
    hold=30.0,
    pending=Reply(408, _TRY_AGAIN),
    failed=_failed("user", "server"),
    unknown=Reply(410, {"error": "request_lost"}),
)

# ---- xorl ----

XORL = Profile(
    name="xorl",
    about="togethercomputer/xorl, August 2026",
    # sampling is done by a separate SGLang server
    missing=_routes(
        _SINCE_28,
        _SESSIONS,
        "GET training_runs/{run_id}",
        "GET training_runs/{run_id}/checkpoints",
        "GET checkpoints",
        f"DELETE {_CHECKPOINT}",
        _PUBLISH,
        _TTL,
        _ARCHIVES,
        _NEW_SAMPLING,
        _CLIENT_CONFIG,
        _CHANGING_CONFIG,
        "GET get_server_capabilities",
        "POST telemetry",
        "POST auth/token",
        "POST get_info",
        "POST weights_info",  # wants `xorl_path`
        "GET samplers/{sampler_id}",
        "POST asample",
    ),
    bodies=Bodies(protobuf=False, other="unhandled"),
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="{uuid}"),
    seq_ids=SeqIds(repeats=False, turn="on arrival"),
    sample_repeats=False,
    creates_anew=True,
    hold=45.0,
    pending=Reply(200, _TRY_AGAIN_STATE),
    failed=_failed("user", "server"),
    results_as="json",
    batches=Batches(
        losses={
            **_losses("cross_entropy", "importance_sampling"),
            "causallm_loss": _CROSS_ENTROPY,
            "policy_loss": Loss(name="ppo"),
            **_losses("cispo"),
            # stand-ins with the same inputs
            "drgrpo": Loss(name="ppo"),
            "opd_loss": Loss(name="importance_sampling", settings=False),
        }
    ),
    shapes={"unload_model": only(model_id=Ref("sent.model_id"))},
    loading=Loading(by_session=False),
    paths=PathForms(
        weights="xorl://{run_id}/weights/{name}", sampler="xorl://{run_id}/sampler_weights/{name}"
    ),
)

# ---- verl ----

VERL = Profile(
    name="verl",
    about="verl-project/verl-recipe, verl_tinker, August 2026",
    missing=_routes(
        _SINCE_28,
        "GET sessions",  # its list is a POST
        _NO_REST,
        _NEW_SAMPLING,
        _CHANGING_CONFIG,
        "POST auth/token",
        "POST unload_model",
    ),
    starting=2,
    bodies=Bodies(protobuf=False, other="unhandled"),
    replies={
        "healthz": Reply(200, {"status": "ready"}),
        "client/config": Reply(
            200,
            {
                "parallel_fwdbwd_chunks": False,
                "sample_dispatch_bytes_semaphore_size": 0,  # no limit
                "inflight_response_bytes_semaphore_size": 0,
            },
        ),
    },
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="{uuid}"),
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    sample_sequence_ids=False,
    hold=30.0,
    pending=Reply(200, {**_TRY_AGAIN, "message": "still running"}),
    pending_once_more=True,
    failed=_failed("Application", "Application"),
    unknown=Reply(
        200, {"error": "unknown request_id", "category": "Application", "seen_before": True}
    ),
    kept_after_delivery=0.0,
    results_as="json",
    batches=Batches(
        losses={
            **_losses("cross_entropy", "importance_sampling", "ppo", "cispo", "dro"),
            # the loss is set when the server is started; this is a stand-in
            "custom_from_config": Loss(name="importance_sampling", settings=False),
        }
    ),
)

# ---- Arctic ----

ARCTIC = Profile(
    name="arctic",
    about="Snowflake Arctic-Platform, integrations/tinker, September 2026",
    missing=_routes(
        _SINCE_28,
        _SESSIONS,
        _NO_REST,
        _NEW_SAMPLING,
        _CHANGING_CONFIG,
        "POST unload_model",
        "POST weights_info",
        "POST load_weights",
        "GET samplers/{sampler_id}",
    ),
    replies={
        "client/config": Reply(200, {"proto_write_fwdbwd": False, "parallel_fwdbwd_chunks": False})
    },
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="{decimal}"),
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    sample_sequence_ids=False,
    works_in_post=True,
    pending=Reply(200, _TRY_AGAIN),
    failed={"user": _FAILED_400, "server": Reply(500, {"detail": Ref("error")})},
    unknown="pending",
    kept_after_delivery=0.0,
    shapes={"get_info": only(model_id=Ref("model_id"), model_data=Ref("model_data"))},
    results={"save_weights_for_sampler": _ID_AS_PATH},
    rules=(Rule(operations=("asample",), field="sampling_params.temperature", among=(1, 1.0)),),
    batches=Batches(losses=_losses("cross_entropy", "importance_sampling", "ppo")),
    full_weights_at_rank_0=True,
)

# ---- hatchery ----

_CHECKPOINTS_WITHOUT_TIME = Each(
    "checkpoints",
    {
        "time": None,
        **{
            name: Ref(name)
            for name in ("checkpoint_id", "checkpoint_type", "tinker_path", "size_bytes")
        },
    },
)

HATCHERY = Profile(
    name="hatchery",
    about="axolotl-ai-cloud/hatchery-core, July 2026",
    missing=_routes(
        _SINCE_28,
        _SESSIONS,
        "GET training_runs",
        "GET training_runs/{run_id}",
        "GET checkpoints",
        f"GET {_CHECKPOINT}/download",
        _NEW_SAMPLING,
        _CHANGING_CONFIG,
        "POST auth/token",
        "GET samplers/{sampler_id}",
    ),
    auth=Auth(
        headers=("x-api-key", "authorization"),
        open_to_all=frozenset({"healthz", "client/config", "get_server_capabilities"}),  # (m)
    ),
    bodies=Bodies(protobuf=False, other="unhandled"),  # the 500 is measured
    replies={
        "client/config": Reply(200, {"default_poll_interval_ms": 1000, "max_batch_size": 1024}),
        # other field names, and another model than the one that is loaded (m)
        "get_server_capabilities": Reply(
            200,
            {
                "supported_models": [
                    {"model_id": "Qwen/Qwen2.5-0.5B", "tokenizer_id": "Qwen/Qwen2.5-0.5B"}
                ]
            },
        ),
    },
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="{uuid}"),
    # a repeat is queued before the table of known requests is consulted: it gets the first id, but
    # the work is done again (m)
    seq_ids=SeqIds(repeats=False, turn="on arrival"),
    repeats_by_id_alone=True,
    promise=also(operation=Ref("operation")),
    sample_sequence_ids=False,
    # a promise where others answer with the session (m)
    promised={
        "create_sampling_session": only(
            type="create_sampling_session", sampling_session_id=Ref("sampling_session_id")
        )
    },
    hold=120.0,  # the time limit of the job
    pending=Reply(200, _TRY_AGAIN_STATE),
    failed={
        "user": Reply(
            200, {"type": "request_failed", "error": Ref("error"), "category": "user_error"}
        )
    },
    shapes={
        "weights_info": also(lora_alpha=32, target_modules=["q_proj", "v_proj"]),
        "unload_model": only(model_id=Ref("sent.model_id"), status="unloaded"),  # (m)
        _RUNS[2].removeprefix("GET "): only(
            checkpoints=_CHECKPOINTS_WITHOUT_TIME, cursor=None
        ),  # (m)
    },
    results={
        "forward_backward": also(metrics={"loss:mean": Ref("derived.loss_mean"), "step": 0}),
        "forward": also(metrics={"loss:mean": 0.0, "step": 0}),  # all are 0 (m)
    },
    results_as="json",
    rules=(
        Rule(operations=("create_model",), field="user_metadata", status=422, not_null=True),  # (m)
        Rule(operations=("unload_model",), field="model_id", status=422, needed=True),
        Rule(operations=("asample",), field="sampling_params.top_k", status=422, most=1000),  # (m)
    ),
    # other losses are refused by the POST; a loss is a mean over its request (m)
    batches=Batches(
        losses=_losses("cross_entropy", "importance_sampling", "ppo", "cispo"), means=True
    ),
    sampling=Sampling(
        greedy_when_plain=True,  # (m)
        default_top_k=50,  # (m)
        warped_logprobs=True,  # (m)
        named_weights=False,  # 500 (m)
    ),
    loading=Loading(by_session=False, missing_checkpoint=404, first_save_alone=True),  # (m)
    paths=PathForms(weights="tinker://{run_id}/checkpoints/{name}"),  # (m)
    unload_by_query=True,  # (m)
)

# ---- mlx-tinker ----

MLX_TINKER = Profile(
    name="mlx-tinker",
    about="ojus1/mlx-tinker, September 2026",
    missing=_routes(
        _SINCE_28,
        _SESSIONS,
        _NO_REST,
        _NEW_SAMPLING,
        _CLIENT_CONFIG,
        _CHANGING_CONFIG,
        "POST auth/token",
        "POST weights_info",
        "GET samplers/{sampler_id}",
    ),
    bodies=Bodies(protobuf=False, other="unhandled"),
    ids=Ids(session="{uuid}", model="{digest}", sampler="{digest}", request="{decimal}"),
    seq_ids=_IGNORED,
    sample_repeats=False,
    creates_anew=True,
    sample_sequence_ids=False,
    hold=1.0,
    pending=Reply(200, _TRY_AGAIN),
    failed=_failed("execution_error", "execution_error"),
    results_as="json",
    batches=Batches(losses=_losses("cross_entropy", "importance_sampling", "ppo", "cispo", "dro")),
    loading=Loading(by_session=False),
)

# ---- the embedded server itself ----

TINKEX = Profile(name="tinkex", about="The embedded server of tinkex itself")

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        TINKEX,
        HOSTED,
        HOSTED_0_25,
        SKYRL_0_3,
        SKYRL,
        SKYRL_0_4,
        OPEN_RL_OLD,
        OPEN_RL,
        TUFT,
        TINKER_CLOUD_OLD,
        TINKER_CLOUD,
        TWINKLE,
        MILES,
        SPINDLE,
        XORL,
        VERL,
        ARCTIC,
        HATCHERY,
        MLX_TINKER,
    )
}
"""All profiles, by their names."""
