"""Opens a sampling session on the server: one set of weights to sample from."""

from __future__ import annotations

from tinkex_api.api.sampling import create_sampling_session
from tinkex_api.models import CreateSamplingSessionRequest

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, UnsupportedByServer
from tinkex.futures.poller import RequestState, of_fields, wait_for_result
from tinkex.session.session import Session
from tinkex.transport.answers import required_text


async def open_sampling_session(
    session: Session, *, base_model: str | None, model_path: str | None
) -> str:
    """Opens a sampling session, and returns its id. The weights are those of `model_path`, or else
    the base model's.

    Raises what `check_weights` does, and what `Transport.send` does.
    """
    transport = session.transport
    dialect = transport.server.dialect
    check_weights(dialect, base_model=base_model, model_path=model_path)
    body = CreateSamplingSessionRequest(session.session_id, next(session.sampler_numbers))
    body.model_path = model_path or None
    names_base = not model_path or dialect.sampling.names_base
    body.base_model = base_model if names_base else None
    answer = await transport.send(create_sampling_session.request(body=body))
    if answer.sampling_session_id:
        return answer.sampling_session_id
    # some servers open the session later, and answer with a future
    state = RequestState("create_sampling_session", answer.request_id)
    return await wait_for_result(
        transport, state, of_fields(lambda fields: required_text(fields, "sampling_session_id"))
    )


def check_weights(dialect: Dialect, *, base_model: str | None, model_path: str | None) -> None:
    """Checks that the server can sample from these weights.

    Raises:
        InvalidInputError: no weights are given.
        UnsupportedByServer: the server cannot sample from them.
    """
    if not (base_model or model_path):
        raise InvalidInputError("create_sampling_client needs base_model or model_path")
    if not model_path and not dialect.sampling.base_models:
        raise UnsupportedByServer(
            f"{dialect.name} does not sample from a base model",
            server=dialect.name,
            operation="create_sampling_session",
            advice=(
                "Make a training client and call save_weights_and_get_sampling_client at once: a "
                "new adapter changes nothing."
            ),
        )
    if model_path and "/sampler_weights/" in model_path and not dialect.sampling.saved_names:
        raise UnsupportedByServer(
            f"{dialect.name} cannot sample from what save_weights_for_sampler saved by name",
            server=dialect.name,
            operation="create_sampling_session",
            advice=(
                "Save with save_state and sample from its path, or call "
                "save_weights_and_get_sampling_client."
            ),
        )
