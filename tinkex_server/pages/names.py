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
_TRAINING_SECONDS = 10.0
"""The seconds after a request for which a run counts as training: programs compute, too, between
their requests.
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
_TRAINING = StatusWords(
    "training", "accent", "Requests of the run are computed now, or were a moment ago."
)


def status_words(run: ListedRun, pending: int, now: float) -> StatusWords:
    """Returns the state of a run that has this many pending requests."""
    was_active = run.steps > 0 and run.model.last_request_at > now - _TRAINING_SECONDS
    is_training = run.status == "ready" and (pending > 0 or was_active)
    return _TRAINING if is_training else _STATUSES[run.status]


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
    named = _name_in(model.user_metadata)
    return (session and session.display_name) or named or _session_name(session) or model.model_id


def session_title(session: SessionRow) -> str:
    """Returns the name of a session, or else its id."""
    return _session_name(session) or session.session_id


def _session_name(session: SessionRow | None) -> str | None:
    return session and (session.display_name or _name_in(session.user_metadata))


def _name_in(metadata: Mapping[str, str]) -> str | None:
    return next((metadata[key] for key in _NAMES if metadata.get(key)), None)


def metadata_of(run: ListedRun) -> Mapping[str, str]:
    """Returns the metadata of a run and of its session, without what is its title."""
    title = title_of(run.model, run.session)
    return without_title({**run.session.user_metadata, **run.model.user_metadata}, title)


def without_title(metadata: Mapping[str, str], title: str) -> Mapping[str, str]:
    """Returns the metadata without the name that is shown as a title."""
    return {key: value for key, value in metadata.items() if key not in _NAMES or value != title}


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
    name = session_title(session) if session else ""
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
