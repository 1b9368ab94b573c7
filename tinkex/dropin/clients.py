"""The clients of the drop-in: those of tinkex, with the constructors and the results that programs
for the official SDK expect.

Calls that wait for the server return futures here, where a blocking client of tinkex waits itself.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn, TypeVar

import httpx

from tinkex.dropin import console
from tinkex.dropin.client_futures import ClientFuture
from tinkex.dropin.futures import SampleFuture, begun
from tinkex.dropin.holder import Holder, ServiceHolder
from tinkex.dropin.tokenizers import as_transformers
from tinkex.dropin.types import QueueState
from tinkex.portal.official_calls import deprecated_twin
from tinkex.rest.admin import AsyncAdminClient
from tinkex.sync import admin, rest, sampling, service, training

C = TypeVar("C")


def _future_of(name: str, owner: type[Any]) -> Any:
    """Returns a method that calls the asyncio client's, and returns a future of its result."""

    @wraps(getattr(owner, name))
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return begun(self._portal, name, getattr(self._client, name), *args, **kwargs)

    return call


def _future_of_client(
    name: str, owner: type[Any], client: type[Any], future: type[ClientFuture[Any]]
) -> Any:
    """Returns a method that calls the asyncio client's, and returns a future of the client that it
    creates.

    Args:
        name: the name of the method.
        owner: the class of tinkex whose method this replaces.
        client: the class of the client.
        future: the class of the future.
    """

    @wraps(getattr(owner, name))
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        async def create() -> Any:
            return client(await getattr(self._client, name)(*args, **kwargs), self._portal)

        return future(begun(self._portal, name, create), self._portal)

    return call


def _future_of_sample(method: Callable[..., Any]) -> Any:
    """Returns a method that calls this one, and returns a future of the standard library."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> SampleFuture[Any]:
        return SampleFuture(method(self, *args, **kwargs))

    return call


def _twin(name: str) -> Any:
    """Returns the method `…_async`, which awaits the future of the other. Deprecated."""

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        deprecated_twin(name)
        return await getattr(self, name)(*args, **kwargs)

    call.__name__ = f"{name}_async"
    call.__doc__ = f"Calls `{name}` and awaits its future. Deprecated: use that instead."
    return call


class _Common:
    """The members that every client of the official SDK has besides its calls of the server."""

    def get_telemetry(self) -> None:
        """Returns None: the clients report to no server but the hosted one, and how that goes is
        heard by `tinkex.telemetry.attach`.
        """


class _WithoutSession(_Common):
    """A client that begins no session."""

    @property
    def holder(self) -> NoReturn:
        """Raises `AttributeError`: the object behind the clients of the official SDK."""
        raise AttributeError(
            "holder is the official SDK's own object, which a client without a session does not "
            "have here. Use the public methods of the clients; in an event loop, await their "
            "futures.",
            name="holder",
            obj=self,
        )


class _InSession(_Common):
    """A client of a session that has begun."""

    _client: Any

    @property
    def holder(self) -> Holder:
        """The session of the client."""
        return Holder(lambda: self._client._session.session_id)


class _ItsOwnFuture:
    """A client that is there, and may be waited for as the future that created it.

    The methods that give something to await are plain functions: programs that wrap or count every
    coroutine function of a client find those of the official SDK alone.
    """

    def result_async(self, timeout: float | None = None) -> Any:
        """Returns a coroutine of the client itself."""
        return _value(self)

    def coroutine(self) -> Any:
        """Returns a coroutine of the client itself."""
        return _value(self)


async def _value(client: C) -> C:
    return client


class SamplingClient(_InSession, _ItsOwnFuture, sampling.SamplingClient):
    """A client that samples from one set of weights. Created by a service or a training client."""

    @staticmethod
    def from_sampler_handle(handle: str, *, api_key: str | None = None) -> SamplingClient:
        """Returns a client for the sampler that `get_sampler_handle` described."""
        made = sampling.SamplingClient.from_sampler_handle(handle, api_key=api_key)
        return SamplingClient(made._client, made._portal)

    @property
    def _sampling_session_id(self) -> str:
        """The name that the official SDK has for `sampling_session_id`, which programs read for
        `RestClient.get_sampler`.
        """
        return self.sampling_session_id

    sample = _future_of_sample(sampling.SamplingClient.sample)
    compute_logprobs = _future_of_sample(sampling.SamplingClient.compute_logprobs)

    @property
    def on_queue_state_change(self) -> Callable[[Any, str | None], object]:
        """The function that is called as `on_queue_state_change(queue_state, reason)` when the
        server reports another reason for which a sample waits.
        """
        return self._client.on_queue_state_change

    @on_queue_state_change.setter
    def on_queue_state_change(self, value: Callable[[Any, str | None], object]) -> None:
        def observe(state: str, reason: str | None) -> None:
            value(QueueState(state), reason)

        self._client.on_queue_state_change = observe

    def get_tokenizer(self) -> Any:
        """Returns the base model's tokenizer: one of transformers where that is installed."""
        return as_transformers(super().get_tokenizer())


class BackcompatSamplingClientFuture(ClientFuture[SamplingClient], SamplingClient):
    """A future of a sampling client, which can be used as one."""


class TrainingClient(_InSession, _ItsOwnFuture, training.TrainingClient):
    """One model in training. Created by a service client."""

    create_sampling_client = _future_of_client(
        "create_sampling_client",
        training.TrainingClient,
        SamplingClient,
        BackcompatSamplingClientFuture,
    )
    create_sampling_client_async = _twin("create_sampling_client")
    save_weights_and_get_sampling_client = _future_of_client(
        "save_weights_and_get_sampling_client",
        training.TrainingClient,
        SamplingClient,
        BackcompatSamplingClientFuture,
    )
    save_weights_and_get_sampling_client_async = _twin("save_weights_and_get_sampling_client")

    def get_tokenizer(self) -> Any:
        """Returns the model's tokenizer: one of transformers where that is installed."""
        return as_transformers(super().get_tokenizer())

    def get_console_url(self) -> str:
        """Returns the address of a page about this model, or a text that says that there is
        none.
        """
        transport = self._client._transport
        return console.training_run(transport.base_url, self.model_id)


class BackcompatTrainingClientFuture(ClientFuture[TrainingClient], TrainingClient):
    """A future of a training client, which can be used as one."""


class AdminClient(_WithoutSession, admin.AdminClient):
    """A client for the audit log, the billing and the storage of an organization."""

    def __init__(self, *, base_url: str | None = None, api_key: str | None = None) -> None:
        super().__init__(base_url=base_url, api_key=api_key)


class RestClient(_WithoutSession, rest.RestClient):
    """A client that lists and manages what a server holds. It begins no session."""

    def __init__(self, *, base_url: str | None = None, api_key: str | None = None) -> None:
        super().__init__(base_url=base_url, api_key=api_key)


_REST_CALLS = (
    "assign_session_project",
    "copy_weights",
    "delete_checkpoint",
    "delete_checkpoint_from_tinker_path",
    "export_session_trace",
    "get_checkpoint_archive_url",
    "get_checkpoint_archive_url_from_tinker_path",
    "get_external_weights_urls",
    "get_sampler",
    "get_server_capabilities",
    "get_session",
    "get_training_run",
    "get_training_run_by_tinker_path",
    "get_weights_info_by_tinker_path",
    "list_checkpoints",
    "list_sessions",
    "list_training_runs",
    "list_user_checkpoints",
    "publish_checkpoint_from_tinker_path",
    "search_sessions",
    "set_checkpoint_ttl_from_tinker_path",
    "unpublish_checkpoint_from_tinker_path",
    "whoami",
)
_ADMIN_CALLS = ("get_audit_log", "get_billing_usage", "get_current_checkpoint_storage_usage")


def _moved_to_admin(name: str) -> Any:
    """Returns a method of the REST client that calls the admin client's. Deprecated."""

    @wraps(getattr(admin.AdminClient, name))
    def call(self: RestClient, *args: Any, **kwargs: Any) -> Any:
        warnings.warn(
            f"RestClient.{name} is deprecated: use AdminClient.{name}", FutureWarning, stacklevel=2
        )
        client = AsyncAdminClient.over(self._client._connected())
        return begun(self._portal, name, getattr(client, name), *args, **kwargs)

    return call


for _name in _REST_CALLS:
    setattr(RestClient, _name, _future_of(_name, rest.RestClient))
    setattr(RestClient, f"{_name}_async", _twin(_name))
for _name in _ADMIN_CALLS:
    setattr(AdminClient, _name, _future_of(_name, admin.AdminClient))
    setattr(AdminClient, f"{_name}_async", _twin(_name))
    setattr(RestClient, _name, _moved_to_admin(_name))
    setattr(RestClient, f"{_name}_async", _twin(_name))


class ServiceClient(_Common, service.ServiceClient):
    """A connection to a server, and the session in which its models and samplers live.

    Args:
        user_metadata: metadata of the program's own, kept with the session.
        project_id: the project that the session belongs to; by default `TINKER_PROJECT_ID`.
        display_name: a name for people.
        base_url: the URL of the server; by default `TINKER_BASE_URL`, else the hosted service.
        api_key: an API key; by default `TINKER_API_KEY`.
        default_headers_overrides: headers of each request.
        more: `default_headers`, `timeout` in seconds or as an `httpx.Timeout`, and `max_retries`.
            Others are ignored with a `FutureWarning`, as in the official SDK.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    def __init__(
        self,
        user_metadata: Mapping[str, str] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        unknown = [name for name in more if name not in _SETTINGS]
        if unknown:
            warnings.warn(
                f"ServiceClient has no parameter {', '.join(unknown)}, which is ignored; "
                "the settings of tinkex are in tinkex.Config",
                FutureWarning,
                stacklevel=2,
            )
        super().__init__(
            base_url,
            api_key,
            user_metadata=user_metadata,
            project_id=project_id,
            display_name=display_name,
            default_headers=more.get("default_headers"),
            default_headers_overrides=default_headers_overrides,
            timeout=_seconds(more.get("timeout")),
            max_retries=more.get("max_retries"),
        )

    create_lora_training_client = _future_of_client(
        "create_lora_training_client",
        service.ServiceClient,
        TrainingClient,
        BackcompatTrainingClientFuture,
    )
    create_lora_training_client_async = _twin("create_lora_training_client")
    create_training_client_from_state = _future_of_client(
        "create_training_client_from_state",
        service.ServiceClient,
        TrainingClient,
        BackcompatTrainingClientFuture,
    )
    create_training_client_from_state_async = _twin("create_training_client_from_state")
    create_training_client_from_state_with_optimizer = _future_of_client(
        "create_training_client_from_state_with_optimizer",
        service.ServiceClient,
        TrainingClient,
        BackcompatTrainingClientFuture,
    )
    create_training_client_from_state_with_optimizer_async = _twin(
        "create_training_client_from_state_with_optimizer"
    )
    create_sampling_client = _future_of_client(
        "create_sampling_client",
        service.ServiceClient,
        SamplingClient,
        BackcompatSamplingClientFuture,
    )
    create_sampling_client_async = _twin("create_sampling_client")
    create_custom_loss = _future_of("create_custom_loss", service.ServiceClient)
    copy_weights = _future_of("copy_weights", service.ServiceClient)
    copy_weights_async = _twin("copy_weights")
    close = _future_of("close", service.ServiceClient)

    @property
    def holder(self) -> ServiceHolder:
        """The session, which begins when its id is read, unless it has begun before."""

        async def begin() -> str:
            return (await self._client._begun()).session_id

        def session_id() -> str:
            return begun(self._portal, "create_session", begin).result()

        return ServiceHolder(session_id, lambda: self.close("success").result())

    def create_rest_client(self) -> RestClient:
        """Returns a client for sessions, training runs and checkpoints."""
        return RestClient._around(self._portal.call(self._client.create_rest_client), self._portal)

    def get_console_url(self) -> str:
        """Returns the address of a page about this session, or a text that says that there is
        none.
        """
        session = self._client._session
        if session is None:
            return console.sessions(self.config.base_url)
        return console.session(session.transport.base_url, session.session_id)


_SETTINGS = ("default_headers", "timeout", "max_retries")


def _seconds(timeout: float | httpx.Timeout | None) -> float | None:
    return timeout.read if isinstance(timeout, httpx.Timeout) else timeout
