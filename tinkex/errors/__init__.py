"""Everything that tinkex raises on its own account.

    TinkexError
    ├── ConfigError                    a setting is missing or wrong; nothing was sent       (also a
    ValueError) ├── CredentialError                the function or the command for the key gave
    none; nothing was sent ├── InvalidInputError              an argument is wrong; nothing was sent
    (also a ValueError) │   └── ArgumentError                  it is of another kind, or has no such
    name        (also a TypeError) ├── ClientClosedError              the client was closed before
    the call             (also a RuntimeError) ├── UnsupportedByServer            this server cannot
    do it; nothing was sent        (also a RuntimeError) ├── APIError                       one
    exchange with the server failed │   ├── APIConnectionError             no answer came │   │
    └── APITimeoutError            no answer came in time │   ├── APIStatusError                 the
    server refused: `status_code`, `body` │   │   ├── BadRequestError 400        ├── ConflictError
    409 │   │   ├── AuthenticationError 401    ├── GoneError 410 │   │   ├── BillingError 402
    ├── UnprocessableEntityError 422 │   │   ├── PermissionDeniedError 403  ├── RateLimitError 429 │
    │   └── NotFoundError 404          └── InternalServerError 5xx │   └──
    APIResponseValidationError     the server's answer is not of the contract's form │       └──
    UnreadableAnswerError      not even its bytes could be read: it is not in the encoding that it
    names │           └── AnswerTooLargeError    it is larger than the bound of its call, as sent or
    when expanded ├── NotATinkerServerError          the base URL leads to something else ├──
    RequestFailedError             the server took the request, and the work failed ├──
    WaitTimeoutError               the work did not end in the time allowed             (also a
    TimeoutError) ├── StepOutcomeUnknown             a training request was sent and nobody knows
    whether it was applied ├── ResultLostError                the server did the work, and the
    result was lost on the way ├── ServerStateLostError           the server has forgotten what the
    model learned since it was last saved ├── RequestSkippedError            not sent, since an
    earlier one that it was queued behind was refused ├── ClientPoisonedError            an earlier
    training request ended in doubt, so no later one is sent (a RuntimeError) ├──
    CheckpointMismatchError        a load was answered with success, and the model does not hold
    what was saved ├── RecoveryFailedError            a run could not go back to a saved state └──
    CheckpointDownloadError        what came of a checkpoint is not whole, or not safe to unpack;
    nothing of it was kept

Each says in `fault` whose it is and in `retryable` whether the same call may work later. All of
them can be pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tinkex.events import Owner, WaitFacts

if TYPE_CHECKING:
    import httpx

Fault = Literal["user", "server", "network", "unknown"]


class TinkexError(Exception):
    """The root: catch it to catch all. `operation` and `request_id` name the call where there was
    one.

    `message` says what failed, `advice` what to do next; `str()` gives both.
    """

    fault: Fault = "unknown"
    retryable: bool = False
    wait: WaitFacts | None = None
    """What was waited for, and whose the wait was, where that took long before this was raised."""
    delivered: bool = False
    """Whether the future of a call has given it to the user, who may know of it from then on."""

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

    def __reduce__(self) -> tuple[Callable[..., TinkexError], tuple[Any, ...]]:
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(cls: type[TinkexError], args: tuple[Any, ...], state: dict[str, Any]) -> TinkexError:
    """Unpickles without calling `__init__`, whose keywords differ from class to class."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(TinkexError, ValueError):
    """A setting is missing or wrong; the message names it, its value and what is allowed."""

    fault = "user"


class CredentialError(TinkexError):
    """The function or the command that is to give the key failed, or gave none. Nothing was
    sent.
    """

    fault = "user"


class InvalidInputError(TinkexError, ValueError):
    """An argument is wrong; the message names the datum's index and the field. Nothing was sent."""

    fault = "user"


class ArgumentError(InvalidInputError, TypeError):
    """An argument of another kind than the call takes, or of a name that it does not have. Nothing
    was sent.
    """


class ClientClosedError(TinkexError, RuntimeError):
    """The client, or the service client that made it, was closed before this call."""

    fault = "user"


class UnsupportedByServer(TinkexError, RuntimeError):
    """This server cannot do it: `server` names its dialect, `operation` the call, and `advice` says
    what to do instead.
    """

    fault = "server"

    def __init__(self, message: str, *, server: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.server = server


FailurePoint = Literal["connecting", "unsent", "unanswered", "answered"]
"""Where an exchange died: before there was a connection, before a byte was sent, before a byte came
back, within the answer.
"""


class APIError(TinkexError):
    """One exchange with the server failed. `request` and `body` are there where a program made the
    error of them.
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
    """No answer came: the server is not there, or the connection broke.

    `failure_point` tells how far the exchange got.

    A program that raises one itself may give a request of httpx, before the message or after it.
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
        warnings.warn(
            "APIConnectionError.place is now failure_point", DeprecationWarning, stacklevel=2
        )
        return self.failure_point

    @property
    def sent(self) -> bool:
        """Whether the server may have read the request."""
        return self.failure_point in ("unanswered", "answered")


class APITimeoutError(APIConnectionError):
    """No answer came in the time allowed by `Config.timeout`."""


class APIStatusError(APIError):
    """The server answered with an error status. `body` is the parsed answer, or its text; `headers`
    are the answer's.

    A program that raises one itself, as a proxy or a test does, may give an answer of httpx instead
    of status and headers, by position too: `BadRequestError("no such loss", response, None)`.

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
            raise TypeError(
                f"{type(self).__name__} needs status_code=…, or response=… which has it"
            )
        self.status_code = status_code
        self.headers = headers or {}

    @property
    def response(self) -> httpx.Response:
        """The answer, as httpx has it: made of status, headers and body, but for one that a program
        gave itself.
        """
        if self._response is None:
            import httpx  # here, since it takes its time to import

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
"""Headers that are not of the answer's content."""


class BadRequestError(APIStatusError):
    """400: the server understood the request and refuses it."""

    fault = "user"


class AuthenticationError(APIStatusError):
    """401: no key, or one that the server does not know."""

    fault = "user"


class BillingError(APIStatusError):
    """402: the account cannot pay."""

    fault = "user"
    retryable = True


class PermissionDeniedError(APIStatusError):
    """403: the key is known and may not do this."""

    fault = "user"


class NotFoundError(APIStatusError):
    """404: no such thing, or no such route on this server."""

    fault = "user"


class ConflictError(APIStatusError):
    """409: the request does not fit the server's state."""


class GoneError(APIStatusError):
    """410: it was there and is no more: a finished session, a result past its time."""


class UnprocessableEntityError(APIStatusError):
    """422: the request's body is not of the form that this server wants."""

    fault = "user"


class RateLimitError(APIStatusError):
    """429: too many requests, and waiting for as long as `Config.retry` allows did not help."""

    fault = "server"
    retryable = True


class InternalServerError(APIStatusError):
    """5xx: the server failed."""

    fault = "server"
    retryable = True


class APIResponseValidationError(APIError):
    """The server's answer is not of the contract's form.

    A program that raises one itself may give an answer of httpx in place of the message, or beside
    it.
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
        super().__init__(message or "the answer is not of the contract's form", body=body, **facts)
        if response is not None:
            self.response = response

    @property
    def status_code(self) -> int | None:
        """The answer's, where the error was made of one."""
        return None if self.response is None else self.response.status_code


class UnreadableAnswerError(APIResponseValidationError):
    """An answer came, and its bytes cannot be read: it is not in the encoding that it names. It may
    be damaged on the way.
    """

    retryable = True


class AnswerTooLargeError(UnreadableAnswerError):
    """An answer is larger than the bound of its call, as sent or when it is expanded. The rest of
    it was not read.
    """

    retryable = False

    def __init__(self, message: str, *, bound: int, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.bound = bound
        """Bytes."""


class NotATinkerServerError(TinkexError):
    """Something answers at the base URL, but it does not speak the Tinker API."""

    fault = "user"


FailureCategory = Literal["user", "server", "unknown"]


class RequestFailedError(TinkexError):
    """The server took the request, and the work failed. `category` is the server's own word on
    whose fault it is.
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
        """Where the server has lost steps of the model, as the message says, which loss of its it
        was.
        """
        self.fault = category
        self.retryable = category == "server"


class WaitTimeoutError(TinkexError, TimeoutError):
    """The work did not end in the time allowed. It may still end: the request is not cancelled by
    this.

    `wait` says what was waited for, and how many seconds of it were whose.
    """

    fault = "server"
    retryable = True

    def __init__(
        self, message: str, *, waited: float, wait: WaitFacts | None = None, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.waited = waited
        """Seconds."""
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
    """A training request was sent, and no answer says whether it was applied. It must not be
    repeated blindly.
    """


class ResultLostError(TinkexError):
    """The server did the work, and the result was lost on the way. A training step is applied: go
    on. A sample can be asked for again.
    """

    fault = "network"


class ServerStateLostError(TinkexError):
    """The server has forgotten what the model learned since it was last saved: make a new training
    client from there.
    """

    fault = "server"


class RequestSkippedError(TinkexError):
    """Not sent: a request called before it, and not awaited in between, was refused, or failed with
    others since the server lost steps of the model (the cause). The model is as it was then.
    """


class ClientPoisonedError(TinkexError, RuntimeError):
    """An earlier training request of this client ended in doubt (the cause), so no later one is
    sent.
    """


class CheckpointMismatchError(TinkexError):
    """The server says that it has loaded a checkpoint, and the model holds other weights than those
    that were saved as `path`.

    Loading it again does not help. `expected` and `seen` are logprobs of the same tokens: of the
    model when it was saved, and as it was loaded.
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
    """A run could not go back to a saved state, or did so again and again in vain. The cause is the
    error that ended it.
    """


class CheckpointDownloadError(TinkexError):
    """A checkpoint was not fetched: what came is not what was promised, or not safe to unpack.
    Nothing of it was kept.
    """

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
    """The class for an error status: the one of its own, `InternalServerError` for any 5xx, else
    the base.
    """
    if status_code >= 500:
        return InternalServerError
    return _BY_STATUS.get(status_code, APIStatusError)


for _value in list(globals().values()):
    if isinstance(_value, type) and issubclass(_value, TinkexError):
        _value.__module__ = "tinkex"  # where users import it from, so that tracebacks say so
