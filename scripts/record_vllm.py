"""Records answers of a real vLLM for the tests that run without one: `python
scripts/record_vllm.py URL`, with a vLLM that serves tinkex/tiny as `base`, started with the
arguments of `tinkex_server/engine/vllm/supervisor.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from tinkex_server.engine.interface import AdamSettings, Example, LoraShape
from tinkex_server.engine.torch.engine import TorchEngine

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tests" / "support" / "vllm_recordings.json"
PROMPT = list(b"Once upon a time")
GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "detokenize": False}


def main() -> None:
    url = sys.argv[1].rstrip("/")
    recorded: dict[str, Any] = {}

    def record(name: str, path: str, body: Any = None) -> None:
        status, text = call(url + path, body)
        if path == "/metrics":
            text = "".join(line for line in text.splitlines(True) if "tokens_total" in line)
        recorded[name] = {"path": path, "request": body, "status": status, "answer": text}

    def generate(name: str, model: str = "base", *, stream: bool = False, **params: Any) -> None:
        body = {
            "model": model,
            "token_ids": PROMPT,
            "sampling_params": {"max_tokens": 6, "logprobs": 0, **params},
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        record(name, "/inference/v1/generate", body)

    with tempfile.TemporaryDirectory() as folder:
        adapter = str(save_adapter(Path(folder) / "adapter"))
        record("version", "/version")
        record("models", "/v1/models")
        record("load", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": adapter})
        record("load again", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": adapter})
        record("models with adapter", "/v1/models")
        generate("greedy", **GREEDY)
        generate("greedy of the adapter", "a", **GREEDY)
        generate("stream", stream=True, **GREEDY)
        generate("two samples", n=2, seed=5, temperature=0.7, top_k=5, top_p=0.9)
        generate("likely tokens", **{**GREEDY, "logprobs": 3})
        generate("stop token", stop_token_ids=[32], **{**GREEDY, "max_tokens": 40})
        generate(
            "stop string",
            stop=["e"],
            skip_special_tokens=False,
            **{**GREEDY, "max_tokens": 40, "detokenize": True},
        )
        generate("bad top_p", top_p=7.0)
        record("unload", "/v1/unload_lora_adapter", {"lora_name": "a"})
        record("unload again", "/v1/unload_lora_adapter", {"lora_name": "a"})
        generate("unknown adapter", "a", **GREEDY)
        record("load of nothing", "/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "/nope"})
        large = str(save_adapter(Path(folder) / "large", rank=128))
        record(
            "load of a large one", "/v1/load_lora_adapter", {"lora_name": "c", "lora_path": large}
        )
        record("metrics", "/metrics")
        kept = without_paths(json.dumps(recorded, indent=1), folder)
    TARGET.write_text(kept + "\n")
    for name, one in recorded.items():
        print(f"{one['status']}  {name}: {one['answer'][:150]!r}")


def without_paths(text: str, adapters: str) -> str:
    """Returns the text without the folders of this machine."""
    return text.replace(adapters, "/adapters").replace(str(ROOT / "tinkex"), "/models")


def save_adapter(folder: Path, rank: int = 8) -> Path:
    engine = TorchEngine(["tinkex/tiny"], "cpu", "float32")
    engine.create_model("m", "tinkex/tiny", LoraShape(rank, seed=1))
    tokens = np.array([*PROMPT, *b", there was"], np.int64)
    data = [Example(tokens[:-1], {"target_tokens": tokens[1:]})]
    for _ in range(4):
        engine.forward_backward("m", data, "cross_entropy", {}, backward=True)
        engine.optim_step("m", AdamSettings(learning_rate=0.02))
    engine.save_model("m", folder, optimizer=False)
    engine.close()
    return folder


def call(url: str, body: Any) -> tuple[int, str]:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


if __name__ == "__main__":
    main()
