"""The errors of calls to vLLM, by what a repetition of the call could change."""

from __future__ import annotations

from tinkex_server.engine.interface import EngineDied, EngineGone


class SamplerFailed(EngineDied):
    """The error of a call that vLLM did not answer, or answered wrongly. Models in training are
    not affected. The text says what failed and what to do.
    """


class SamplerGone(SamplerFailed, EngineGone):
    """The error of a call for which no vLLM will be up again."""


class CallLost(Exception):
    """The error of a call that can be made again: vLLM died, broke the connection off, or had an
    internal error.
    """


class AdapterMissing(Exception):
    """The error of a call for an adapter that this vLLM does not have, or no longer."""


class WrongAnswer(Exception):
    """The error of an answer that lacks something, or contradicts the request."""
