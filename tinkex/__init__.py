"""The open Python SDK for the Tinker fine-tuning API.

Start with `ServiceClient` in a blocking script, or with `AsyncServiceClient` in an asyncio
application.

Names are imported when they are first used, so that `import tinkex` is fast. The imports for type
checkers below are the one list of them; `make generate` derives `tinkex/_homes.py` from it.
"""

import concurrent.futures.thread  # noqa: F401 # pyright: ignore[reportUnusedImport] - this import fails once the main thread has ended
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinkex._homes import HOMES

if TYPE_CHECKING:
    from tinkex import auth as auth
    from tinkex import credentials as credentials
    from tinkex import events as events
    from tinkex import plot as plot
    from tinkex import telemetry as telemetry
    from tinkex._version import __version__ as __version__
    from tinkex.checkpoints import AsyncCheckpointDownload as AsyncCheckpointDownload
    from tinkex.checkpoints import CheckpointDownload as CheckpointDownload
    from tinkex.config import SEED_CHUNK_LIMITS as SEED_CHUNK_LIMITS
    from tinkex.config import ChunkLimits as ChunkLimits
    from tinkex.config import Config as Config
    from tinkex.config import HttpLimits as HttpLimits
    from tinkex.config import PollSettings as PollSettings
    from tinkex.config import RetrySettings as RetrySettings
    from tinkex.config.recovery import RecoveryPolicy as RecoveryPolicy
    from tinkex.config.recovery import is_recoverable as is_recoverable
    from tinkex.dialects.dialect import Dialect as Dialect
    from tinkex.dialects.dialect import SamplingRules as SamplingRules
    from tinkex.display.progress import progress as progress
    from tinkex.downloads.progress_bar import DownloadBar as DownloadBar
    from tinkex.errors import *  # noqa: F403
    from tinkex.events import WaitFacts as WaitFacts
    from tinkex.futures.api_future import AsyncAPIFuture as AsyncAPIFuture
    from tinkex.losses.custom import CustomLoss as CustomLoss
    from tinkex.losses.custom import NumpyLoss as NumpyLoss
    from tinkex.losses.handle import LossHandle as LossHandle
    from tinkex.losses.handle import PerDatumLossFn as PerDatumLossFn
    from tinkex.portal.future import APIFuture as APIFuture
    from tinkex.recovery.run import AsyncRecoverableRun as AsyncRecoverableRun
    from tinkex.rest.admin import AsyncAdminClient as AsyncAdminClient
    from tinkex.rest.client import AsyncRestClient as AsyncRestClient
    from tinkex.rest.external_weights import (
        ExternalWeightsUploadFinishResult as ExternalWeightsUploadFinishResult,
    )
    from tinkex.rest.external_weights import (
        ExternalWeightsUploadStartResult as ExternalWeightsUploadStartResult,
    )
    from tinkex.rest.external_weights import UploadURL as UploadURL
    from tinkex.sampling.client import AsyncSamplingClient as AsyncSamplingClient
    from tinkex.sampling.many import SampleManyItem as SampleManyItem
    from tinkex.sampling.stream import SamplePiece as SamplePiece
    from tinkex.service import AsyncServiceClient as AsyncServiceClient
    from tinkex.sync.admin import AdminClient as AdminClient
    from tinkex.sync.recovery import RecoverableRun as RecoverableRun
    from tinkex.sync.rest import RestClient as RestClient
    from tinkex.sync.sampling import SamplingClient as SamplingClient
    from tinkex.sync.service import ServiceClient as ServiceClient
    from tinkex.sync.training import TrainingClient as TrainingClient
    from tinkex.tokenizer import StreamDecoder as StreamDecoder
    from tinkex.tokenizer import Tokenizer as Tokenizer
    from tinkex.tokenizer import TokenizerError as TokenizerError
    from tinkex.tokenizer import get_tokenizer as get_tokenizer
    from tinkex.training.client import AsyncTrainingClient as AsyncTrainingClient
    from tinkex.types import *  # noqa: F403

_RENAMED = {"SamplingWays": "SamplingRules"}
"""Old public names and their new ones. The old names will work for one more release."""


def __getattr__(name: str) -> Any:
    if name == "__all__":  # `from tinkex import *` asks for it
        return __dir__()
    if name in _RENAMED:
        from tinkex.renamed import warn_renamed

        warn_renamed(f"tinkex.{name}", f"tinkex.{_RENAMED[name]}")
        name = _RENAMED[name]
    home = HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tinkex' has no attribute {name!r}")
    if home == "tinkex":
        return import_module(f"tinkex.{name}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    """Returns all public names for completion, including those that are not imported yet."""
    return list(HOMES)
