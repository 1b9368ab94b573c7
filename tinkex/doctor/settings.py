"""Reads the settings that the doctor examines, also where the API key is missing."""

from __future__ import annotations

from attrs import evolve, frozen

from tinkex.config import Config
from tinkex.errors import MissingKeyError

_NO_KEY = "tml-none"
"""A key that is never sent: the settings of the hosted service are not valid without one."""


@frozen
class Settings:
    """The settings of a client."""

    config: Config
    missing_key: MissingKeyError | None = None
    """The error for a key that the server requires and that is not set."""

    @property
    def brief(self) -> Config:
        """The settings for the doctor's own requests: without retries, and with short timeouts."""
        config = self.config
        return evolve(
            config,
            max_retries=0,
            timeout=SECONDS,
            connect_timeout=SECONDS,
            telemetry=False,
        )


SECONDS = 3.0
"""The longest duration of one probe."""


def read_settings(base_url: str | None = None, profile: str | None = None) -> Settings:
    """Returns the settings of the environment, or of a profile.

    Raises:
        ConfigError: a setting is wrong.
    """
    try:
        return Settings(Config(base_url=base_url, profile=profile))
    except MissingKeyError as error:
        return Settings(
            Config(base_url=base_url, profile=profile, api_key=_NO_KEY), missing_key=error
        )
