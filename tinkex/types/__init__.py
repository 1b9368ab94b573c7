"""What users construct and what comes back to them.

Hand-written where a user wants something else than the wire has (arrays, prompts); elsewhere the generated types themselves.
"""

from tinkex_api.models import (
    AdamParams,
    Checkpoint,
    CheckpointsListResponse,
    CopyWeightsResponse,
    Cursor,
    DimuonParams,
    GetInfoResponse,
    GetServerCapabilitiesResponse,
    LoadWeightsResponse,
    LoraConfig,
    ModelData,
    OptimizerConfig,
    OptimStepResponse,
    SamplingParams,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    SgdParams,
    SupportedModel,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
)

from tinkex.types.checkpoint_path import CheckpointType, ParsedCheckpointTinkerPath
from tinkex.types.datum import Datum, LossFnInputs
from tinkex.types.model_input import (
    DmelChunk,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
    as_model_input,
)
from tinkex.types.outputs import (
    ForwardBackwardOutput,
    LossFnOutput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TrainStepOutput,
)
from tinkex.types.provenance import PromptProvenanceSpan, ProvenanceSpan, ProvenanceSpans, SampledProvenanceSpan
from tinkex.types.tensor import ArrayLike, TensorData, TensorDtype
from tinkex.types.topk import TopkLogprobs

__all__ = [
    "AdamParams",
    "ArrayLike",
    "Checkpoint",
    "CheckpointType",
    "CheckpointsListResponse",
    "CopyWeightsResponse",
    "Cursor",
    "Datum",
    "DimuonParams",
    "DmelChunk",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "GetServerCapabilitiesResponse",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "LoadWeightsResponse",
    "LoraConfig",
    "LossFnInputs",
    "LossFnOutput",
    "ModelData",
    "ModelInput",
    "ModelInputChunk",
    "OptimStepResponse",
    "OptimizerConfig",
    "ParsedCheckpointTinkerPath",
    "PromptAltTokens",
    "PromptProvenanceSpan",
    "ProvenanceSpan",
    "ProvenanceSpans",
    "SampleResponse",
    "SampledProvenanceSpan",
    "SampledSequence",
    "SamplingParams",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "SgdParams",
    "SupportedModel",
    "TensorData",
    "TensorDtype",
    "TopkLogprobs",
    "TrainStepOutput",
    "TrainingRun",
    "TrainingRunsResponse",
    "WeightsInfoResponse",
    "as_model_input",
]
