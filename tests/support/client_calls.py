"""One call of each kind of a training client or a sampling client, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinkex import AdamParams, Datum, ModelInput

DATUM = Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "forward": lambda trainer, _: trainer.forward([DATUM], "cross_entropy"),
    "forward_backward": lambda trainer, _: trainer.forward_backward([DATUM], "cross_entropy"),
    "optim_step": lambda trainer, _: trainer.optim_step(AdamParams()),
    "train_step": lambda trainer, _: trainer.train_step([DATUM], "cross_entropy", AdamParams()),
    "save_state": lambda trainer, _: trainer.save_state("a"),
    "load_state": lambda trainer, _: trainer.load_state("tinker://a/weights/b"),
    "save_weights_for_sampler": lambda trainer, _: trainer.save_weights_for_sampler("a"),
    "get_info": lambda trainer, _: trainer.get_info(),
    "sample": lambda _, sampler: sampler.sample([1], 1, {"max_tokens": 1}),
    "compute_logprobs": lambda _, sampler: sampler.compute_logprobs([1, 2]),
    "get_tokenizer": lambda trainer, _: trainer.get_tokenizer(),
}
