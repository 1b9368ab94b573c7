"""The generated types that users construct, with hints for misspelt parameters."""

from tinkex_api.models import (
    AdamParams,
    DimuonParams,
    LoraConfig,
    OptimizerConfig,
    SamplingParams,
    SearchOwner,
    SessionSearchCursor,
    SessionStatusQuery,
    SgdParams,
)

from tinkex.errors.hints import hinted

__all__ = [
    "AdamParams",
    "DimuonParams",
    "LoraConfig",
    "OptimizerConfig",
    "SamplingParams",
    "SearchOwner",
    "SessionSearchCursor",
    "SessionStatusQuery",
    "SgdParams",
]

for _made in (
    *(AdamParams, DimuonParams, SgdParams, OptimizerConfig, LoraConfig, SamplingParams),
    *(SearchOwner, SessionStatusQuery, SessionSearchCursor),
):
    hinted(_made)
