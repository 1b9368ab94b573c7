"""Types that programs for the official SDK name, and tinkex itself has no need of."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
    """The causer of a failed request, according to the server. Its members equal the texts of
    `RequestFailedError.category`.
    """

    Unknown = "unknown"
    Server = "server"
    User = "user"


class QueueState(Enum):
    """A reason for which a request waits on the server, as `on_queue_state_change` receives it."""

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
    """A metaclass of classes whose values are those of another class that have one type."""

    whole: type[Any]
    given: Mapping[str, Any]

    def __call__(cls, **fields: Any) -> Any:
        """Returns a value of the whole class, with this type."""
        return cls.whole(**{**cls.given, **fields})

    def __instancecheck__(cls, instance: Any) -> bool:
        kind = next(iter(cls.given))
        return isinstance(instance, cls.whole) and getattr(instance, kind) == cls.given[kind]

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.whole, name)


def _kind(name: str, whole: type[Any], **given: Any) -> Any:
    """Returns a class for the values of `whole` whose field has the first value of `given`. The
    others are defaults.
    """
    return _Kind(name, (), {"whole": whole, "given": given, "__module__": __name__})


AdamOptimizerConfig = _kind("AdamOptimizerConfig", OptimizerConfig, type="adamw")
DimuonOptimizerConfig = _kind("DimuonOptimizerConfig", OptimizerConfig, type="dimuon", version=1)

OwnSearchOwner = _kind("OwnSearchOwner", SearchOwner, type="own")
AccessibleSearchOwner = _kind("AccessibleSearchOwner", SearchOwner, type="accessible")
UserSearchOwner = _kind("UserSearchOwner", SearchOwner, type="user")

SessionActive = _kind("SessionActive", SessionStatus, type="active")
SessionCancelled = _kind("SessionCancelled", SessionStatus, type="cancelled")
SessionFailed = _kind("SessionFailed", SessionStatus, type="failed")
ClientSessionFinished = _kind("ClientSessionFinished", SessionStatus, type="client_finished")

SessionFailedReason: TypeAlias = SessionStatusReason
SessionFailedRequestReason = _kind(
    "SessionFailedRequestReason", SessionStatusReason, type="request"
)
SessionFailedTrainingRunReason = _kind(
    "SessionFailedTrainingRunReason", SessionStatusReason, type="training_run"
)
SessionFailedSamplingSessionReason = _kind(
    "SessionFailedSamplingSessionReason", SessionStatusReason, type="sampling_session"
)
ClientSessionFinishReason: TypeAlias = SessionStatusReason
ClientSessionFinishSuccess = _kind(
    "ClientSessionFinishSuccess", SessionStatusReason, type="success"
)
ClientSessionFinishErrored = _kind(
    "ClientSessionFinishErrored", SessionStatusReason, type="errored"
)
ClientSessionFinishInterrupted = _kind(
    "ClientSessionFinishInterrupted", SessionStatusReason, type="interrupted"
)

ActiveSessionStatusQuery = _kind("ActiveSessionStatusQuery", SessionStatusQuery, type="active")
CancelledSessionStatusQuery = _kind(
    "CancelledSessionStatusQuery", SessionStatusQuery, type="cancelled"
)
FailedSessionStatusQuery = _kind("FailedSessionStatusQuery", SessionStatusQuery, type="failed")
ClientFinishedSessionStatusQuery = _kind(
    "ClientFinishedSessionStatusQuery", SessionStatusQuery, type="client_finished"
)

TrainingBillingEvent = _kind("TrainingBillingEvent", BillingEventInfo, type="training")
SamplingPrefillBillingEvent = _kind(
    "SamplingPrefillBillingEvent", BillingEventInfo, type="sampling_prefill"
)
SamplingSampleBillingEvent = _kind(
    "SamplingSampleBillingEvent", BillingEventInfo, type="sampling_sample"
)
CheckpointBillingEvent = _kind("CheckpointBillingEvent", BillingEventInfo, type="checkpoint")
StorageBillingEvent = _kind("StorageBillingEvent", BillingEventInfo, type="storage", free=False)

FutureFinished = _kind("FutureFinished", FutureCompletion, state="finished")
FutureFailed = _kind("FutureFailed", FutureCompletion, state="failed")
