"""The command `tinkex sample`, which continues a text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from attrs import define

from tinkex.cli import suggestion
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.embedded import choose_server
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex import SamplingClient, Tokenizer
    from tinkex.data import ChatTemplate
    from tinkex.types import SampledSequence

FIELDS = ("number", "text", "tokens", "logprobs", "stop_reason", "model")


@data_command(
    "sample",
    help=(
        "Continue a text, token by token. With no server in the settings an embedded one does it "
        "on this machine. Without TEXT the prompt is read from standard input."
    ),
    fields=FIELDS,
    examples=[
        'tinkex sample "forty two is"',
        'tinkex sample -m tinkex/tiny --logprobs --max-tokens 20 "Once upon a time"',
        'tinkex sample --chat "What is forty two in digits?"',
    ],
    id_field="text",
)
@click.argument("text", required=False)
@click.option(
    "-m",
    "--model",
    metavar="MODEL|PATH",
    help="Base model, or path of saved weights.  [default: the server's first model]",
)
@click.option(
    "--base-model",
    metavar="MODEL",
    help="Base model of the saved weights, for servers that do not tell it.",
)
@click.option("-n", "count", default=1, show_default=True, type=click.IntRange(1), help="Samples.")
@click.option(
    "--max-tokens", default=128, show_default=True, type=click.IntRange(1), help="Most tokens."
)
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="0 takes the likeliest token each time.",
)
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Take only the likeliest tokens that together have this probability.",
)
@click.option(
    "--top-k", type=click.IntRange(1), help="Take only so many of the likeliest.  [default: all]"
)
@click.option("--seed", type=int, help="Makes samples repeatable.")
@click.option(
    "--stop", multiple=True, help=r"Text at which to stop, \n for a new line; repeatable."
)
@click.option("--logprobs", is_flag=True, help="Color tokens by probability; in a pipe, list them.")
@click.option(
    "--interactive",
    is_flag=True,
    help="Ask for one prompt after the other; an empty line ends it.",
)
@click.option(
    "--chat",
    is_flag=True,
    help="Send TEXT as a message of the user, by the chat template; with --interactive, the "
    "messages make one chat.",
)
@click.option("--system", metavar="TEXT", help="With --chat: the message of the system before it.")
@click.option(
    "--chat-template", metavar="FUNCTION", help="With --chat: the template, as for `tinkex train`."
)
@connection_options
def command(
    output: Output,
    connection: Connection,
    text: str | None,
    model: str | None,
    base_model: str | None,
    count: int,
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int | None,
    seed: int | None,
    stop: Sequence[str],
    logprobs: bool,
    interactive: bool,
    chat: bool,
    system: str | None,
    chat_template: str | None,
) -> None:
    """Samples one or more continuations of each prompt."""
    if (system or chat_template) and not chat:
        raise click.UsageError(f"--{'system' if system else 'chat-template'} needs --chat")
    prompts = _prompts(output, text, interactive)
    choose_server(output, connection, "samples", keeps="://" in (model or ""))
    with _open(output, connection, model, base_model) as sampler:
        params = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k or -1,
            "seed": seed,
            "stop": [_unescaped(one) for one in stop] or None,
        }
        tokenizer = sampler.get_tokenizer()
        template = _template(tokenizer, chat_template) if chat else None
        messages = [{"role": "system", "content": system}] if system else []
        command_line = _Sampling(
            output, sampler, tokenizer, params, count, logprobs, interactive, template, messages
        )
        for prompt in prompts:
            command_line.answer(prompt)


def _template(tokenizer: Tokenizer, function: str | None) -> ChatTemplate:
    """Returns the chat template: a function that is named, or else the tokenizer's own."""
    from tinkex.data import chat_template
    from tinkex.recipes import load_function

    return load_function(function) if function else chat_template(tokenizer)


def _prompts(output: Output, text: str | None, interactive: bool) -> Iterator[str]:
    """Yields the prompts: the argument, standard input, or what is typed.

    Raises:
        Failure: there is no prompt.
    """
    if not interactive:
        if text is None and sys.stdin.isatty():
            raise Failure(
                "there is no text to continue", code=ExitCode.USAGE, hint="tinkex sample --help"
            )
        prompt = sys.stdin.read() if text is None else text
        if not prompt:
            raise Failure(
                "the text to continue is empty", code=ExitCode.USAGE, hint="tinkex sample --help"
            )
        return iter([prompt])
    return _typed(output, text)


def _typed(output: Output, first: str | None) -> Iterator[str]:
    if first:
        yield first
    while True:
        if sys.stdin.isatty():
            output.err.write("> ")
            output.err.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.rstrip("\n")


def _open(
    output: Output, connection: Connection, model: str | None, base_model: str | None
) -> SamplingClient:
    """Opens a client for weights, or for a base model: by default the first of the server."""
    if model is not None and "://" in model:
        _listed(connection)  # a server that is not there is noticed sooner than by a session
        return connection.service.create_sampling_client(model, base_model)
    listed = _listed(connection)
    if model is None and not listed:
        raise Failure("the server lists no models", hint="tinkex sample -m MODEL TEXT")
    if model is not None and listed and model not in listed:
        output.warn(f"the server does not list {model}{suggestion(model, listed)}")
    return connection.service.create_sampling_client(base_model=model or listed[0])


def _listed(connection: Connection) -> Sequence[str]:
    """Returns the names of the models that the server lists."""
    from tinkex.errors import NotFoundError, UnsupportedByServer

    try:
        models = connection.rest.get_server_capabilities().supported_models
    except (UnsupportedByServer, NotFoundError):
        return ()
    return [one.model_name for one in models if one.model_name]


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


@define(eq=False)
class _Sampling:
    """Samples prompts with the same parameters, and writes what comes."""

    output: Output
    sampler: SamplingClient
    tokenizer: Tokenizer
    params: dict[str, Any]
    count: int
    logprobs: bool
    interactive: bool
    template: ChatTemplate | None
    messages: list[dict[str, str]]
    """The chat so far, where the prompts are messages."""

    def answer(self, prompt: str) -> None:
        """Samples one prompt. Where prompts are typed, Ctrl-C ends only its samples."""
        tokens = self._encoded(prompt)
        try:
            if self.output.mode in ("json", "quiet") or self.count > 1:
                answer = self._write_all(tokens)
            else:
                answer = self._stream(tokens)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self.output.text("")
            self.messages = self.messages[:-1]  # a chat goes on as if it had not been asked
        else:
            self.messages.append({"role": "assistant", "content": answer.strip()})

    def _encoded(self, prompt: str) -> Sequence[int]:
        """Returns the tokens of a prompt, or of the chat of which it is the next message."""
        if self.template is None:
            return self.tokenizer.encode(prompt)
        self.messages.append({"role": "user", "content": prompt.rstrip("\n")})
        return self.tokenizer.encode(self.template(self.messages, add_generation_prompt=True))

    def _stream(self, tokens: Sequence[int]) -> str:
        """Writes the tokens as they come. Returns the text."""
        began, decoder = time.monotonic(), self.tokenizer.stream_decoder()
        drawn: list[int] = []
        stop_reason = ""
        for piece in self.sampler.sample_stream(tokens, self.params):
            for token, logprob in _with_logprobs(piece.tokens, piece.logprobs):
                self._write_token(token, decoder.push(token), logprob)
                drawn.append(token)
            if piece.sequence is not None:
                stop_reason = piece.sequence.stop_reason
        self.output.text(decoder.end())
        rate = len(drawn) / max(1e-6, time.monotonic() - began)
        self.output.status(f"{len(drawn)} tokens, {rate:.0f} tokens/s, ended by {stop_reason}")
        return self.tokenizer.decode(drawn)

    def _write_token(self, token: int, text: str, logprob: float | None) -> None:
        from tinkex.display.token_colors import text_color

        if not self.logprobs:
            self.output.text(text, end="")
        elif self.output.mode == "human" and self.output.terminal.color:
            from rich.text import Text

            style = text_color(logprob) if logprob is not None else ""
            self.output.console.print(Text(text, style), end="")
        else:
            shown = "" if logprob is None else f"{logprob:.4f}"
            self.output.text(f"{token}\t{shown}\t{text!r}")

    def _write_all(self, tokens: Sequence[int]) -> str:
        """Writes finished samples: as rows, or for a person as texts with headings. Returns the
        text of the first.
        """
        sampled = self.sampler.sample(tokens, self.count, self.params).result()
        rows = [self._row(number, one) for number, one in enumerate(sampled.sequences, 1)]
        if self.output.mode != "human":
            self.output.table(rows, ["text"])
            return rows[0]["text"]
        for row, sequence in zip(rows, sampled.sequences, strict=True):
            self.output.text(f"[{row['number']}] ", end="")
            decoder = self.tokenizer.stream_decoder()
            for token, logprob in _with_logprobs(sequence.tokens, sequence.logprobs):
                self._write_token(token, decoder.push(token), logprob)
            self.output.text(decoder.end())
        return rows[0]["text"]

    def _row(self, number: int, sequence: SampledSequence) -> dict[str, Any]:
        return {
            "number": number,
            "text": self.tokenizer.decode(sequence.tokens),
            "tokens": sequence.tokens,
            "logprobs": sequence.logprobs,
            "stop_reason": sequence.stop_reason,
            "model": str(self.sampler.get_base_model()),
        }


def _with_logprobs(
    tokens: Sequence[int], logprobs: Sequence[float] | None
) -> Iterator[tuple[int, float | None]]:
    return zip(tokens, logprobs or [None] * len(tokens), strict=True)
