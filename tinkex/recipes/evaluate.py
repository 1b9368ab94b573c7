"""`evaluate`: the loss and the score of a base model, or of saved weights, on held-out data."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from tinkex import (
    InvalidInputError,
    NotFoundError,
    SamplingClient,
    ServiceClient,
    UnsupportedByServer,
)
from tinkex.data import ChatTemplate, Example, load, load_prompts, read_rows
from tinkex.recipes.context import context_length, not_empty
from tinkex.recipes.held_out import mean_score, sampler_loss
from tinkex.recipes.scoring import Scorer


@frozen
class Evaluation:
    """The numbers of a model on held-out data; None for those that the data does not give."""

    loss: float | None
    """The cross entropy of the completions, in nats per token."""
    loss_tokens: int
    """The tokens of these completions."""
    examples: int
    score: float | None
    """The mean score of the likeliest answers."""
    answers: int
    """The number of these answers."""


def evaluate(
    service: ServiceClient,
    model: str,
    data: str,
    *,
    base_model: str | None = None,
    scorer: Scorer | None = None,
    max_tokens: int = 64,
    stop: Sequence[str] = (),
    limit: int | None = None,
    template: ChatTemplate | None = None,
) -> Evaluation:
    """Evaluates a model on a JSONL file.

    Args:
        service: the server that has the model.
        model: a base model, or a path of saved weights.
        base_model: the base model of saved weights, for servers that do not tell it.
        data: a file of texts, completions or chats; or only of prompts, for a score.
        scorer: a function that scores the likeliest answer to each prompt.
        max_tokens: the most tokens of an answer.
        stop: texts that end an answer, beside the end of text.
        limit: the number of rows to use, from the first; by default all.
        template: a chat template; by default the tokenizer's.

    Raises:
        DataError: a line cannot be used.
        InvalidInputError: an answer cannot be scored, or the rows have only prompts and there is no
            scorer.
        UnsupportedByServer: the server computes no logprobs of a prompt.

    Example:
        found = evaluate(service, path, "held_out.jsonl", scorer=exact_match)
        print(found.loss, found.score)
    """
    sampler = _open(service, model, base_model)
    tokenizer = sampler.get_tokenizer()
    examples: Sequence[Example] = ()
    if _has_answers(data):
        length = _context_length(service, sampler)
        loaded = load(data, tokenizer, template=template, max_length=length)
        examples = not_empty(data, loaded.examples)[:limit]
    elif scorer is None:
        raise InvalidInputError(
            f"{data} has prompts without answers, so that it has no loss",
            advice="Give a function that scores the model's answers: --score module:function.",
        )
    prompts = load_prompts(data, tokenizer, template=template)[:limit] if scorer else ()
    return Evaluation(
        sampler_loss(sampler, examples) if examples else None,
        sum(example.loss_tokens for example in examples),
        len(examples),
        mean_score(scorer, sampler, tokenizer, prompts, max_tokens, stop) if scorer else None,
        len(prompts),
    )


def _open(service: ServiceClient, model: str, base_model: str | None) -> SamplingClient:
    if "://" not in model:
        return service.create_sampling_client(base_model=model)
    if "/weights/" in model:  # a state of training, which cannot be sampled from directly
        trainer = service.create_training_client_from_state(model, base_model)
        return trainer.save_weights_and_get_sampling_client()
    return service.create_sampling_client(model, base_model)


def _has_answers(data: str) -> bool:
    first = next(read_rows(data), None)
    return first is None or not {"completion", "messages", "text"}.isdisjoint(first.fields)


def _context_length(service: ServiceClient, sampler: SamplingClient) -> int | None:
    try:
        return context_length(service, str(sampler.get_base_model()))
    except (NotFoundError, UnsupportedByServer):
        return None
