"""Makes tinkex/tiny, the model that ships with the package: `make tiny-model`.

A byte-level decoder of 1.7 million parameters in the transformers format, pre-trained for a few
minutes of CPU on two public-domain books that Debian packages: the Jargon File and the Devil's
Dictionary. Needs `apt-get` and `dpkg-deb`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PACKAGES = {"dict-jargon": "jargon.dict.dz", "dict-devil": "devil.dict.dz"}
END_OF_TEXT = "<|endoftext|>"
CONTEXT = 1024  # tokens, which are bytes
WINDOW = 256  # tokens a training sequence
HELD_OUT = 1 / 50
SEED = 0


def read_books() -> list[str]:
    """Extracts the books' texts of Debian's packages in a temporary folder; nothing is
    installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=folder, check=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        paths = [next(Path(folder).rglob(name)) for name in PACKAGES.values()]
        return [gzip.decompress(path.read_bytes()).decode("utf-8", "replace") for path in paths]


def byte_tokenizer() -> Tokenizer:
    """Makes a tokenizer of one token per byte and one for the end of a text."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _byte_characters() -> list[str]:
    """Returns the printable stand-in of each byte in the byte-level scheme: the byte itself where
    printable, else the next free from U+0100.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def new_model() -> Qwen3ForCausalLM:
    torch.manual_seed(SEED)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=257,
            hidden_size=192,
            intermediate_size=576,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,  # so that a LoRA of the output leaves the input alone
            bos_token_id=None,
            eos_token_id=256,
            pad_token_id=256,
        )
    )


def learning_rate(progress: float, peak: float = 4e-3) -> float:
    """Computes the rate: a linear warm-up over a twentieth, then a half cosine."""
    return peak * min(progress * 20, 0.5 * (1 + math.cos(math.pi * progress)) + 0.01)


def train(
    model: Qwen3ForCausalLM, tokens: torch.Tensor, minutes: float, batch_size: int = 32
) -> tuple[int, float]:
    """Trains on random windows for the given time; returns the steps taken and the last loss in
    nats a byte.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.05)
    chance = torch.Generator().manual_seed(SEED)
    started, steps, recent = time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - started) / (60 * minutes)) < 1:
        starts = torch.randint(len(tokens) - WINDOW, (batch_size,), generator=chance)
        batch = torch.stack([tokens[start : start + WINDOW] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        recent = loss.item() if steps == 1 else 0.95 * recent + 0.05 * loss.item()
        if steps % 50 == 0:
            print(f"{progress:4.0%}  step {steps}  {recent:.3f} nats a byte", flush=True)
    return steps, recent


@torch.inference_mode()
def held_out_loss(model: Qwen3ForCausalLM, tokens: torch.Tensor) -> float:
    windows = tokens[: len(tokens) // WINDOW * WINDOW].view(-1, WINDOW)
    return float(
        sum(model(input_ids=part, labels=part).loss * len(part) for part in windows.split(32))
        / len(windows)
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "tinkex" / "tiny"
    )
    arguments.add_argument("--minutes", type=float, default=8.0)
    options = arguments.parse_args()

    texts = [torch.tensor(list(book.encode()), dtype=torch.long) for book in read_books()]
    cuts = [int(len(text) * (1 - HELD_OUT)) for text in texts]
    training = torch.cat([text[:cut] for text, cut in zip(texts, cuts, strict=True)])
    held_out = torch.cat([text[cut:] for text, cut in zip(texts, cuts, strict=True)])

    model = new_model()
    steps, loss = train(model, training, options.minutes)
    figures = {
        "parameters": model.num_parameters(),
        "bytes_of_text": len(training),
        "minutes": options.minutes,
        "steps": steps,
        "training_nats_a_byte": round(loss, 3),
        "held_out_nats_a_byte": round(held_out_loss(model.eval(), held_out), 3),
    }
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    tokenizer.save_pretrained(options.out)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
