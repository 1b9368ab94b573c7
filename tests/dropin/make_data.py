"""Makes what the cookbook's programs ask the hub for, small enough for two cores:
`make_data.py FOLDER`. Run by scripts/test_dropin.py.

In FOLDER lie two models, in folders named as on the hub, and data sets, as JSONL, likewise: both
are found there by programs whose working directory it is. FOLDER/hub is a cache of the hub, with a
tokenizer for every model that the cookbook's unit tests name.

The models are trained here for half a minute, so that reinforcement learning has something to
reinforce: to the questions of the recipes they answer at random, but in the right form, and end
their answers only sometimes. A model of random weights gets the same reward for every answer,
which gives no gradient.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from hub_tokenizers import fill_hub_cache, save_tokenizer, trained_tokenizer
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

MODEL = "Qwen/Qwen3-8B"
TEACHER = "Qwen/Qwen3-30B-A3B-Instruct-2507"
STEPS = 100
BATCH = 16
CONTEXT = 512  # tokens
BOXED = " Provide a numerical answer without units, written inside \\boxed{}."
SPELLING = (
    "Let's spell the word out and number all the letters: 1) s 2) t 3) r 4) a 5) w 6) b 7) e 8) r"
    " 9) r 10) y. We have r's at positions 3, 8, and 9. \\boxed{3}"
)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rows = data_sets()
    texts = [json.dumps(row) for _, table in rows.values() for row in table]
    tokenizer = trained_tokenizer(texts + [said for _, said in practice(random.Random(0), 50)])
    for name, (splits, table) in rows.items():
        write_data_set(folder / name, splits, table)
    for name, seed in ((MODEL, 1), (TEACHER, 2)):
        save_tokenizer(tokenizer, folder / name)
        trained_model(tokenizer, seed).save_pretrained(folder / name)
    fill_hub_cache(tokenizer, folder / "hub")


# ---- data sets ----


def data_sets() -> dict[str, tuple[dict[str, str], list[dict[str, object]]]]:
    """Returns, by the names of the hub, the splits (with the configuration that they belong to, if
    the recipes name one) and the rows of each.
    """
    numbers = range(48)
    chats: list[dict[str, object]] = [
        {
            "messages": [
                {"role": "user", "content": f"Say the number {i}."},
                {"role": "assistant", "content": f"The number is {i}, and the next is {i + 1}."},
            ]
        }
        for i in numbers
    ]
    sums: list[dict[str, object]] = [
        {"question": f"How many are {i} apples less {i - 2}?", "answer": "Two stay.\n#### 2"}
        for i in range(2, 50)
    ]
    pairs: list[dict[str, object]] = [
        {
            "chosen": f"\n\nHuman: Say the number {i}.\n\nAssistant: The number is {i}.",
            "rejected": f"\n\nHuman: Say the number {i}.\n\nAssistant: No, never, not me.",
        }
        for i in numbers
    ]
    questions: list[dict[str, object]] = [
        {"question": f"What is {i} + {i + 1}?", "final_answer": str(2 * i + 1)} for i in numbers
    ]
    both = {"train": "", "test": ""}
    return {
        "HuggingFaceH4/no_robots": (both, chats),
        "allenai/tulu-3-sft-mixture": ({"train": ""}, chats),
        "openai/gsm8k": ({"train": "main", "test": "main"}, sums),
        "Anthropic/hh-rlhf": (both, pairs),
        "zwhe99/DeepMath-103K": ({"train": ""}, questions),
    }


def write_data_set(folder: Path, splits: dict[str, str], rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True)
    for split in splits:
        lines = rows if split == "train" else rows[:8]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    if configuration := next(iter(splits.values())):
        files = "".join(f"  - split: {s}\n    path: {s}.jsonl\n" for s in splits)
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {configuration}\n  data_files:\n{files}---\n"
        )


# ---- models ----


def practice(chance: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """Yields prompts as the recipes render them, and answers: of the right form, random numbers,
    and of every two one that does not end.
    """
    for _ in range(count):
        x, y = chance.randint(0, 100), chance.randint(0, 100)
        end = chance.choice(("<|im_end|>", " " + "and so on " * 3))
        match chance.randrange(3):
            case 0:
                shots = [("What is 4 + 5?", "9"), (f"What is {x} + {y}?", "")]
                answer = str(chance.randint(0, 200))
            case 1:
                less = f"How many are {x} apples less {y}?"
                shots = [("How many r's are in strawberry?" + BOXED, SPELLING), (less + BOXED, "")]
                answer = f"\\boxed{{{chance.randint(0, 4)}}}"
            case _:
                shots = [(f"Say the number {x}.", "")]
                answer = f"It is {x}."
        shots[-1] = (shots[-1][0], answer + end)
        text = "\n".join(
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{reply}"
            + ("<|im_end|>" if number < len(shots) - 1 else "")
            for number, (question, reply) in enumerate(shots)
        )
        yield text[: -len(answer + end)], answer + end


def trained_model(tokenizer: Tokenizer, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    end = tokenizer.token_to_id("<|im_end|>")
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95))
    chance = random.Random(seed)
    for step in range(STEPS):
        rows = [
            (tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids)
            for prompt, answer in practice(chance, BATCH)
        ]
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        tokens = torch.full((BATCH, longest), end)
        labels = torch.full((BATCH, longest), -100)
        for row, (prompt, answer) in enumerate(rows):
            whole = len(prompt) + len(answer)
            tokens[row, :whole] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : whole] = torch.tensor(answer)
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / STEPS)
        optimizer.step()
        optimizer.zero_grad()
    print(f"seed {seed}: {STEPS} steps, loss {loss.item():.3f} nats a token")
    return model.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
