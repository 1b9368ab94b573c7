"""What users construct and what comes back to them.

Hand-written where a user wants something else than the wire has (arrays, prompts); elsewhere the generated types themselves.
"""

from tinkex_api.models import (
    AdamParams,
    Checkpoint,
    CheckpointsListResponse,
    Cursor,
    GetInfoResponse,
    GetServerCapabilitiesResponse,
    LoraConfig,
    ModelData,
    OptimStepResponse,
    SamplingParams,
    SaveWeightsForSamplerResponse,
    SupportedModel,
    TrainingRun,
    TrainingRunsResponse,
)

from tinkex.types.datum import Datum
from tinkex.types.model_input import (
    DmelChunk,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
    as_model_input,
)
from tinkex.types.outputs import ForwardBackwardOutput, LossFnOutput, SampledSequence, SampleResponse
from tinkex.types.tensor import ArrayLike, TensorData, TensorDtype

__all__ = [
    "AdamParams",
    "ArrayLike",
    "Checkpoint",
    "CheckpointsListResponse",
    "Cursor",
    "Datum",
    "DmelChunk",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "GetServerCapabilitiesResponse",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "LoraConfig",
    "LossFnOutput",
    "ModelData",
    "ModelInput",
    "ModelInputChunk",
    "OptimStepResponse",
    "SampleResponse",
    "SampledSequence",
    "SamplingParams",
    "SaveWeightsForSamplerResponse",
    "SupportedModel",
    "TensorData",
    "TensorDtype",
    "TrainingRun",
    "TrainingRunsResponse",
    "as_model_input",
]
