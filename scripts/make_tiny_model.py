"""Makes tinkex/tiny, the model that ships with the package: `make tiny-model`.

A byte-level decoder of 1.9 million parameters in the transformers format, pre-trained for some minutes of CPU on two
public-domain books that Debian packages, the Jargon File and the Devil's Dictionary, and on generated lines that show
a piece of text twice, which teach it to copy. The packages are fetched by `apt-get download` and unpacked by
`dpkg-deb` in a temporary folder; nothing is installed. Where these commands are missing, unpack the two packages by other means and name
the folder with `--books`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen3Config, Qwen3ForCausalLM

BOOKS = {"dict-jargon": "jargon.dict.dz", "dict-devil": "devil.dict.dz"}  # Debian package: its file
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 256
CONTEXT = 1024  # tokens, which are bytes
BATCH = 8192  # tokens a step
HELD_OUT = 1 / 50  # of each book, from its end
COPIED = 1 / 4  # of each batch is generated lines
PEAK_LEARNING_RATE = 4e-3
SEED = 0


def fetch_books(folder: Path) -> None:
    """Unpacks Debian's packages of the books into `folder`."""
    missing = [command for command in ("apt-get", "dpkg-deb") if shutil.which(command) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found. Unpack Debian's {' and '.join(BOOKS)}, then give --books FOLDER.")
    subprocess.run(["apt-get", "download", "-q", *BOOKS], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)


def read_books(folder: Path) -> list[bytes]:
    """The text of each book, found anywhere under `folder`."""
    paths = [next(folder.rglob(name), None) for name in BOOKS.values()]
    if None in paths:
        sys.exit(f"{' and '.join(BOOKS.values())} are not both under {folder}.")
    return [gzip.decompress(path.read_bytes()) for path in paths if path]


def byte_tokenizer() -> Tokenizer:
    """One token a byte, its id the byte's value, and one more for the end of a text."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _byte_characters() -> list[str]:
    """The stand-in of each byte in the byte-level scheme: itself where printable, else the next free from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def new_model() -> Qwen3ForCausalLM:
    torch.manual_seed(SEED)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=END_OF_TEXT_ID + 1,
            hidden_size=192,
            intermediate_size=576,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,  # so that a LoRA of the output leaves the input alone
            bos_token_id=None,
            eos_token_id=END_OF_TEXT_ID,
            pad_token_id=END_OF_TEXT_ID,
        )
    )


def copying_text(chance: random.Random, words: list[str], length: int) -> bytes:
    """Lines of a text, a separator, and the text or a piece of it again, to `length` bytes.

    Half of the texts are words of the books and half are random letters, so that copying is learnt and not the words.
    """
    lines: list[str] = []
    size = 0
    while size < length:
        separator = chance.choice([" = ", ": ", " | ", "\t", ", ", " "])
        for _ in range(chance.randint(2, 12)):
            text = " ".join(_word(chance, words) for _ in range(chance.choice([1, 1, 1, 2, 3])))
            start = chance.choice([0, chance.randrange(len(text))])
            lines.append(f"{text}{separator}{text[start:]}\n")
            size += len(lines[-1])
    return "".join(lines).encode()[:length]


def _word(chance: random.Random, words: list[str]) -> str:
    if chance.random() < 0.5:
        return chance.choice(words)
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 10)))


def batches(book: bytes) -> Callable[[int], torch.Tensor]:
    """The batch of each step, `(rows, window)`: many short windows, and on every fourth step few of the full context."""
    chance = random.Random(SEED)
    words = sorted({word.decode() for word in book.split() if word.isalpha() and word.islower()})

    def batch(step: int) -> torch.Tensor:
        window = CONTEXT if step % 4 == 3 else CONTEXT // 4
        rows = BATCH // window
        copied = round(rows * COPIED)
        starts = [chance.randrange(len(book) - window) for _ in range(rows - copied)]
        texts = [book[start : start + window] for start in starts]
        texts += [copying_text(chance, words, window) for _ in range(copied)]
        return torch.tensor([list(text) for text in texts])

    return batch


def learning_rate(progress: float) -> float:
    """Linear warm-up over the first twentieth, then a half cosine to nearly nothing."""
    return PEAK_LEARNING_RATE * min(progress * 20, 0.5 * (1 + math.cos(math.pi * progress)) + 0.01)


def train(model: Qwen3ForCausalLM, batch: Callable[[int], torch.Tensor], steps: int) -> None:
    """Muon for the matrices inside the layers, AdamW for the rest; forward passes in bfloat16, weights in float32."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.05),
    ]
    started, recent = time.monotonic(), math.log(256)
    for step in range(steps):
        tokens = batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((step + 1) / steps)
            optimizer.step()
            optimizer.zero_grad()
        recent += (loss.item() - recent) / min(step + 1, 20)
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}/{steps}  {recent:.3f} nats a byte  {time.monotonic() - started:.0f} s", flush=True)


@torch.inference_mode()
def held_out_loss(model: Qwen3ForCausalLM, text: bytes, window: int = CONTEXT // 4) -> float:
    """Mean nats a byte over windows without a past."""
    tokens = torch.tensor(list(text[: len(text) // window * window])).view(-1, window)
    return sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in tokens.split(16)) / len(tokens)


def save(model: Qwen3ForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    # Written here and not by transformers, which names a class that its older versions do not know.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tinkex" / "tiny")
    arguments.add_argument("--books", type=Path, help="a folder with the unpacked packages, instead of apt-get")
    arguments.add_argument("--steps", type=int, default=600)
    options = arguments.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        if options.books is None:
            fetch_books(Path(folder))
        books = read_books(options.books or Path(folder))
    cuts = [int(len(book) * (1 - HELD_OUT)) for book in books]
    training = b"".join(book[:cut] for book, cut in zip(books, cuts, strict=True))
    held_out = b"".join(book[cut:] for book, cut in zip(books, cuts, strict=True))

    model = new_model()
    print(f"{model.num_parameters():,} parameters, {len(training):,} bytes of books, {options.steps} steps")
    train(model, batches(training), options.steps)
    model = model.to(torch.bfloat16)
    save(model, options.out)
    print(f"held out: {held_out_loss(model.float().eval(), held_out):.3f} nats a byte, from the weights as saved")


if __name__ == "__main__":
    main()
