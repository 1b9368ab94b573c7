"""Types that programs for the official SDK name, and tinkex itself has no need of."""

from __future__ import annotations

import os
from enum import Enum, StrEnum
from typing import Any, Literal, TypeAlias

from tinkex_api.models import (
    AdamParams,
    BillingEventInfo,
    DimuonParams,
    FutureCompletion,
    OptimizerConfig,
    SearchOwner,
    SessionStatus,
    SessionStatusQuery,
    SessionStatusReason,
    SgdParams,
)

from tinkex.config.defaults import HOSTED_BASE_URL

TITLE = "tinker"
ModelID: TypeAlias = str
RequestID: TypeAlias = str
StopReason = Literal["length", "stop"]
LossFnType = Literal[
    "cross_entropy",
    "importance_sampling",
    "ppo",
    "cispo",
    "dro",
    "gspo",
    "stable_reinforce",
    "custom",
]
SamplingClientKind = Literal["snapshot", "inflight"]
CustomLossInputRank = Literal[0, 1, 2]
Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
EventType = Literal["SESSION_START", "SESSION_END", "UNHANDLED_EXCEPTION", "GENERIC_EVENT"]
ClientSessionFinishReasonType = Literal["success", "errored", "interrupted"]
OptimParams: TypeAlias = AdamParams | DimuonParams | SgdParams


class RequestErrorCategory(StrEnum):
    """Whose fault a failed request is, by the server. Equals the texts of
    `RequestFailedError.category`.
    """

    Unknown = "unknown"
    Server = "server"
    User = "user"


class QueueState(Enum):
    """Why a request waits on the server: what `on_queue_state_change` is called with."""

    ACTIVE = "active"
    PAUSED_RATE_LIMIT = "paused_rate_limit"
    PAUSED_CAPACITY = "paused_capacity"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> QueueState:
        return cls.UNKNOWN


class ExperimentalWarning(FutureWarning):
    """A category of warnings of the official SDK. Tinkex never warns with it."""


def resolve_base_url(base_url: str | None = None) -> str:
    """Returns the URL, else `TINKER_BASE_URL`, else that of the hosted service."""
    return base_url or os.environ.get("TINKER_BASE_URL") or HOSTED_BASE_URL


# ---- a class for each kind of what is one class here ----


class _Kind(type):
    """A metaclass of classes that stand for the values of another class with one `type`."""

    whole: type[Any]
    field: str
    value: str

    def __call__(cls, **fields: Any) -> Any:
        """Returns a value of the whole class, with this type."""
        return cls.whole(**{cls.field: cls.value, **fields})

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.whole) and getattr(instance, cls.field) == cls.value


def _kind(name: str, whole: type[Any], value: str, *, field: str = "type") -> Any:
    return _Kind(name, (), {"whole": whole, "field": field, "value": value, "__module__": __name__})


AdamOptimizerConfig = _kind("AdamOptimizerConfig", OptimizerConfig, "adamw")


def DimuonOptimizerConfig(*, type: str = "dimuon", version: int = 1) -> OptimizerConfig:  # noqa: N802, A002
    """Returns the configuration of a Dimuon optimizer."""
    return OptimizerConfig(type=type, version=version)


OwnSearchOwner = _kind("OwnSearchOwner", SearchOwner, "own")
AccessibleSearchOwner = _kind("AccessibleSearchOwner", SearchOwner, "accessible")
UserSearchOwner = _kind("UserSearchOwner", SearchOwner, "user")

SessionActive = _kind("SessionActive", SessionStatus, "active")
SessionCancelled = _kind("SessionCancelled", SessionStatus, "cancelled")
SessionFailed = _kind("SessionFailed", SessionStatus, "failed")
ClientSessionFinished = _kind("ClientSessionFinished", SessionStatus, "client_finished")

SessionFailedReason: TypeAlias = SessionStatusReason
SessionFailedRequestReason = _kind("SessionFailedRequestReason", SessionStatusReason, "request")
SessionFailedTrainingRunReason = _kind(
    "SessionFailedTrainingRunReason", SessionStatusReason, "training_run"
)
SessionFailedSamplingSessionReason = _kind(
    "SessionFailedSamplingSessionReason", SessionStatusReason, "sampling_session"
)
ClientSessionFinishReason: TypeAlias = SessionStatusReason
ClientSessionFinishSuccess = _kind("ClientSessionFinishSuccess", SessionStatusReason, "success")
ClientSessionFinishErrored = _kind("ClientSessionFinishErrored", SessionStatusReason, "errored")
ClientSessionFinishInterrupted = _kind(
    "ClientSessionFinishInterrupted", SessionStatusReason, "interrupted"
)

ActiveSessionStatusQuery = _kind("ActiveSessionStatusQuery", SessionStatusQuery, "active")
CancelledSessionStatusQuery = _kind("CancelledSessionStatusQuery", SessionStatusQuery, "cancelled")
FailedSessionStatusQuery = _kind("FailedSessionStatusQuery", SessionStatusQuery, "failed")
ClientFinishedSessionStatusQuery = _kind(
    "ClientFinishedSessionStatusQuery", SessionStatusQuery, "client_finished"
)

TrainingBillingEvent = _kind("TrainingBillingEvent", BillingEventInfo, "training")
SamplingPrefillBillingEvent = _kind(
    "SamplingPrefillBillingEvent", BillingEventInfo, "sampling_prefill"
)
SamplingSampleBillingEvent = _kind(
    "SamplingSampleBillingEvent", BillingEventInfo, "sampling_sample"
)
CheckpointBillingEvent = _kind("CheckpointBillingEvent", BillingEventInfo, "checkpoint")
StorageBillingEvent = _kind("StorageBillingEvent", BillingEventInfo, "storage")

FutureFinished = _kind("FutureFinished", FutureCompletion, "finished", field="state")
FutureFailed = _kind("FutureFailed", FutureCompletion, "failed", field="state")
