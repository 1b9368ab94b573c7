"""The table of the drop-in: each module of the official SDK, its names, and where tinkex has them.

A source is written `module:name`. A name of the official SDK that is not in the table has no
counterpart; `tinkex.dropin.missing` says what to use in its place.
"""

from __future__ import annotations

from collections.abc import Mapping

PACKAGE = "tinker"
RELEASE = "0.38.0"
"""The release of the official SDK whose names these are."""

Names = Mapping[str, str]


def _words(text: str) -> list[str]:
    return text.split()


def _from(source: str, names: str) -> Names:
    return {name: f"{source}:{name}" for name in _words(names)}


_OWN_TYPES = frozenset(
    _words(
        "AccessibleSearchOwner ActiveSessionStatusQuery AdamOptimizerConfig "
        "CancelledSessionStatusQuery CheckpointBillingEvent ClientFinishedSessionStatusQuery "
        "ClientSessionFinishErrored ClientSessionFinishInterrupted ClientSessionFinishReason "
        "ClientSessionFinishReasonType ClientSessionFinishSuccess ClientSessionFinished "
        "CustomLossInputRank DimuonOptimizerConfig EventType FailedSessionStatusQuery "
        "FutureFailed FutureFinished LossFnType ModelID OptimParams OwnSearchOwner "
        "RequestErrorCategory RequestID SamplingClientKind SamplingPrefillBillingEvent "
        "SamplingSampleBillingEvent SessionActive SessionCancelled SessionFailed "
        "SessionFailedReason SessionFailedRequestReason SessionFailedSamplingSessionReason "
        "SessionFailedTrainingRunReason Severity StopReason StorageBillingEvent "
        "TrainingBillingEvent UserSearchOwner"
    )
)
"""Types that only programs for the official SDK need: names for texts and unions, and a class for
each kind of what is one class here."""

_BODIES = frozenset(
    _words(
        "AuthTokenResponse ClientConfigRequest ClientConfigResponse ClientDynamicConfigResponse "
        "CopyWeightsRequest CreateCustomLossRequest CreateCustomLossResponse CreateModelRequest "
        "CreateModelResponse CreateSamplingSessionRequest CreateSamplingSessionResponse "
        "CreateSessionRequest CreateSessionResponse CustomLossGraph CustomLossInput "
        "CustomLossNode ForwardBackwardInput ForwardBackwardRequest ForwardRequest "
        "FutureCompletion FutureRetrieveRequest FutureRetrieveResponse FuturesRetrieveRequest "
        "FuturesRetrieveResponse GetInfoRequest HealthResponse JoinSamplingSessionRequest "
        "JoinSamplingSessionResponse LoadWeightsRequest OptimStepRequest SampleRequest "
        "SamplingSessionFuturesTarget SaveWeightsExternalRequest SaveWeightsForSamplerRequest "
        "SaveWeightsRequest SessionHeartbeatRequest SessionHeartbeatResponse TelemetryEvent "
        "TelemetryResponse TelemetrySendRequest UnloadModelRequest UnloadModelResponse "
        "UntypedAPIFuture"
    )
)
"""Bodies of requests and answers, which the contract has and no client needs."""


def _types(names: str) -> Names:
    return {name: f"{_home_of_type(name)}:{name}" for name in _words(names)}


def _home_of_type(name: str) -> str:
    if name in ("SampleResponse", "SampledSequence"):
        return "tinkex.dropin.results"
    if name in ("AdamParams", "SamplingParams"):
        return "tinkex.dropin.parameters"
    if name in _OWN_TYPES:
        return "tinkex.dropin.types"
    return "tinkex_api.models" if name in _BODIES else "tinkex.types"


_TYPE_MODULES: Mapping[str, str] = {
    "audit_log_entry": "AuditLogEntry",
    "audit_log_response": "AuditLogResponse",
    "auth_token_response": "AuthTokenResponse",
    "billing_usage_response": (
        "BillingEventInfo BillingUsageEvent BillingUsageResponse BillingUsageSession "
        "CheckpointBillingEvent SamplingPrefillBillingEvent SamplingSampleBillingEvent "
        "StorageBillingEvent TrainingBillingEvent"
    ),
    "checkpoint": "Checkpoint CheckpointType ParsedCheckpointTinkerPath",
    "checkpoints_list_response": "CheckpointsListResponse",
    "client_config_request": "ClientConfigRequest",
    "client_config_response": "ClientConfigResponse",
    "client_dynamic_config_response": "ClientDynamicConfigResponse",
    "copy_weights_request": "CopyWeightsRequest",
    "copy_weights_response": "CopyWeightsResponse",
    "create_custom_loss_request": "CreateCustomLossRequest",
    "create_custom_loss_response": "CreateCustomLossResponse",
    "create_model_request": "CreateModelRequest",
    "create_model_response": "CreateModelResponse",
    "create_sampling_session_request": "CreateSamplingSessionRequest",
    "create_sampling_session_response": "CreateSamplingSessionResponse",
    "create_session_request": "CreateSessionRequest",
    "create_session_response": "CreateSessionResponse",
    "current_checkpoint_storage_usage_response": (
        "CurrentCheckpointStorageUsageItem CurrentCheckpointStorageUsageResponse"
    ),
    "cursor": "Cursor",
    "custom_loss_graph": "CustomLossGraph CustomLossNode",
    "custom_loss_input": "CustomLossInput CustomLossInputRank",
    "datum": "Datum",
    "dmel_chunk": "DmelChunk",
    "encoded_text_chunk": "EncodedTextChunk",
    "event_type": "EventType",
    "external_weights_urls_response": "ExternalWeightsUrlsResponse",
    "forward_backward_input": "ForwardBackwardInput",
    "forward_backward_output": "ForwardBackwardOutput",
    "forward_backward_request": "ForwardBackwardRequest",
    "forward_request": "ForwardRequest",
    "future_completion": "FutureCompletion FutureFailed FutureFinished",
    "future_retrieve_request": "FutureRetrieveRequest",
    "future_retrieve_response": "FutureRetrieveResponse",
    "futures_retrieve_request": "FuturesRetrieveRequest SamplingSessionFuturesTarget",
    "futures_retrieve_response": "FuturesRetrieveResponse",
    "get_info_request": "GetInfoRequest",
    "get_info_response": "GetInfoResponse ModelData",
    "get_sampler_response": "GetSamplerResponse",
    "get_server_capabilities_response": "GetServerCapabilitiesResponse SupportedModel",
    "get_session_response": "GetSessionResponse",
    "health_response": "HealthResponse",
    "image_asset_pointer_chunk": "ImageAssetPointerChunk",
    "image_chunk": "ImageChunk",
    "join_sampling_session_request": "JoinSamplingSessionRequest",
    "join_sampling_session_response": "JoinSamplingSessionResponse",
    "list_sessions_response": "ListSessionsResponse",
    "load_weights_request": "LoadWeightsRequest",
    "load_weights_response": "LoadWeightsResponse",
    "lora_config": "LoraConfig",
    "loss_fn_inputs": "LossFnInputs",
    "loss_fn_output": "LossFnOutput",
    "loss_fn_type": "LossFnType",
    "model_id": "ModelID",
    "model_input": "ModelInput",
    "model_input_chunk": "ModelInputChunk",
    "optim_step_request": "AdamParams OptimParams OptimStepRequest",
    "optim_step_response": "OptimStepResponse",
    "optimizer": (
        "AdamOptimizerConfig AdamParams DimuonOptimizerConfig DimuonParams OptimParams "
        "OptimizerConfig"
    ),
    "prompt_alt_tokens": "PromptAltTokens",
    "provenance_spans": "PromptProvenanceSpan ProvenanceSpans SampledProvenanceSpan",
    "request_error_category": "RequestErrorCategory",
    "request_id": "RequestID",
    "sample_request": "SampleRequest",
    "sample_response": "SampleResponse",
    "sampled_sequence": "SampledSequence",
    "sampling_client_kind": "SamplingClientKind",
    "sampling_params": "SamplingParams",
    "save_weights_external_request": "SaveWeightsExternalRequest",
    "save_weights_external_response": "SaveWeightsExternalResponse",
    "save_weights_for_sampler_request": "SaveWeightsForSamplerRequest",
    "save_weights_for_sampler_response": "SaveWeightsForSamplerResponse",
    "save_weights_request": "SaveWeightsRequest",
    "save_weights_response": "SaveWeightsResponse",
    "search_owner": "AccessibleSearchOwner OwnSearchOwner SearchOwner UserSearchOwner",
    "session_heartbeat_request": "SessionHeartbeatRequest",
    "session_heartbeat_response": "SessionHeartbeatResponse",
    "session_search_cursor": "SessionSearchCursor",
    "session_search_request": "SessionSearchRequest",
    "session_search_response": "SessionSearchResponse",
    "session_status": (
        "ClientSessionFinishErrored ClientSessionFinishInterrupted ClientSessionFinishReason "
        "ClientSessionFinishSuccess ClientSessionFinished SessionActive SessionCancelled "
        "SessionFailed SessionFailedReason SessionFailedRequestReason "
        "SessionFailedSamplingSessionReason SessionFailedTrainingRunReason SessionStatus"
    ),
    "session_status_query": (
        "ActiveSessionStatusQuery CancelledSessionStatusQuery ClientFinishedSessionStatusQuery "
        "ClientSessionFinishReasonType FailedSessionStatusQuery SessionStatusQuery"
    ),
    "session_summary": "SessionSummary",
    "severity": "Severity",
    "stop_reason": "StopReason",
    "telemetry_event": "TelemetryEvent",
    "telemetry_response": "TelemetryResponse",
    "telemetry_send_request": "TelemetrySendRequest",
    "tensor_data": "TensorData",
    "tensor_dtype": "TensorDtype",
    "training_run": "TrainingRun",
    "training_runs_response": "TrainingRunsResponse",
    "unload_model_request": "UnloadModelRequest",
    "unload_model_response": "UnloadModelResponse",
    "weights_info_response": "WeightsInfoResponse",
    "whoami_response": "WhoamiResponse",
}
"""The modules of `tinker.types`, and the types of each."""

_ERRORS: Names = {
    "TinkerError": "tinkex.errors:TinkexError",
    **_from(
        "tinkex.errors",
        "APIConnectionError APIError APIResponseValidationError APIStatusError APITimeoutError "
        "AuthenticationError BadRequestError BillingError ConflictError InternalServerError "
        "NotFoundError PermissionDeniedError RateLimitError RequestFailedError "
        "UnprocessableEntityError",
    ),
}
_CLIENTS: Names = _from(
    "tinkex.dropin.clients",
    "AdminClient BackcompatSamplingClientFuture BackcompatTrainingClientFuture RestClient "
    "SamplingClient ServiceClient TrainingClient",
)
_FUTURES: Names = _from("tinkex.dropin.futures", "APIFuture AwaitableConcurrentFuture")
_LOSSES: Names = _from("tinkex.losses.handle", "LossHandle PerDatumLossFn")

_INTERFACES: Mapping[str, Names] = {
    "admin_client": {"AdminClient": _CLIENTS["AdminClient"]},
    "api_future": _FUTURES,
    "backcompat_sampling_client_future": {
        name: _CLIENTS[name] for name in ("BackcompatSamplingClientFuture", "SamplingClient")
    },
    "backcompat_training_client_future": {
        name: _CLIENTS[name] for name in ("BackcompatTrainingClientFuture", "TrainingClient")
    },
    "custom_loss": _LOSSES,
    "rest_client": {"RestClient": _CLIENTS["RestClient"]},
    "sampling_client": {"SamplingClient": _CLIENTS["SamplingClient"]},
    "service_client": {"ServiceClient": _CLIENTS["ServiceClient"]},
    "training_client": {"TrainingClient": _CLIENTS["TrainingClient"]},
}

_IN_PACKAGE = (
    "AdamOptimizerConfig AdamParams Checkpoint CheckpointType Datum DimuonOptimizerConfig "
    "DimuonParams DmelChunk EncodedTextChunk ForwardBackwardOutput LoraConfig ModelID ModelInput "
    "ModelInputChunk OptimParams OptimStepRequest OptimStepResponse ParsedCheckpointTinkerPath "
    "PromptProvenanceSpan SampleRequest SampleResponse SampledProvenanceSpan SampledSequence "
    "SamplingParams StopReason TensorData TensorDtype TrainingRun"
)

MODULES: Mapping[str, Names] = {
    "tinker": {
        **_CLIENTS,
        "APIFuture": _FUTURES["APIFuture"],
        **_LOSSES,
        **_types(_IN_PACKAGE),
        **_ERRORS,
        "Timeout": "httpx:Timeout",
        "ExperimentalWarning": "tinkex.dropin.types:ExperimentalWarning",
        "__version__": "tinkex.dropin.table:RELEASE",
        "__title__": "tinkex.dropin.types:TITLE",
    },
    "tinker._exceptions": _ERRORS,
    "tinker._version": {
        "__version__": "tinkex.dropin.table:RELEASE",
        "__title__": "tinkex.dropin.types:TITLE",
    },
    "tinker.auth": _from(
        "tinkex.auth",
        "get_tinker_token raise_if_tinker_not_accessible tinker_has_credentials",
    ),
    "tinker.cli": {},
    "tinker.cli.__main__": {"cli": "tinkex.cli:main"},
    "tinker.lib": {},
    "tinker.lib.api_future_impl": _from("tinkex.dropin.types", "QueueState"),
    "tinker.lib.base_url": {
        "DEFAULT_BASE_URL": "tinkex.config.defaults:HOSTED_BASE_URL",
        "resolve_base_url": "tinkex.dropin.types:resolve_base_url",
    },
    "tinker.lib.experimental": _from("tinkex.dropin.types", "ExperimentalWarning"),
    "tinker.lib.public_interfaces": {**_CLIENTS, **_FUTURES, **_LOSSES},
    **{f"tinker.lib.public_interfaces.{module}": names for module, names in _INTERFACES.items()},
    "tinker.lib.retry_handler": _from(
        "tinkex.dropin.retries", "RetryConfig is_retryable_status_code"
    ),
    "tinker.lib.retryable_exception": _from("tinkex.dropin.retries", "RetryableException"),
    "tinker.proto": {},
    "tinker.proto.tinker_public_pb2": _from(
        "tinkex_proto.tinker_pb2",
        "ArrayRecord BatchedTensor Chunk DESCRIPTOR DTYPE_BFLOAT16 DTYPE_FLOAT32 DTYPE_INT32 "
        "DTYPE_INT64 DTYPE_UNSPECIFIED DType Datum DmelChunk EncodedTextChunk "
        "ForwardBackwardOutput ForwardBackwardRequest ImageChunk ImageDimensions LossConfigValue "
        "PromptAltTokens PromptProvenanceSpan ProvenanceSpan STOP_REASON_LENGTH STOP_REASON_STOP "
        "SampleResponse SampledProvenanceSpan SampledSequence SamplingParams SparseCsr StopReason "
        "StopStrings StopTokens Tensor TopkLogprobs",
    ),
    "tinker.types": _types(" ".join((*_TYPE_MODULES.values(), "UntypedAPIFuture"))),
    **{f"tinker.types.{module}": _types(names) for module, names in _TYPE_MODULES.items()},
    "tinker.types.topk_logprobs": _types("TopkLogprobs"),
    "tinker.types.shared": _types("UntypedAPIFuture"),
    "tinker.types.shared.untyped_api_future": _types("UntypedAPIFuture"),
}
"""Every module that the drop-in has, with the source of each name."""


def exported(module: str) -> list[str]:
    """Returns what `from MODULE import *` imports."""
    extra = ["auth", "types"] if module == "tinker" else []
    return [*MODULES[module], *extra]
