"""Tokenizers with chat templates, made of that of tinkex/tiny."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinkex import Tokenizer, get_tokenizer
from tinkex.tokenizer.sources import SHIPPED

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]")

CHATML = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
INSTRUCT = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content + ' [/INST]' }}
    {%- else %}
        {%- generation %}
            {{- ' ' + message.content + '</s>' }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""
"""A template that has no generation prompt, and refuses roles in another order."""

REASONING = """\
{%- set last = messages | length - 1 %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and loop.index0 == last %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}
        {{- message.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""A template that shows the last answer with a block of reasoning, and earlier ones without it."""


def chat_tokenizer(folder: Path, template: str, *, beside: bool = True) -> Tokenizer:
    """Returns the tokenizer of tinkex/tiny with special tokens and a template, which is in a file
    of its own, or else in tokenizer_config.json.
    """
    fields = json.loads(SHIPPED["tinkex/tiny"].read_text())
    first = fields["added_tokens"][0]
    fields["added_tokens"] += [
        {**first, "id": 257 + place, "content": token} for place, token in enumerate(SPECIAL)
    ]
    config: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if "im_end" in template:
        config["eos_token"] = "<|im_end|>"
    if beside:
        (folder / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = [{"name": "default", "template": template}]
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return get_tokenizer(str(folder))


def reference(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """Returns the tokens of a chat and the mask of its answers, by transformers."""
    rendered: Any = tokenizer.to_transformers().apply_chat_template(
        list(messages), return_assistant_tokens_mask=True, return_dict=True
    )
    return rendered["input_ids"], rendered["assistant_masks"]
