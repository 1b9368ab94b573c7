"""What a server does with a repeated (model, seq_id), found out on a model that is made for it: two forwards, which change nothing."""

from __future__ import annotations

from tinkex.dialects.dialect import SeqIdRepeats
from tinkex.dialects.fate import expected_number
from tinkex.errors import APIStatusError, RequestFailedError, TinkexError
from tinkex.futures.poller import RequestState, wait_for_result
from tinkex.session import Session
from tinkex.training.batches import batch_submit, read_batch
from tinkex.training.creation import new_model
from tinkex.training.unloading import unload_or_log
from tinkex.types import Datum, LoraConfig, ModelInput

_RANK = 8
_ONE_STEP = Datum(ModelInput.from_ints([0, 1]), {"target_tokens": [1, 2], "weights": [1.0, 1.0]})


async def probe_repeats(session: Session, base_model: str) -> SeqIdRepeats:
    """Raises what making a model and a forward raise."""
    model = await new_model(session, base_model, LoraConfig(rank=_RANK), None, None)
    first = model.forward([_ONE_STEP], "cross_entropy")
    await first
    dialect = session.transport.server.dialect
    submit = batch_submit("forward", model.model_id, [_ONE_STEP], "cross_entropy", None, dialect)
    request = submit[dialect.encodings[0]](1)  # the first one's number
    try:
        again = await session.transport.send(request, repeatable=False)
        if again.request_id == first.request_id:
            return "repeats"
        await wait_for_result(session.transport, RequestState("forward", again.request_id), read_batch)
    except (APIStatusError, RequestFailedError) as refusal:
        return "refuses" if _says_why(refusal) else "unknown"
    finally:
        await unload_or_log(session, model.model_id)
    return "ignores"


def _says_why(refusal: TinkexError) -> bool:
    """Only a refusal that names the number it expected can tell later whether the first request was applied."""
    return expected_number(refusal.message) is not None
