"""The names and states of runs, sessions and metrics, in words."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from attrs import frozen

from tinkex_server.state import CommonState
from tinkex_server.store import ListedRun, ModelRow, RunStatus, SessionRow

SILENT_SECONDS = 60.0
"""The seconds without a heartbeat or a request after which a client counts as gone. Clients send a
heartbeat every ten.
"""
_NAMES = ("name", "run_name", "title", "experiment")
"""The keys of metadata that name a run whose session has no name."""


@frozen
class StatusWords:
    """A state in a word or two, its colour, and a sentence that explains it."""

    label: str
    kind: str
    about: str


_STATUSES: Mapping[RunStatus, StatusWords] = {
    "creating": StatusWords("starting", "busy", "The model is being created."),
    "ready": StatusWords("ready", "good", "The model is in memory and waits for requests."),
    "gone": StatusWords("client gone", "warn", "The client has sent no sign of life for a minute."),
    "finished": StatusWords("finished", "soft", "The client has ended its session."),
    "interrupted": StatusWords("interrupted", "soft", "The program was interrupted."),
    "errored": StatusWords("client failed", "bad", "The program ended with an error."),
    "unloaded": StatusWords("unloaded", "soft", "The client has unloaded the model."),
    "failed": StatusWords("failed", "bad", "The model could not be created, or was lost."),
    "lost": StatusWords("lost", "bad", "The server was restarted while the model was in memory."),
}
_TRAINING = StatusWords("training", "accent", "Requests of the run are being worked on.")


def status_words(run: ListedRun, pending: int) -> StatusWords:
    """Returns the state of a run that has this many pending requests."""
    return _TRAINING if pending and run.status == "ready" else _STATUSES[run.status]


def session_words(session: SessionRow, now: float) -> StatusWords:
    """Returns the state of a session."""
    if session.finished_at is None:
        silent = session.heartbeat_at < now - SILENT_SECONDS
        return _STATUSES["gone"] if silent else StatusWords("open", "good", "The client is there.")
    if session.finish_reason == "success":
        return _STATUSES["finished"]
    if session.finish_reason == "errored":
        return _STATUSES["errored"]
    return _STATUSES["interrupted" if session.finish_reason == "interrupted" else "gone"]


def title_of(model: ModelRow, session: SessionRow | None) -> str:
    """Returns the name of a run: that of its session, one in its metadata, or else its id."""
    if session and session.display_name:
        return session.display_name
    metadata = {**(session.user_metadata if session else {}), **model.user_metadata}
    return next((metadata[key] for key in _NAMES if metadata.get(key)), model.model_id)


def metadata_of(run: ListedRun) -> Mapping[str, str]:
    """Returns the metadata of a run and of its session."""
    return {**run.session.user_metadata, **run.model.user_metadata}


@frozen
class Subject:
    """The subject of a request: the name of a run, a session or weights, with the run's page."""

    title: str
    href: str | None = None


def subject_of(state: CommonState, scope: str) -> Subject:
    """Returns what the scope of a request stands for."""
    model = state.store.models.get(scope)
    if model:
        session = state.store.sessions.get(model.session_id)
        return Subject(title_of(model, session), run_url(model.model_id))
    sampler = state.store.samplers.get(scope)
    session = state.store.sessions.get(sampler.session_id if sampler else scope)
    weights = (sampler.model_path or sampler.base_model) if sampler else ""
    name = (session.display_name if session else None) or (session.session_id if session else "")
    return Subject(", ".join(part for part in (name, weights) if part) or scope or "no run")


def run_url(model_id: str) -> str:
    return f"/runs/{quote(model_id, safe=':')}"


_METRICS = {
    "loss": "Loss per token",
    "tokens_per_second": "Tokens per second",
    "tokens:sum": "Tokens",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
}


def metric_title(name: str) -> str:
    return _METRICS.get(name, name)
