"""Models of other kinds are sampled as transformers' own `generate` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AfmoeConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BertConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    JambaConfig,
    JetMoeConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)

from tests.support.model_zoo import tiny_config
from tests.support.small_models import SMALL_SHAPE
from tinkex_server.engine.interface import Example, InvalidRequest, LoraShape, SampleSpec
from tinkex_server.engine.torch import base_model
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.engine import TorchEngine

TINY = Path(__file__).parents[3] / "tinkex" / "tiny"
CONFIGS = {
    "llama": LlamaConfig(**SMALL_SHAPE, tie_word_embeddings=True),
    "sliding window": MistralConfig(**SMALL_SHAPE, sliding_window=6),
    "sliding and full layers": Qwen2Config(
        **SMALL_SHAPE,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "learned positions": GPT2Config(
        vocab_size=257,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        eos_token_id=256,
        bos_token_id=256,
        initializer_range=0.3,
    ),
}
PROMPTS = [
    list(b"The hacker"),
    list(b"A"),
    list(b"A longer prompt than the window"),
    list(b"The hacken"),
]


HEAD = "the output layer"


def last(name: str) -> str:
    return name.rpartition(".")[2]


def named(base: LoadedBaseModel, module: torch.nn.Module) -> str:
    return next(name for name, one in base.model.named_modules() if one is module)


def saved(config: PreTrainedConfig, folder: Path) -> Any:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_samples_are_those_of_generate(kind: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[kind], tmp_path)
    engine = TorchEngine([str(tmp_path)], "cpu")
    engine.load_sampler("s", str(tmp_path), None)
    spec = [
        SampleSpec(prompt, max_tokens=20, temperature=0.0, stop_tokens=[]) for prompt in PROMPTS
    ]
    futures = [engine.sample("s", one) for one in spec]
    for prompt, future in zip(PROMPTS, futures, strict=True):
        tokens = torch.tensor([prompt])
        expected = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=None,
            pad_token_id=256,
        )
        assert future.result(60).sequences[0].tokens == expected[0, len(prompt) :].tolist()
    engine.close()


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (Phi3Config(**SMALL_SHAPE), {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", HEAD}),
        (
            GPTNeoXConfig(**SMALL_SHAPE),
            {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", HEAD},
        ),
    ],
)
def test_layers_with_unusual_names_are_trained_too(
    config: PreTrainedConfig, trained: set[str], tmp_path: Path
) -> None:
    saved(config, tmp_path)
    base = LoadedBaseModel.load(str(tmp_path), "cpu")
    head = named(base, base.model.get_output_embeddings())
    assert {
        HEAD if name == head else last(name) for name in base.new_adapter(LoraShape(2)).layers
    } == trained
    only = base.new_adapter(LoraShape(2, train_attn=False, train_mlp=False))
    assert list(only.layers) == [head]


# of older releases of transformers
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("config", "attention"),
    [
        (BertConfig(**SMALL_SHAPE, is_decoder=True), {"query", "key", "value", "dense"}),
        (
            GPTBigCodeConfig(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128),
            {"c_attn", "c_proj"},
        ),
        (
            AfmoeConfig(**SMALL_SHAPE, head_dim=8, num_dense_layers=2),
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"},
        ),
    ],
)
def test_the_layers_of_the_attention_are_those_in_it_whatever_their_names(
    config: PreTrainedConfig, attention: set[str], tmp_path: Path
) -> None:
    saved(config, tmp_path)
    base = LoadedBaseModel.load(str(tmp_path), "cpu")
    of_attention = base.new_adapter(LoraShape(2, train_mlp=False, train_unembed=False)).layers
    of_mlp = base.new_adapter(LoraShape(2, train_attn=False, train_unembed=False)).layers
    assert {last(name) for name in of_attention} == attention
    assert all("attn" in name or "attention" in name for name in of_attention)
    assert not any("attn" in name or "attention" in name for name in of_mlp)


def test_switches_that_would_train_only_some_layers_are_refused(tmp_path: Path) -> None:
    saved(tiny_config(JetMoeConfig), tmp_path)
    base = LoadedBaseModel.load(str(tmp_path), "cpu")
    for switch, shape in (
        ("train_attn", LoraShape(2)),
        ("train_mlp", LoraShape(2, train_attn=False)),
    ):
        with pytest.raises(
            InvalidRequest, match=f"{switch} must be false for this model: it has experts"
        ):
            base.new_adapter(shape)
    assert base.new_adapter(LoraShape(2, train_attn=False, train_mlp=False)).layers
    saved(CONFIGS["learned positions"], tmp_path)
    with pytest.raises(
        InvalidRequest,
        match=(
            "train_attn must be false for this model: its layers c_attn, c_proj are not "
            "linear layers of a known type"
        ),
    ):
        LoadedBaseModel.load(str(tmp_path), "cpu").new_adapter(LoraShape(2))


def test_all_experts_are_trained_but_not_what_chooses_between_them(tmp_path: Path) -> None:
    saved(
        Qwen3MoeConfig(
            **SMALL_SHAPE,
            num_experts=3,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            mlp_only_layers=[0],
        ),
        tmp_path,
    )
    base = LoadedBaseModel.load(str(tmp_path), "cpu")
    layers = base.new_adapter(LoraShape(2, train_attn=False, train_unembed=False)).layers
    dense, experts = "model.layers.0.mlp", "model.layers.1.mlp.experts"
    assert {name: (a.shape, b.shape) for name, (a, b) in layers.items()} == {
        f"{dense}.gate_proj": ((2, 32), (48, 2)),
        f"{dense}.up_proj": ((2, 32), (48, 2)),
        f"{dense}.down_proj": ((2, 48), (32, 2)),
        f"{experts}.base_layer": ((6, 32), (16, 6)),  # gate_up_proj, by peft's name
        experts: ((6, 8), (32, 6)),  # down_proj
    }


def test_a_model_whose_layers_have_no_known_cache_is_refused_before_it_is_loaded(
    tmp_path: Path,
) -> None:
    saved(CONFIGS["llama"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    file = tmp_path / "config.json"
    kinds = {"layer_types": ["indexed_attention", "full_attention"]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **kinds}))
    with pytest.raises(
        InvalidRequest,
        match="indexed_attention layers, which are not supported: sampling relies on caches",
    ):
        LoadedBaseModel.load(str(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            JambaConfig(**SMALL_SHAPE, num_experts=2, num_experts_per_tok=1),
            "cannot continue from a standard cache",
        ),
        (
            BertConfig(**SMALL_SHAPE),
            "its attention is bidirectional, as in an encoder",
        ),
        (
            BartConfig(
                vocab_size=257,
                d_model=32,
                decoder_layers=1,
                decoder_ffn_dim=48,
                is_encoder_decoder=False,
            ),
            "in a batch gives other logprobs",
        ),
    ],
)
def test_a_model_whose_logprobs_would_differ_is_refused_when_it_is_loaded(
    config: PreTrainedConfig, words: str, tmp_path: Path
) -> None:
    saved(config, tmp_path)
    with pytest.raises(InvalidRequest, match=words):
        LoadedBaseModel.load(str(tmp_path), "cpu")


ROPES: dict[str, tuple[PreTrainedConfig, int]] = {
    "longrope": (
        Phi3Config(
            **SMALL_SHAPE,
            original_max_position_embeddings=32,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        32,
    ),
    "dynamic": (
        LlamaConfig(
            **SMALL_SHAPE,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        ),
        128,
    ),
}


@pytest.mark.parametrize("kind", ROPES)
def test_longrope_models_are_served_up_to_the_length_where_positions_change(
    kind: str, tmp_path: Path
) -> None:
    config, longest = ROPES[kind]
    saved(config, tmp_path)
    engine = TorchEngine([str(tmp_path)], "cpu")
    assert engine.base_models[0].max_context_length == longest
    engine.create_model("m", str(tmp_path), LoraShape(2))

    def logprobs(*rows: Sequence[int]) -> list[Any]:
        data = [Example(np.array(row[:-1]), {"target_tokens": np.array(row[1:])}) for row in rows]
        return [
            o["logprobs"]
            for o in engine.forward_backward(
                "m", data, "cross_entropy", {}, backward=False
            ).loss_fn_outputs
        ]

    short, long = list(range(20, 30)), [token % 200 for token in range(longest + 1)]
    np.testing.assert_allclose(logprobs(short, long)[0], logprobs(short)[0], atol=1e-5)
    engine.load_sampler("s", str(tmp_path), None)
    sampled = engine.sample("s", SampleSpec(short, seed=1, stop_tokens=[])).result(60).sequences[0]
    assert len(short) + len(sampled.tokens) == longest
    np.testing.assert_allclose(
        sampled.logprobs, logprobs(short + list(sampled.tokens))[0][len(short) - 1 :], atol=1e-5
    )
    longer = [*long, 1]
    with pytest.raises(
        InvalidRequest,
        match=f"must have 1 to {longest}" + (": .*longrope" if kind == "longrope" else ""),
    ):
        logprobs([*longer, 2])
    with pytest.raises(InvalidRequest, match=f"must have 1 to {longest - 1}"):
        engine.sample("s", SampleSpec(longer)).result(60)
    engine.close()


class _Gathered(torch.nn.Module):
    """Gives a layer the tokens of the batch in another order, as experts of their own modules
    do.
    """

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.flatten(0, 1)
        return self.inner(flat.flip(0)).flip(0).view_as(states)


def test_a_model_that_mixes_up_adapters_of_one_batch_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(CONFIGS["llama"], tmp_path)
    load = base_model.AutoModelForCausalLM.from_pretrained

    def loaded(*args: Any, **kwargs: Any) -> Any:
        model: Any = load(*args, **kwargs)
        layer = model.model.layers[0]
        layer.mlp = _Gathered(layer.mlp)
        return model

    monkeypatch.setattr(base_model.AutoModelForCausalLM, "from_pretrained", loaded)
    with pytest.raises(
        InvalidRequest, match="other logprobs in a batch with several adapters than alone"
    ):
        LoadedBaseModel.load(str(tmp_path), "cpu")
