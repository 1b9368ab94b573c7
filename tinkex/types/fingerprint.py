"""`Fingerprint`: what a model made of a datum when it was saved."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex.types.datum import Datum


@frozen(eq=False)
class Fingerprint:
    """The logprobs of a datum's targets."""

    datum: Datum
    logprobs: NDArray[np.float64]
