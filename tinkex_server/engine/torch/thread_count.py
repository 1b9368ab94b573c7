"""`threads_worth`: no more threads for a computation than it is worth."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

_WORTH_SEVERAL = 1 << 21
"""The multiplications of a matrix product, from which on several threads compute it: some 50 µs of
one thread. Threads wait for each other twice in each product, which takes about 70 µs where they do
not spin. There, a step of 64 samples of a small model took 1.5 times as long by two threads as by
one, and 1.35 times the CPU time.
"""


@contextmanager
def threads_worth(multiplications: float) -> Generator[None, None, None]:
    """Computes by one thread if the matrix products within have fewer multiplications, at the mean,
    than are worth several threads.
    """
    several = torch.get_num_threads()
    if several == 1 or multiplications >= _WORTH_SEVERAL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(several)
