"""`examine`: makes all probes side by side, and yields each finding when it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from attrs import define, evolve, field, frozen

from tinkex.config import LOCAL
from tinkex.doctor import abilities, contact, machine, network
from tinkex.doctor.contact import Contact
from tinkex.doctor.finding import Finding, skipped
from tinkex.doctor.network import Reached, Unreached
from tinkex.doctor.settings import SECONDS, Settings, read_settings
from tinkex.errors import ConfigError, TinkexError
from tinkex.transport.transport import Transport

PROBES = (
    *("package", "config", "proxy", "network", "key"),
    *("server", "routes", "repeats", "clock", "sample"),
)
"""The names of the probes, in the order of a report."""
_OF_THE_SERVER = ("server", "routes", "repeats", "clock", "sample")
TOTAL_SECONDS = 10.0
"""The longest duration of all probes together, without the measurement of repeats."""
_START_SECONDS = 6.0  # for the embedded server of this process
_PROBE_SECONDS = 120.0  # for the measurement of repeats
_NOT_REACHED = "not tried, since the server was not reached"
_NO_TINKER = "not tried, since this is not known to be a Tinker server"
_NO_KEY = "not tried without an accepted key"


@frozen(kw_only=True)
class Options:
    """The permissions of a run of the doctor, and the server that it examines.

    Args:
        base_url: the server; by default that of the environment.
        profile: the profile of the settings file; by default that of the environment.
        sample: whether to draw a sample.
        measure_repeats: whether to train small models, to measure what the server does with a
            repeated request.
    """

    base_url: str | None = None
    profile: str | None = None
    sample: bool = True
    measure_repeats: bool = False


async def examine(options: Options) -> AsyncIterator[Finding]:
    """Makes all probes, and yields each finding when it is there.

    A probe of this machine takes no time; one of the server at most 3 s. All take at most 10 s, the
    measurement of repeats excepted.
    """
    try:
        settings = read_settings(options.base_url, options.profile)
    except ConfigError as error:
        yield machine.package(options.base_url)
        yield machine.wrong_settings(error)
        for name in ("proxy", "network", "key", *_OF_THE_SERVER):
            yield skipped(name, "not tried with wrong settings")
        return
    examination = _Examination(settings, options)
    try:
        async for finding in examination.findings():
            yield finding
    finally:
        await examination.aclose()


@define(eq=False)
class _Examination:
    """The probes of one run, and what they share: the connection, and the first answers."""

    settings: Settings
    options: Options
    _transport: Transport | None = field(init=False, default=None)
    _deadline: float = field(init=False)
    _connected: asyncio.Task[Reached] = field(init=False)
    _contacted: asyncio.Task[Contact] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._deadline = asyncio.get_running_loop().time() + TOTAL_SECONDS
        self._connected = asyncio.create_task(self._connect())
        self._contacted = asyncio.create_task(self._make_contact())

    async def findings(self) -> AsyncIterator[Finding]:
        config = self.settings.config
        yield machine.package(config.base_url)
        yield machine.settings(self.settings)
        yield machine.proxy(config)
        probes = [
            asyncio.create_task(_timed(probe))
            for probe in (
                self._network,
                self._key,
                self._server,
                self._routes,
                self._repeats,
                self._clock,
                self._sample,
            )
        ]
        try:
            for done in asyncio.as_completed(probes):
                yield await done
        finally:
            for probe in probes:
                probe.cancel()

    async def aclose(self) -> None:
        self._connected.cancel()
        self._contacted.cancel()
        await asyncio.gather(self._connected, self._contacted, return_exceptions=True)
        if self._transport is not None:
            await self._transport.aclose()

    @property
    def _is_local(self) -> bool:
        return self.settings.config.base_url == LOCAL

    def _seconds(self, most: float = SECONDS) -> float:
        """Returns how long a probe that begins now may last."""
        return max(0.0, min(most, self._deadline - asyncio.get_running_loop().time()))

    async def _connect(self) -> Reached:
        """Reaches the server. Raises `Unreached`."""
        config, most = self.settings.config, _START_SECONDS if self._is_local else SECONDS
        try:
            async with asyncio.timeout(most):
                return await network.reach(config)
        except TimeoutError:
            raise Unreached(network.no_connection_in_time(config, most)) from None

    async def _make_contact(self) -> Contact:
        """Asks the server what it is, when it is reached. Raises `Unreached`."""
        base_url = (await self._connected).base_url
        self._transport = Transport(evolve(self.settings.brief, base_url=base_url))
        try:
            async with asyncio.timeout(self._seconds()):
                return await contact.make_contact(self._transport)
        except TimeoutError:
            silent = TinkexError(f"{base_url} gave no answer within {SECONDS:g} s")
            raise Unreached(contact.no_answer(silent)) from None
        except TinkexError as error:
            raise Unreached(contact.no_answer(error)) from error

    async def _network(self) -> Finding:
        try:
            return (await self._connected).finding
        except Unreached as error:
            return error.finding

    async def _key(self) -> Finding:
        if self.settings.missing_key:
            return contact.key(self.settings, None)
        try:
            answers = await self._contacted
        except Unreached:
            return contact.key(self.settings, None)
        return contact.key(self.settings, answers)

    async def _server(self) -> Finding:
        if self.settings.missing_key:
            return skipped("server", _NO_KEY)
        try:
            return contact.server(self.settings.config, await self._contacted)
        except Unreached as error:
            if error.finding.probe == "server":
                return error.finding
            return skipped("server", _NOT_REACHED)

    async def _routes(self) -> Finding:
        return await self._of_server("routes", abilities.routes)

    async def _repeats(self) -> Finding:
        if self.options.measure_repeats:
            return await self._of_server("repeats", abilities.probe, _PROBE_SECONDS)
        return await self._of_server("repeats", abilities.repeats)

    async def _clock(self) -> Finding:
        try:
            return contact.clock(await self._contacted)
        except Unreached:
            return skipped("clock", _NOT_REACHED)

    async def _sample(self) -> Finding:
        if not self.options.sample:
            return skipped("sample", "not asked for", command="tinkex doctor --sample")
        return await self._of_server(
            "sample",
            abilities.sample,
            # the embedded server of this process has only just begun to load its model
            TOTAL_SECONDS if self._is_local else SECONDS,
        )

    async def _of_server(
        self, name: str, probe: Callable[[Contact], Awaitable[Finding]], most: float = SECONDS
    ) -> Finding:
        """Makes a probe of a Tinker server that accepts the key; skips it for any other.

        Args:
            most: the seconds that the probe may last; above `TOTAL_SECONDS`, also when those of all
                probes have passed.
        """
        if self.settings.missing_key:
            return skipped(name, _NO_KEY)
        try:
            found = await self._contacted
        except Unreached:
            return skipped(name, _NOT_REACHED)
        if found.refusal is not None:
            return skipped(name, _NO_KEY)
        if not found.is_tinker:
            return skipped(name, _NO_TINKER)
        bound = most if most > TOTAL_SECONDS else self._seconds(most)
        try:
            async with asyncio.timeout(bound):
                return await probe(found)
        except TimeoutError:
            if name == "sample":
                return abilities.no_sample_in_time(found, bound, just_started=self._is_local)
            return Finding(
                probe=name,
                level="warn",
                text=f"no answer within {bound:g} s",
                cause="The server is busy, or hangs.",
                command=f"curl --max-time 60 -v {found.transport.base_url}/api/v1/healthz",
            )


async def _timed(probe: Callable[[], Awaitable[Finding]]) -> Finding:
    """Makes a probe, and notes its duration, with the time that it waited for the connection."""
    began = time.perf_counter()
    finding = await probe()
    return evolve(finding, seconds=time.perf_counter() - began)
