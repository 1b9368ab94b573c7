"""Finds the tokenizer of a model: by its names, or on the server if that serves tokenizers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

from tinkex_api.api.models import get_tokenizer

from tinkex.errors import TinkexError
from tinkex.threads import in_thread, run_on_loop
from tinkex.tokenizer import Tokenizer, find_tokenizer, loaded_tokenizer
from tinkex.tokenizer.files import CONFIG, TokenizerFiles
from tinkex.tokenizer.shared_loads import AbandonedLoad
from tinkex.tokenizer.sources import NotThere
from tinkex.transport.transport import Transport


async def model_tokenizer(transport: Transport, base_model: str, names: Sequence[str]) -> Tokenizer:
    """Returns the tokenizer of a base model. It is loaded once, in a thread.

    Args:
        transport: the server.
        base_model: the name under which the server knows the model.
        names: the names under which to look for the tokenizer elsewhere.

    Raises:
        TokenizerError: it was not found; the message says where it was looked for.
    """
    served = _served(transport, base_model) if transport.server.dialect.serves_tokenizers else None
    return loaded_tokenizer(names, served) or await in_thread(find_tokenizer, names, served)


def _served(transport: Transport, base_model: str) -> tuple[str, Callable[[], TokenizerFiles]]:
    """Returns the words for the server, and a function that asks it from another thread."""
    loop = asyncio.get_running_loop()

    async def ask() -> TokenizerFiles:
        served = await transport.send(get_tokenizer.request(base_model=base_model))
        return TokenizerFiles(served.tokenizer_json, {CONFIG: served.tokenizer_config_json}.get)

    def wait() -> TokenizerFiles:
        outcome = run_on_loop(loop, ask)
        if outcome is None:
            raise AbandonedLoad
        try:
            return outcome.result()
        except TinkexError as error:
            raise NotThere(error.message) from error
        except CancelledError as error:  # by the end of the event loop
            raise AbandonedLoad from error

    return f"the server {transport.base_url}", wait
