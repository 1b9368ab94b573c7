"""Samples without stops end at any token that one of the model's files calls an end."""

# transformers ships few types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinkex import ModelInput, SamplingParams, ServiceClient
from tinkex.local import Server
from tinkex.transport.server import Server as ServerFacts
from tinkex_server.engine.interface import SampleSpec
from tinkex_server.engine.model_info import SHIPPED
from tinkex_server.engine.torch.engine import TorchEngine

PROMPT = list(b"seven and six is")
COUNT = 16


def put(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def sampled(folder: Path) -> tuple[list[int], str]:
    engine = TorchEngine([str(folder)], "cpu")
    engine.load_sampler("s", str(folder), None)
    [sequence] = (
        engine.sample("s", SampleSpec(PROMPT, max_tokens=COUNT, temperature=0.0))
        .result(60)
        .sequences
    )
    engine.close()
    return list(sequence.tokens), sequence.stop_reason


def generated(folder: Path, *more: int) -> list[int]:
    """Returns what transformers generates. It stops by the generation config alone, so the other
    ends must be passed in.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    known = model.generation_config.eos_token_id
    known = known if isinstance(known, list) else [known]
    ids = torch.tensor([PROMPT])
    ends = {"eos_token_id": [*known, *more]} if more else {}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=COUNT,
        pad_token_id=256,
        **ends,
    )
    return out[0, len(PROMPT) :].tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED["tinkex/tiny"], tmp_path / "model"))


@pytest.fixture(scope="module")
def free() -> list[int]:
    """The tokens that follow when nothing ends them early."""
    return generated(SHIPPED["tinkex/tiny"])


def first_new(tokens: list[int], place: int) -> int:
    """One whose first occurrence is at `place` or soon after."""
    return next(
        token
        for index, token in enumerate(tokens)
        if index >= place and token not in tokens[:index]
    )


def in_config(folder: Path, token: int) -> None:
    put(folder, "config.json", eos_token_id=token)


def in_config_list(folder: Path, token: int) -> None:
    put(folder, "config.json", eos_token_id=[256, token])


def in_config_alone(folder: Path, token: int) -> None:
    put(folder, "config.json", eos_token_id=token)
    (folder / "generation_config.json").unlink()


def in_generation_config(folder: Path, token: int) -> None:
    put(folder, "generation_config.json", eos_token_id=token)


def in_generation_config_list(folder: Path, token: int) -> None:
    put(folder, "generation_config.json", eos_token_id=[token, 256])


def in_tokenizer(folder: Path, token: int) -> None:
    put(
        folder,
        "tokenizer_config.json",
        eos_token=AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(token),
    )


@pytest.mark.parametrize(
    "name",
    [
        in_config,
        in_config_list,
        in_config_alone,
        in_generation_config,
        in_generation_config_list,
        in_tokenizer,
    ],
    ids=lambda name: name.__name__,
)
def test_an_end_that_any_file_names_ends_a_sample(
    folder: Path, free: list[int], name: Callable[[Path, int], None]
) -> None:
    token = first_new(free, 2)
    expected = free[: free.index(token) + 1]
    assert len(expected) < len(free)
    name(folder, token)
    assert sampled(folder) == (expected, "stop")
    assert generated(folder, token) == expected
    # those that transformers ends by itself
    if name in (in_config_alone, in_generation_config, in_generation_config_list):
        assert generated(folder) == expected


def test_a_stop_that_is_given_goes_before_all_ends(folder: Path, free: list[int]) -> None:
    token = first_new(free, 2)
    in_config(folder, token)
    engine = TorchEngine([str(folder)], "cpu")
    engine.load_sampler("s", str(folder), None)
    spec = SampleSpec(PROMPT, max_tokens=len(free), temperature=0.0, stop_tokens=[])
    [sequence] = engine.sample("s", spec).result(60).sequences
    engine.close()
    assert list(sequence.tokens)[: free.index(token) + 2] == free[: free.index(token) + 2]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("max_tokens", "told"), [(50, 1), (4, 0)])
def test_a_sample_that_the_context_cuts_is_told_of(
    torch_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    *,
    streams: bool,
    max_tokens: int,
    told: int,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ServerFacts, "warn_once", lambda self, words: said.append(words))  # pyright: ignore[reportUnknownLambdaType]
    prompt, params = (
        ModelInput.from_ints([97] * 1020),
        SamplingParams(max_tokens=max_tokens, stop=[0], seed=1),
    )
    with ServiceClient(torch_server.base_url, "tml-test") as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        if streams:
            [*_, last] = sampler.sample_stream(prompt, params)
            assert last.sequence is not None
            sequence = last.sequence
        else:
            [sequence] = sampler.sample(prompt, 1, params).result().sequences
    assert (len(sequence.tokens), sequence.stop_reason) == (4, "length")
    assert ["filled the model's context" in words for words in said] == [True] * told
