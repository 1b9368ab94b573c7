"""Colors of tokens by their probability, from red for 0 to green for 1."""

from __future__ import annotations

import colorsys
import html
import math
from collections.abc import Sequence

_GREEN = 1 / 3  # the hue of probability 1; red is 0
_PALE, _STRONG = 0.86, 0.38  # lightness behind black text, and of text itself


def text_color(logprob: float) -> str:
    """Returns the color of a token's text, as `#rrggbb`."""
    return _color(logprob, _STRONG)


def back_color(logprob: float) -> str:
    """Returns the color behind a token's text, as `#rrggbb`."""
    return _color(logprob, _PALE)


def _color(logprob: float, lightness: float) -> str:
    probability = math.exp(min(0.0, logprob)) if not math.isnan(logprob) else 0.0
    parts = colorsys.hls_to_rgb(_GREEN * probability, lightness, 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def tokens_as_html(texts: Sequence[str], logprobs: Sequence[float] | None) -> str:
    """Returns tokens as HTML: each on its color, with its logprob where the mouse rests on it."""
    if logprobs is None:
        return "".join(f"<span>{_escaped(text)}</span>" for text in texts)
    return "".join(
        f'<span style="background:{back_color(logprob)};color:#111" '
        f'title="{math.exp(min(0.0, logprob)):.1%}, logprob {logprob:.3f}">{_escaped(text)}</span>'
        for text, logprob in zip(texts, logprobs, strict=True)
    )


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "⏎<br>")
