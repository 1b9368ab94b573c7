"""`Fingerprint`: the logprobs that a model gave to a datum when it was saved."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex.types.datum import Datum


@frozen(eq=False)
class Fingerprint:
    """A datum, and the logprobs `(N,)` that the model gave to its targets."""

    datum: Datum
    logprobs: NDArray[np.float64]
