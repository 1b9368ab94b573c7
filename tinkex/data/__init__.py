"""Data files for training: JSONL of texts, prompts with completions, chats and preference pairs,
as datums for the tokenizer in use.

Only what the model is to write counts in the loss: whole texts, completions, and the assistant's
messages. Errors name the file and the line.

Example:
    data = tinkex.data.load("chats.jsonl", trainer.get_tokenizer(), max_length=2048)
    batch = [example.datum() for example in data.examples[:16]]
    trainer.forward_backward(batch, "cross_entropy")
"""

from tinkex.data.check import Report, check
from tinkex.data.datasets import (
    Dataset,
    Pair,
    PromptRow,
    load,
    load_pairs,
    load_prompts,
)
from tinkex.data.examples import Example, pack
from tinkex.data.rows import DataError, Row, read_rows
from tinkex.data.templates import ChatTemplate, chat_template, plain

__all__ = [
    "ChatTemplate",
    "DataError",
    "Dataset",
    "Example",
    "Pair",
    "PromptRow",
    "Report",
    "Row",
    "chat_template",
    "check",
    "load",
    "load_pairs",
    "load_prompts",
    "pack",
    "plain",
    "read_rows",
]
