"""The settings of a client: their sources, their allowed values, and `Config`, which holds them."""

from tinkex.config.defaults import HOSTED_BASE_URL
from tinkex.config.http_limits import HttpLimits
from tinkex.config.poll_and_retry import PollSettings, RetrySettings, as_retry_settings
from tinkex.config.settings import SEED_CHUNK_LIMITS, Config, configured
from tinkex.config.validators import LOCAL
from tinkex.dialects.dialect import ChunkLimits

__all__ = [
    "HOSTED_BASE_URL",
    "LOCAL",
    "SEED_CHUNK_LIMITS",
    "ChunkLimits",
    "Config",
    "HttpLimits",
    "PollSettings",
    "RetrySettings",
    "as_retry_settings",
    "configured",
]
