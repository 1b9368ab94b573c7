"""Tokenizers of our own making, in the place of those that the cookbook's renderers are for.

All have one vocabulary of byte pairs, and every special token that a renderer of the cookbook asks
for, since a renderer needs such a token to be one token and no more. What the names of the hub
stand for, the real vocabularies and chat templates, is not here: a test that compares with those
fails, with either client.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = Path(__file__).parent
COMMIT = "0" * 40
SIZE = 800  # tokens, without the added ones

SPECIAL = tuple((FOLDER / "special_tokens.txt").read_text().split())
# one token each, but part of the text
MARKS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "/nothink",
)

# the first and last token of a text, by how the model's name begins
ENDS = {
    "deepseek-ai/": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "meta-llama/": ("<|begin_of_text|>", "<|eot_id|>"),
    "thinkingmachineslabinc/": ("<|begin_of_text|>", "<|eot_id|>"),
    "openai/": ("<|startoftext|>", "<|return|>"),
    "moonshotai/": ("[BOS]", "[EOS]"),
    "zai-org/": (None, "<|endoftext|>"),
}
QWEN_ENDS = (None, "<|im_end|>")

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}
{%- else %}{%- for part in message.content or [] %}{{- part.text or '' }}{%- endfor %}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# the models whose tokenizers the cookbook's unit tests load
NAMES = tuple((FOLDER / "models.txt").read_text().split())
# the commits that the cookbook names
COMMITS = {
    "moonshotai/Kimi-K2-Thinking": ["a51ccc050d73dab088bf7b0e2dd9b30ae85a4e55"],
    "moonshotai/Kimi-K2.5": [
        "2426b45b6af0da48d0dcce71bbce6225e5c73adc",
        "3367c8d1c68584429fab7faf845a32d5195b6ac1",
    ],
    "moonshotai/Kimi-K2.6": ["b5aabbfb20227ed42becbf5541dbffd213942c58"],
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16": [
        "533d66230b6e75518bf32d2d7a7b95a24c3dd517"
    ],
}
# the cookbook loads Kimi's tokenizers by the code that lies beside them
KIMI_CODE = '''\
from transformers import PreTrainedTokenizerFast


class TikTokenTokenizer(PreTrainedTokenizerFast):
    """A tokenizer like the others, under the name of the one in whose place it is."""
'''
IMAGE_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}


def trained_tokenizer(texts: list[str]) -> Tokenizer:
    """Returns byte pairs of these texts, and the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, name: str = "") -> None:
    """Writes it as AutoTokenizer reads it, with the ends of texts that the named model has."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, end = next((ends for start, ends in ENDS.items() if name.startswith(start)), QWEN_ENDS)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": end,
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 20,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def fill_hub_cache(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizers of NAMES into the cache of the hub whose HF_HOME is `folder`."""
    for name in NAMES:
        repository = folder / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        for commit in (COMMIT, *COMMITS.get(name, [])):
            snapshot = repository / "snapshots" / commit
            save_tokenizer(tokenizer, snapshot, name)
            (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
            (snapshot / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR))
            if name.startswith("moonshotai/"):
                (snapshot / "tokenization_kimi.py").write_text(KIMI_CODE)
