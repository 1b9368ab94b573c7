"""`connection_options`: the options that say which server a command asks, and the `Connection` that
opens a client for it when the command needs one.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
from attrs import define, evolve, field

from tinkex.cli.failures import current_path
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex import AdminClient, Config, RestClient, ServiceClient, events

_WAIT = 2.0  # seconds without an answer, after which a line says so
_TIMEOUT = 30.0  # seconds for one answer
_BRIEF = 2.0  # seconds for one answer of a server that may be away
_PATIENCE = {
    "max_attempts": 3,
    "max_seconds": 10.0,
    "max_rate_limited": 60.0,
    "max_billing_pause": 5.0,
}
"""The retries of a command that a person waits for, unless settings say otherwise."""


def connection_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--base-url` and `--profile`. The command gets `connection`, a `Connection`."""

    @click.option(
        "--base-url",
        metavar="URL",
        help=(
            "Server to use; `local` starts one in this process.  [default: TINKER_BASE_URL, else "
            "the hosted service]"
        ),
    )
    @click.option(
        "--profile",
        metavar="NAME",
        help="Profile of the settings file to use.  [default: TINKEX_PROFILE]",
    )
    @functools.wraps(function)
    def connected(output: Output, base_url: str | None, profile: str | None, **given: Any) -> None:
        with Connection(output, base_url, profile) as connection:
            function(output, connection=connection, **given)

    return connected


@define(eq=False)
class Connection:
    """The server that a command uses, and its clients, each opened when it is first asked for.

    The key comes from TINKER_API_KEY, the profile or the stored keys of `tinkex auth login`.
    """

    output: Output
    base_url: str | None = None
    profile: str | None = None
    api_key: str | None = None
    """A key to use in place of the one of the settings. It is set before a client is opened."""
    about: str | None = None
    """A word on what the command works on, for the name of its session. It is set before, too."""
    _open: ExitStack = field(factory=ExitStack, init=False)
    _wait: _WaitLine | None = field(default=None, init=False)

    def use(self, base_url: str) -> None:
        """Uses another server, before a client is opened."""
        self.base_url = base_url
        with suppress(AttributeError):  # nobody has asked for it yet
            del self.config

    @functools.cached_property
    def config(self) -> Config:
        """The settings, as every program has them.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        return self._configured(self.api_key)

    @property
    def config_without_key(self) -> Config:
        """The settings with a key that stands for the missing one, to be shown only."""
        return self._configured("none")

    @property
    def brief_config(self) -> Config:
        """The settings with one short attempt at each request, to ask a server that may be away."""
        config = self.config
        retry = evolve(config.retry, max_attempts=1)
        return evolve(config, retry=retry, timeout=_BRIEF, connect_timeout=_BRIEF)

    @functools.cached_property
    def rest(self) -> RestClient:
        """A client for what the server holds. It gives up sooner than a program does."""
        from tinkex import RestClient

        return self._open.enter_context(RestClient(self._impatient()))

    @functools.cached_property
    def admin(self) -> AdminClient:
        """A client for billing and the audit log. It gives up sooner than a program does."""
        from tinkex import AdminClient

        return self._open.enter_context(AdminClient(self._impatient()))

    @functools.cached_property
    def service(self) -> ServiceClient:
        """A client that trains and samples, with the retries of every program."""
        from tinkex import ServiceClient

        self._say_waits(self.config)
        # the pages of the embedded server, and lists of sessions, show it; one's own goes before
        name = current_path() + (f": {self.about}" if self.about else "")
        metadata = {"name": name, **self.config.user_metadata}
        return self._open.enter_context(ServiceClient(config=self.config, user_metadata=metadata))

    def __enter__(self) -> Self:
        handler = _LogLines(self.output)
        logger = logging.getLogger("tinkex")
        logger.addHandler(handler)
        self._open.callback(logger.removeHandler, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _configured(self, api_key: str | None) -> Config:
        from tinkex.config import configured

        # A key of None would be an argument, which takes precedence over the environment.
        return configured(None, self.base_url, api_key, {"profile": self.profile})

    def _impatient(self) -> Config:
        """Returns the settings with short waits where no source has chosen others."""
        config = self.config
        origin = config.sources.origin
        retry = {
            name: value
            for name, value in _PATIENCE.items()
            if origin(f"retry.{name}", getattr(config.retry, name)) == "default"
        }
        timeout = config.timeout
        if origin("timeout", timeout) == "default":
            timeout = _TIMEOUT
        made = evolve(config, retry=evolve(config.retry, **retry), timeout=timeout)
        self._say_waits(made)
        return made

    def _say_waits(self, config: Config) -> None:
        """Says when answers to a client of these settings are late, as to all clients before."""
        from tinkex import events

        if self._wait is None:
            self._wait = _WaitLine(self.output, config.base_url)
            events.attach(self._wait.handle, ["http.request"])
            self._open.callback(events.detach, self._wait.handle)
            self._open.callback(self._wait.stop)
        self._wait.bound = max(self._wait.bound, config.timeout)


class _LogLines(logging.Handler):
    """Writes the log of the client as lines of the command: warnings, or what TINKER_LOG asks."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self._output.warn(text)
        else:
            self._output.status(f"{record.levelname.lower()}: {text}")


@define(eq=False)
class _WaitLine:
    """Says once that no answer comes, to none of a command's clients, and when requests are given
    up.
    """

    output: Output
    base_url: str
    bound: float = 0.0
    _requests: int = 0  # that have no answer yet
    _timer: threading.Timer | None = None
    _said: bool = False
    _lock: threading.Lock = field(factory=threading.Lock)

    def handle(self, event: events.Event) -> None:
        with self._lock:
            has_begun = event.name == "http.request.start"
            self._requests += 1 if has_begun else -1
            if has_begun and self._timer is not None:
                return  # a request that is already waited for
            self._cancel()
            if self._requests > 0 and not self._said:
                self._timer = threading.Timer(_WAIT, self._say)
                self._timer.daemon = True
                self._timer.start()

    def stop(self) -> None:
        """Says nothing any more."""
        with self._lock:
            self._said = True
            self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say(self) -> None:
        with self._lock:
            if self._said:
                return
            self._said = True
        self.output.status(
            f"Waiting for {self.base_url}: no answer yet. Each request may take {self.bound:g} s; "
            "Ctrl-C stops it."
        )
