"""The types that users construct, and those of the results.

Arrays, prompts and what holds them have classes of their own here; all other types are the
generated ones. Each is imported when it is first used: few programs need many of them, and each
costs time to make.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinkex._homes import HOMES

if TYPE_CHECKING:
    from tinkex_api.models import (
        ApiKeyInfoResponse,
        AuditLogEntry,
        AuditLogResponse,
        BillingEventInfo,
        BillingUsageEvent,
        BillingUsageResponse,
        BillingUsageSession,
        Checkpoint,
        CheckpointArchiveUrlResponse,
        CheckpointSearchCursor,
        CheckpointSearchResponse,
        CheckpointsListResponse,
        CopyWeightsResponse,
        CurrentCheckpointStorageUsageItem,
        CurrentCheckpointStorageUsageResponse,
        Cursor,
        ExternalWeightsUrlsResponse,
        GetInfoResponse,
        GetSamplerResponse,
        GetServerCapabilitiesResponse,
        GetSessionResponse,
        ListSessionsResponse,
        LoadWeightsResponse,
        ModelData,
        OptimStepResponse,
        SaveWeightsExternalResponse,
        SaveWeightsForSamplerResponse,
        SaveWeightsResponse,
        SessionSearchResponse,
        SessionStatus,
        SessionStatusReason,
        SessionSummary,
        SupportedModel,
        TrainingRun,
        TrainingRunsResponse,
        WeightsInfoResponse,
    )

    from tinkex.types.arrays import ArrayLike, TensorDtype
    from tinkex.types.checkpoint_path import CheckpointType, ParsedCheckpointTinkerPath
    from tinkex.types.datum import Datum, LossFnInputs
    from tinkex.types.identity import WhoamiResponse
    from tinkex.types.made_by_users import (
        AdamParams,
        DimuonParams,
        LoraConfig,
        OptimizerConfig,
        SamplingParams,
        SearchOwner,
        SessionSearchCursor,
        SessionStatusQuery,
        SgdParams,
    )
    from tinkex.types.model_input import (
        DmelChunk,
        EncodedTextChunk,
        ImageAssetPointerChunk,
        ImageChunk,
        ModelInput,
        ModelInputChunk,
        as_model_input,
    )
    from tinkex.types.outputs import (
        ForwardBackwardOutput,
        LossFnOutput,
        PromptAltTokens,
        SampledSequence,
        SampleResponse,
        TrainStepOutput,
    )
    from tinkex.types.provenance import (
        PromptProvenanceSpan,
        ProvenanceSpan,
        ProvenanceSpans,
        SampledProvenanceSpan,
    )
    from tinkex.types.queries import (
        AccessScope,
        AuditEventType,
        CheckpointSearchRequest,
        SessionSearchRequest,
    )
    from tinkex.types.tensor import TensorData
    from tinkex.types.topk import TopkLogprobs

__all__ = [
    "AccessScope",
    "AdamParams",
    "ApiKeyInfoResponse",
    "ArrayLike",
    "AuditEventType",
    "AuditLogEntry",
    "AuditLogResponse",
    "BillingEventInfo",
    "BillingUsageEvent",
    "BillingUsageResponse",
    "BillingUsageSession",
    "Checkpoint",
    "CheckpointArchiveUrlResponse",
    "CheckpointSearchCursor",
    "CheckpointSearchRequest",
    "CheckpointSearchResponse",
    "CheckpointType",
    "CheckpointsListResponse",
    "CopyWeightsResponse",
    "CurrentCheckpointStorageUsageItem",
    "CurrentCheckpointStorageUsageResponse",
    "Cursor",
    "Datum",
    "DimuonParams",
    "DmelChunk",
    "EncodedTextChunk",
    "ExternalWeightsUrlsResponse",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "GetSessionResponse",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "ListSessionsResponse",
    "LoadWeightsResponse",
    "LoraConfig",
    "LossFnInputs",
    "LossFnOutput",
    "ModelData",
    "ModelInput",
    "ModelInputChunk",
    "OptimStepResponse",
    "OptimizerConfig",
    "ParsedCheckpointTinkerPath",
    "PromptAltTokens",
    "PromptProvenanceSpan",
    "ProvenanceSpan",
    "ProvenanceSpans",
    "SampleResponse",
    "SampledProvenanceSpan",
    "SampledSequence",
    "SamplingParams",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "SearchOwner",
    "SessionSearchCursor",
    "SessionSearchRequest",
    "SessionSearchResponse",
    "SessionStatus",
    "SessionStatusQuery",
    "SessionStatusReason",
    "SessionSummary",
    "SgdParams",
    "SupportedModel",
    "TensorData",
    "TensorDtype",
    "TopkLogprobs",
    "TrainStepOutput",
    "TrainingRun",
    "TrainingRunsResponse",
    "WeightsInfoResponse",
    "WhoamiResponse",
    "as_model_input",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Returns all types for completion, including those that are not imported yet."""
    return __all__
