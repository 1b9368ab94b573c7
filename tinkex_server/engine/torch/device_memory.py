"""The size of the memory of a device, to derive bounds from."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
from pathlib import Path

import torch

_UNKNOWN = 8 << 30  # where the system does not tell, as on Windows
_OF_THE_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def memory_of(device: torch.device) -> int:
    """Returns the bytes that all programs on the device share, or that its container may use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return min(_of_the_machine(), _of_the_container())


def _of_the_machine() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _of_the_container() -> int:
    """Returns the limit of the control group, without those around it; a large number if none."""
    try:
        limit = _OF_THE_CONTAINER.read_text().strip()
    except OSError:
        limit = "max"
    return int(limit) if limit.isdigit() else 1 << 62
