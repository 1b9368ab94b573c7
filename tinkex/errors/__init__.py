"""The exceptions of tinkex.

    TinkexError
    ├── ConfigError                  a setting is missing or wrong             (also a ValueError)
    │   └── MissingKeyError          the hosted service needs an API key, and there is none
    ├── CredentialError              the function or command for the API key gave no key
    ├── InvalidInputError            an argument is wrong                      (also a ValueError)
    │   └── ArgumentError            an argument has a wrong type or name       (also a TypeError)
    ├── ClientClosedError            the client was closed before the call   (also a RuntimeError)
    ├── UnsupportedByServer          the server does not offer the operation (also a RuntimeError)
    ├── APIError                     one exchange with the server failed
    │   ├── APIConnectionError       no answer came
    │   │   └── APITimeoutError      no answer came in time
    │   ├── APIStatusError           the server answered with an error status
    │   │   ├── BadRequestError 400        ├── ConflictError 409
    │   │   ├── AuthenticationError 401    ├── GoneError 410
    │   │   ├── BillingError 402           ├── UnprocessableEntityError 422
    │   │   ├── PermissionDeniedError 403  ├── RateLimitError 429
    │   │   └── NotFoundError 404          └── InternalServerError 5xx
    │   └── APIResponseValidationError     the answer does not have the form of the contract
    │       └── UnreadableAnswerError      the answer cannot be decoded
    │           └── AnswerTooLargeError    the answer exceeds the size limit of its call
    ├── NotATinkerServerError        the base URL leads to something else
    ├── RequestFailedError           the server accepted the request, and its work failed
    ├── WaitTimeoutError             the work did not end in the time allowed (also a TimeoutError)
    ├── StepOutcomeUnknown           a training request was sent; whether it was applied is unknown
    ├── ResultLostError              the server did the work, and its result was lost on the way
    ├── ServerStateLostError         the server lost what the model learned since its last save
    ├── RequestSkippedError          a request was not sent, because an earlier one failed
    ├── ClientPoisonedError          an earlier training request has an unknown outcome, so that
    │                                the client sends no more of them         (also a RuntimeError)
    ├── CheckpointMismatchError      a load succeeded, but the model has other weights
    ├── RecoveryFailedError          a run could not go back to a saved state
    └── CheckpointDownloadError      a downloaded checkpoint is incomplete or not safe to unpack

Every error has an attribute `fault`, which says who caused it, and an attribute `retryable`, which
says whether the same call may succeed later. All of them can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tinkex.events import Owner, WaitFacts
from tinkex.renamed import warn_renamed

if TYPE_CHECKING:
    import httpx

Fault = Literal["user", "server", "network", "unknown"]


class TinkexError(Exception):
    """The base class of all errors of tinkex.

    `message` says what failed and `advice` what to do next; `str()` contains both. `operation` and
    `request_id` identify the failed call, or are None.

    Example:
        try:
            sampler.sample([10**6], sampling_params={"max_tokens": 8}).result()
        except RequestFailedError as error:  # the server could not do the work
            print(error.category, error.message)
        except TinkexError as error:
            print(error.fault, error.retryable, error.advice)
    """

    fault: Fault = "unknown"
    retryable: bool = False
    wait: WaitFacts | None = None
    """The facts of the wait before the error, if the call waited long; otherwise None."""
    delivered: bool = False
    """Whether the future of a call has raised or returned the error to the user."""

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        request_id: str | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.request_id = request_id
        self.advice = advice

    def __str__(self) -> str:
        where = ", ".join(
            part
            for part in (
                f"operation {self.operation}" if self.operation else "",
                f"request {self.request_id}" if self.request_id else "",
            )
            if part
        )
        text = f"{self.message} ({where})" if where else self.message
        text = f"{text}\n  {self.wait}" if self.wait else text
        return f"{text}\n  {self.advice}" if self.advice else text

    def _repr_html_(self) -> str:
        """Returns the error as HTML, for notebooks: what failed, whose fault it is, what to do."""
        import html

        retry = "a retry may help" if self.retryable else "a retry does not help"
        lines = [
            f"<b>{html.escape(type(self).__name__)}</b>: {html.escape(self.message)}",
            f"fault: {self.fault}; {retry}",
            html.escape(self.advice or ""),
        ]
        return "<br>".join(line for line in lines if line)

    def __reduce__(self) -> tuple[Callable[..., TinkexError], tuple[Any, ...]]:
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(cls: type[TinkexError], args: tuple[Any, ...], state: dict[str, Any]) -> TinkexError:
    """Restores a pickled error without `__init__`, whose keywords differ between the classes."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(TinkexError, ValueError):
    """A missing or wrong setting. The message names the setting, its value and what is allowed."""

    fault = "user"


class MissingKeyError(ConfigError):
    """A client for the hosted service without an API key. Nothing was sent."""


class CredentialError(TinkexError):
    """A failure of the function or command that supplies the API key, or an empty key from it.

    Nothing was sent.
    """

    fault = "user"


class InvalidInputError(TinkexError, ValueError):
    """A wrong argument. The message names the datum's index and the field. Nothing was sent."""

    fault = "user"


class ArgumentError(InvalidInputError, TypeError):
    """An argument of a wrong type, or a keyword that the call does not have. Nothing was sent."""


class ClientClosedError(TinkexError, RuntimeError):
    """A call of a client that was closed, or whose service client was closed."""

    fault = "user"


class UnsupportedByServer(TinkexError, RuntimeError):
    """An operation that this server does not offer.

    `server` names the server's dialect, `operation` the call, and `advice` says what to do instead.
    """

    fault = "server"

    def __init__(self, message: str, *, server: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.server = server


FailurePoint = Literal["connecting", "unsent", "unanswered", "answered"]
"""The point at which an exchange failed: before a connection existed, before a byte was sent,
before a byte of the answer arrived, or within the answer.
"""


class APIError(TinkexError):
    """A failed exchange with the server.

    `request` is set only on an error that a program created with a request.
    """

    request: httpx.Request | None = None
    body: Any = None

    def __init__(
        self, message: str, request: httpx.Request | None = None, *, body: Any = None, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        if request is not None:
            self.request = request
        if body is not None:
            self.body = body


class APIConnectionError(APIError):
    """A request without an answer: the server is unreachable, or the connection broke.

    `failure_point` tells how far the exchange got. A program that raises this error itself may pass
    an httpx request, before the message or after it.
    """

    fault = "network"
    retryable = True
    failure_point: FailurePoint = "unanswered"

    def __init__(
        self,
        message: str | httpx.Request = "no answer came",
        request: httpx.Request | str | None = None,
        **facts: Any,
    ) -> None:
        given = (message, request)
        text = next((one for one in given if isinstance(one, str)), "no answer came")
        super().__init__(
            text,
            next((one for one in given if one is not None and not isinstance(one, str)), None),
            **facts,
        )

    @property
    def place(self) -> FailurePoint:
        """The former name of `failure_point`."""
        warn_renamed("APIConnectionError.place", "failure_point")
        return self.failure_point

    @place.setter
    def place(self, point: FailurePoint) -> None:
        warn_renamed("APIConnectionError.place", "failure_point")
        self.failure_point = point

    @property
    def sent(self) -> bool:
        """Whether the server may have read the request."""
        return self.failure_point in ("unanswered", "answered")


class APITimeoutError(APIConnectionError):
    """A request without an answer in the time that `Config.timeout` allows."""


class APIStatusError(APIError):
    """An answer with an error status.

    `body` is the parsed body of the answer, or its text; `headers` are the headers of the answer. A
    program that raises this error itself, such as a proxy or a test, may pass an httpx response in
    place of status and headers: `BadRequestError("no such loss", response, None)`.

    Raises:
        TypeError: neither `status_code` nor `response` is given.
    """

    _response: httpx.Response | None = None

    def __init__(
        self,
        message: str,
        response: httpx.Response | None = None,
        body: Any = None,
        *,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, body=body, **facts)
        if response is not None:
            self._response = response
            status_code = response.status_code if status_code is None else status_code
            headers = dict(response.headers) if headers is None else headers
        if status_code is None:
            raise TypeError(f"{type(self).__name__} needs status_code=… or response=…")
        self.status_code = status_code
        self.headers = headers or {}

    @property
    def response(self) -> httpx.Response:
        """The answer as an httpx response.

        It is built from status, headers and body, unless a program passed its own.
        """
        if self._response is None:
            import httpx  # here, because the import is slow

            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _OF_THE_BYTES
            }
            content: dict[str, Any] = (
                {"text": self.body} if isinstance(self.body, str) else {"json": self.body}
            )
            self._response = httpx.Response(self.status_code, headers=headers, **content)
        return self._response


_OF_THE_BYTES = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that describe the encoded bytes, and not the decoded body."""


class BadRequestError(APIStatusError):
    """An answer with status 400: the server understood the request and refuses it."""

    fault = "user"


class AuthenticationError(APIStatusError):
    """An answer with status 401: the API key is missing or unknown to the server."""

    fault = "user"


class BillingError(APIStatusError):
    """An answer with status 402: the account cannot pay."""

    fault = "user"
    retryable = True


class PermissionDeniedError(APIStatusError):
    """An answer with status 403: the API key does not permit the operation."""

    fault = "user"


class NotFoundError(APIStatusError):
    """An answer with status 404: the object, or the route, does not exist on this server."""

    fault = "user"


class ConflictError(APIStatusError):
    """An answer with status 409: the request conflicts with the state of the server."""


class GoneError(APIStatusError):
    """An answer with status 410: the object existed, such as a session or a result, and is gone."""


class UnprocessableEntityError(APIStatusError):
    """An answer with status 422: the body of the request does not have the required form."""

    fault = "user"


class RateLimitError(APIStatusError):
    """An answer with status 429: too many requests, also after all retries of `Config.retry`."""

    fault = "server"
    retryable = True


class InternalServerError(APIStatusError):
    """An answer with a status of 500 or above: the server failed."""

    fault = "server"
    retryable = True


class APIResponseValidationError(APIError):
    """An answer that does not have the form of the contract.

    A program that raises this error itself may pass an httpx response in place of the message, or
    in addition to it.
    """

    fault = "server"
    response: httpx.Response | None = None

    def __init__(
        self,
        message: str | httpx.Response | None = None,
        body: Any = None,
        *,
        response: httpx.Response | None = None,
        **facts: Any,
    ) -> None:
        if message is not None and not isinstance(message, str):
            message, response = None, message
        super().__init__(
            message or "the answer does not have the form of the contract", body=body, **facts
        )
        if response is not None:
            self.response = response

    @property
    def status_code(self) -> int | None:
        """The status of the answer; None unless a program passed the response."""
        return None if self.response is None else self.response.status_code


class UnreadableAnswerError(APIResponseValidationError):
    """An answer that does not have the encoding that its headers name.

    It may have been damaged on the way.
    """

    retryable = True


class AnswerTooLargeError(UnreadableAnswerError):
    """An answer that is larger than its call allows, before or after decompression.

    The rest of the answer was not read.
    """

    retryable = False

    def __init__(self, message: str, *, bound: int, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.bound = bound
        """The limit, in bytes."""


class NotATinkerServerError(TinkexError):
    """A base URL at which something answers that does not speak the Tinker API."""

    fault = "user"


FailureCategory = Literal["user", "server", "unknown"]


class RequestFailedError(TinkexError):
    """A request that the server accepted, and whose work failed.

    `category` says whose fault it is, according to the server.
    """

    def __init__(
        self,
        message: str,
        request_id: str | None = None,
        category: FailureCategory = "unknown",
        *,
        state_loss: int | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, request_id=request_id, **facts)
        self.category: FailureCategory = category
        self.state_loss = state_loss
        """A number that identifies the event in which the server lost steps of the model.

        It is None if the server lost none.
        """
        self.fault = category
        self.retryable = category == "server"


class WaitTimeoutError(TinkexError, TimeoutError):
    """A wait that exceeded the time allowed.

    The request is not cancelled, so that its work may still end. `wait` says what the call waited
    for, and how many seconds each cause took.
    """

    fault = "server"
    retryable = True

    def __init__(
        self, message: str, *, waited: float, wait: WaitFacts | None = None, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.waited = waited
        """The duration of the wait, in seconds."""
        self.wait = wait
        if wait is not None:
            self.fault = _FAULT_OF[wait.main_owner]


_FAULT_OF: Mapping[Owner, Fault] = {
    "program": "user",
    "turn": "unknown",
    "network": "network",
    "queue": "server",
    "computation": "server",
}


class StepOutcomeUnknown(TinkexError):
    """A training request that was sent, and of which no answer says whether it was applied.

    Repeating it could apply it twice.
    """


class ResultLostError(TinkexError):
    """A result that was lost on the way after the server had done the work.

    A training step has been applied, so that training can continue. A sample can be requested
    again.
    """

    fault = "network"


class ServerStateLostError(TinkexError):
    """The loss of everything that a model learned on the server since it was last saved.

    To continue, create a new training client from the last saved state.
    """

    fault = "server"


class RequestSkippedError(TinkexError):
    """A request that was not sent because an earlier one failed.

    The earlier request had not been awaited yet. The server refused it, or lost steps of the model;
    its error is the cause of this one. The skipped request has not changed the model.
    """


class ClientPoisonedError(TinkexError, RuntimeError):
    """A training request that was not sent because the outcome of an earlier one is unknown.

    The error of the earlier request is the cause of this one.
    """


class CheckpointMismatchError(TinkexError):
    """A load that the server reports as successful, although the model has other weights than those
    saved as `path`.

    Loading the checkpoint again does not help. `expected` and `seen` are logprobs of the same
    tokens, by the model when it was saved and after it was loaded.
    """

    fault = "server"

    def __init__(
        self,
        message: str,
        *,
        path: str,
        expected: tuple[float, ...] = (),
        seen: tuple[float, ...] = (),
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.path = path
        self.expected = expected
        self.seen = seen


class RecoveryFailedError(TinkexError):
    """A run that could not go back to a saved state, or that failed again after each recovery.

    The error that ended the run is the cause of this one.
    """


class CheckpointDownloadError(TinkexError):
    """A downloaded checkpoint that is incomplete or not safe to unpack. Nothing of it was kept."""

    fault = "server"


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error_class(status_code: int) -> type[APIStatusError]:
    """Returns the error class for a status: the class of that status, `InternalServerError` for
    500 and above, otherwise `APIStatusError`.
    """
    if status_code >= 500:
        return InternalServerError
    return _BY_STATUS.get(status_code, APIStatusError)


for _value in list(globals().values()):
    if isinstance(_value, type) and issubclass(_value, TinkexError):
        _value.__module__ = "tinkex"  # where users import it from, so that tracebacks say so
