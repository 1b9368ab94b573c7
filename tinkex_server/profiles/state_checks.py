"""`StateChecks`: the refusals and failures of a profile's server that depend on more than the
request itself.
"""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request

from tinkex_server import checkpoint_path
from tinkex_server.profiles.history import History
from tinkex_server.profiles.profile import Profile
from tinkex_server.profiles.request_bodies import HandlerDied
from tinkex_server.profiles.templates import Fields, Reply, list_at, mapping_at, text_at
from tinkex_server.state import ServerState
from tinkex_server.wire.refusals import RefusedWithStatus


@frozen(eq=False)
class StateChecks:
    """The checks of a request against the models, checkpoints and samplers that exist."""

    _state: ServerState
    _profile: Profile
    _history: History

    def check(self, operation: str, fields: Fields) -> None:
        """Raises `Refused`, or `HandlerDied`, for a request that the POST itself refuses."""
        if operation == "load_weights":
            self._check_load(fields)
        if operation == "create_sampling_session" and not self._profile.sampling.named_weights:
            _check_readable(fields)
        if operation == "asample":
            self._check_sample(fields)

    def find_failure(self, operation: str, request: Request, fields: Fields) -> Reply | None:
        """Returns the failure of a future that cannot succeed, if that is known now."""
        if (
            operation == "optim_step"
            and self._profile.needs_gradient
            and not self._history.take_gradient(text_at(fields, "model_id"))
        ):
            return self._failure(
                "server", "Traceback (most recent call last): no gradient since the last step"
            )
        batch = mapping_at(fields, f"{operation}_input") or {}
        if "authorization" in request.headers and self._is_odd(batch):
            return self._failure("user", "the batch size is not divisible by 2")
        return None

    def samples_base(self, fields: Fields) -> bool:
        """Returns whether a sample is drawn from a base model."""
        session = text_at(fields, "sampling_session_id")
        row = None if session is None else self._state.store.samplers.get(session)
        is_base = row is None or (row.folder is None and row.model_path is None)
        return is_base and not fields.get("model_path")

    def _check_load(self, fields: Fields) -> None:
        rule = self._profile.loading
        if not rule.by_session and not fields.get("model_id"):
            raise RefusedWithStatus(rule.no_model, "Missing model_id")
        path = text_at(fields, "path")
        if (
            rule.missing_checkpoint
            and path is not None
            and self._state.store.checkpoints.get(checkpoint_path.parse(path)) is None
        ):
            raise RefusedWithStatus(rule.missing_checkpoint, f"Checkpoint not found: {path}")

    def _check_sample(self, fields: Fields) -> None:
        session = text_at(fields, "sampling_session_id")
        if session in self._history.baseless_sessions:
            raise RefusedWithStatus(400, "base_model is required")
        if not self._profile.sampling.base_models and self.samples_base(fields):
            raise RefusedWithStatus(400, f"Adapter {session or fields.get('base_model')} not found")

    def _is_odd(self, batch: Fields) -> bool:
        """Returns whether the loss needs an even number of data and has an odd one."""
        return (
            text_at(batch, "loss_fn") in self._profile.batches.even_with_bearer
            and len(list_at(batch, "data")) % 2 == 1
        )

    def _failure(self, category: str, error: str) -> Reply:
        values = {"error": error, "category": category}
        return self._profile.failed.get(category, Reply(200, values)).filled(values)


def _check_readable(fields: Fields) -> None:
    path = text_at(fields, "model_path")
    if path and checkpoint_path.parse(path).kind == checkpoint_path.SAMPLER_WEIGHTS:
        raise HandlerDied(f"KeyError: {path}")
