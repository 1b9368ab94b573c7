"""One whole job, step by step, for any server: train, save, sample, resume, losses of one's own,
look around.

The steps are called in order, with one `Job` that carries what later ones need. They speak to a
blocking service client, or to an asyncio one behind tests/support/facades.py. scripts/try_server.py
prints how each one went.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from attrs import define, field, frozen

from tests.support.batches import text_datum
from tinkex import (
    AdamParams,
    BadRequestError,
    ChunkLimits,
    Datum,
    ForwardBackwardOutput,
    ModelInput,
    NumpyLoss,
    UnsupportedByServer,
)

BATCH = [
    text_datum(f"{words} is ", f"{digits}\n")
    for words, digits in (("one", 1), ("forty two", 42), ("ninety", 90), ("six", 6))
]
"""Texts of different lengths, so that results in a wrong order do not fit."""
TWO_CHUNKS = ChunkLimits(max_items=len(BATCH) // 2)
ADAM = AdamParams(learning_rate=1e-3)
TRAINING_STEPS = 5
RANK = 8
PROMPT = BATCH[1].model_input.to_ints()
"""The prompt and the answer less its last token."""
QUESTION = PROMPT[: -len("42")]
EQUAL = 1e-3
"""Nats by which logprobs, and losses of a batch, may differ and still count as equal: a server
pads, and splits, as it likes.
"""


class NotReached(AttributeError):
    """The step that makes what this one needs did not get there."""


@define
class Job:
    """The results of the steps so far."""

    service: Any
    model: str | None = None
    """The base model; by default the first one that the server names."""
    losses: list[float] = field(factory=list)
    """The loss before each training step."""

    trainer: Any = field(init=False)
    state_path: str = field(init=False)
    loss_saved: float = field(init=False)
    loss_next: float = field(init=False)
    """After one more step."""
    logprobs_trained: Sequence[float] = field(init=False)
    """Logprobs of `PROMPT`'s tokens but the first, by the training model."""
    sampler_path: str = field(init=False)
    sampler: Any = field(init=False)
    greedy: Any = field(init=False)
    """The first sampled sequence."""

    def __getattr__(self, name: str) -> Any:
        raise NotReached(name)


Step = Callable[[Job], "str | None"]
"""Raises when it fails; returns what was otherwise than asked, if anything was."""


@frozen
class Outcome:
    """The outcome of one step."""

    step: str
    kind: Literal["ok", "differs", "unsupported", "skipped", "FAILED"]
    detail: str
    seconds: float


def outcomes(job: Job, steps: Sequence[Step] | None = None) -> Iterator[Outcome]:
    """Does the steps, and says how each one went as soon as it has."""
    for step in STEPS if steps is None else steps:
        begun = time.monotonic()
        kind, detail = _outcome(step, job)
        yield Outcome(step.__name__, kind, detail, time.monotonic() - begun)


def _outcome(
    step: Step, job: Job
) -> tuple[Literal["ok", "differs", "unsupported", "skipped", "FAILED"], str]:
    try:
        difference = step(job)
    except NotReached as missing:
        return "skipped", f"there is no {missing}"
    except UnsupportedByServer as error:
        return "unsupported", str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this step's outcome
        return "FAILED", f"{type(error).__name__}: {error}"
    return ("differs", difference) if difference else ("ok", "")


def capabilities(job: Job) -> str | None:
    models = [
        model.model_name for model in job.service.get_server_capabilities().supported_models or ()
    ]
    job.model = job.model or models[0]
    return None if job.model in models else f"{job.model} is not among {models}"


def create_model(job: Job) -> str | None:
    try:
        job.trainer = job.service.create_lora_training_client(job.model, rank=RANK, seed=1)
    except BadRequestError as error:
        if "seed" not in error.message:
            raise
        job.trainer = job.service.create_lora_training_client(job.model, rank=RANK)
        return "a seed is refused"
    return None


def train(job: Job) -> str | None:
    job.losses = [_one_step(job.trainer) for _ in range(TRAINING_STEPS)]
    assert job.losses[-1] < job.losses[0], f"the loss does not fall: {job.losses}"
    return None


def forward(job: Job) -> str | None:
    result = job.trainer.forward(BATCH, "cross_entropy").result()
    job.loss_saved = loss_of(BATCH, result)
    job.logprobs_trained = result.loss_fn_outputs[1]["logprobs"].tolist()[:-1]
    assert job.loss_saved < job.losses[-1], f"{job.loss_saved} after {job.losses}"
    said = result.metrics.get("loss:sum")
    if said is None:
        return f"no loss:sum among the metrics, which are {sorted(result.metrics)}"
    return _apart("loss:sum", said, job.loss_saved)


def save_state(job: Job) -> None:
    job.state_path = job.trainer.save_state("job").result().path


def save_weights_for_sampler(job: Job) -> None:
    job.sampler_path = job.trainer.save_weights_for_sampler("job").result().path


def save_weights_and_get_sampling_client(job: Job) -> None:
    job.sampler = job.trainer.save_weights_and_get_sampling_client()


def sample_greedily(job: Job) -> str | None:
    job.greedy, again = (_greedy(job.sampler) for _ in range(2))
    return (
        None
        if list(job.greedy.tokens) == list(again.tokens)
        else "greedy sampling gives other tokens each time"
    )


def sample_with_seed(job: Job) -> str | None:
    params = {"max_tokens": 8, "temperature": 1.0, "seed": 7}
    first, again = (job.sampler.sample(QUESTION, 2, params).result().sequences for _ in range(2))
    if len(first) != 2:
        return f"{len(first)} sequences where 2 were asked for"
    if [list(sequence.tokens) for sequence in first] != [
        list(sequence.tokens) for sequence in again
    ]:
        return "the same seed gives other tokens each time"
    return (
        "both sequences of one request are the same"
        if list(first[0].tokens) == list(first[1].tokens)
        else None
    )


def sample_with_prompt_logprobs(job: Job) -> str | None:
    sampled = job.sampler.sample(PROMPT, 1, {"max_tokens": 1}, prompt_logprobs=True).result()
    return _prompt_differs(job, sampled.prompt_logprobs)


def compute_logprobs(job: Job) -> str | None:
    if difference := _prompt_differs(job, job.sampler.compute_logprobs(PROMPT).result()):
        return difference
    tokens, sampled = list(job.greedy.tokens), job.greedy.logprobs
    if sampled is None:
        return "no logprobs of the sampled tokens"
    computed = job.sampler.compute_logprobs([*QUESTION, *tokens]).result()[-len(tokens) :]
    return _apart("logprobs of the sampled tokens", sampled, computed)


def sample_saved_weights(job: Job) -> str | None:
    tokens = list(_greedy(job.service.create_sampling_client(model_path=job.sampler_path)).tokens)
    return (
        None
        if tokens == list(job.greedy.tokens)
        else f"it samples {tokens}, not {list(job.greedy.tokens)}"
    )


def sample_base_model(job: Job) -> str | None:
    logprobs = (
        job.service.create_sampling_client(base_model=job.model).compute_logprobs(PROMPT).result()
    )
    if len(logprobs) != len(PROMPT):
        return f"{len(logprobs)} logprobs of {len(PROMPT)} tokens"
    same = _apart("", logprobs[1:], job.logprobs_trained) is None
    return "the base model's logprobs are those of the trained one" if same else None


def resume_with_optimizer(job: Job) -> str | None:
    resumed = job.service.create_training_client_from_state_with_optimizer(job.state_path)
    theirs, ours = ([_one_step(trainer) for _ in range(2)] for trainer in (job.trainer, resumed))
    job.loss_next = theirs[1]
    return _apart("the losses of the next two steps", ours, theirs)


def resume(job: Job) -> str | None:
    resumed = job.service.create_training_client_from_state(job.state_path)
    if difference := _apart("the loss after it", _loss_now(resumed), job.loss_saved):
        return difference
    _one_step(resumed)
    kept = _apart("", _loss_now(resumed), job.loss_next) is None
    return "the optimizer's state came along" if kept else None


def custom_loss_in_numpy(job: Job) -> str | None:
    """Trains on a gradient of both signs, as policy gradients are."""
    ours, theirs = (
        job.service.create_training_client_from_state_with_optimizer(job.state_path)
        for _ in range(2)
    )
    batch = _even_batch()
    before = theirs.forward(batch, "cross_entropy").result().loss_fn_outputs
    result = ours.forward_backward_custom(batch, NumpyLoss(_policy_gradient)).result()
    if difference := _apart(
        "the loss", result.metrics["loss:sum"], _policy_gradient(batch, _arrays(before))[0]
    ):
        return difference
    theirs.forward_backward(_with_advantages(batch, before), "importance_sampling").result()
    after = [_loss_after_update(trainer, batch) for trainer in (ours, theirs)]
    return _apart(
        "the loss after a step of importance_sampling with the same gradient", after[0], after[1]
    )


def custom_loss_in_torch(job: Job) -> str | None:
    if find_spec("torch") is None:
        raise NotReached("torch here")

    def cross_entropy(
        data: Sequence[Datum], logprobs: Sequence[Any]
    ) -> tuple[Any, dict[str, float]]:
        terms = [
            (-datum.loss_fn_inputs["weights"].to_torch() * x).sum()
            for datum, x in zip(data, logprobs, strict=True)
        ]
        return sum(terms[1:], terms[0]), {"custom/datums:sum": float(len(data))}

    before = _loss_now(job.trainer)
    metrics = job.trainer.forward_backward_custom(BATCH, cross_entropy).result().metrics
    job.trainer.optim_step(ADAM).result()
    assert metrics["custom/datums:sum"] == len(BATCH), metrics
    assert _loss_now(job.trainer) < before, "the loss does not fall"
    return _apart("the loss", metrics["loss:sum"], before)


def get_info(job: Job) -> str | None:
    info = job.trainer.get_info()
    name = info.model_name or info.model_data.model_name
    return None if name == job.model else f"the model's name is {name}"


def get_tokenizer(job: Job) -> str | None:
    text = "forty two is 42"
    tokenizer = job.trainer.get_tokenizer()
    return None if tokenizer.decode(tokenizer.encode(text)) == text else "text does not come back"


def list_training_runs(job: Job) -> str | None:
    runs = [
        run.training_run_id
        for run in job.service.create_rest_client().list_training_runs(limit=100).training_runs
    ]
    return (
        None
        if job.trainer.model_id in runs
        else f"{job.trainer.model_id} is not among {len(runs)} runs"
    )


def list_checkpoints(job: Job) -> str | None:
    checkpoints = (
        job.service.create_rest_client().list_checkpoints(job.trainer.model_id).checkpoints
    )
    missing = {job.state_path, job.sampler_path} - {
        checkpoint.tinker_path for checkpoint in checkpoints
    }
    return f"{sorted(missing)} are missing" if missing else None


def probe_server(job: Job) -> str | None:
    known = job.service.server.seq_id_repeats
    found = job.service.probe_server(job.model).seq_id_repeats
    return None if known in (found, "unknown") else f"a repeated request: {found}, not {known}"


def unload_model(job: Job) -> None:
    job.trainer.unload_model()


def close(job: Job) -> None:
    job.service.close()


STEPS: Sequence[Step] = (
    *(capabilities, create_model, train, forward, save_state),
    *(save_weights_for_sampler, save_weights_and_get_sampling_client),
    *(
        sample_greedily,
        sample_with_seed,
        sample_with_prompt_logprobs,
        compute_logprobs,
        sample_saved_weights,
        sample_base_model,
    ),
    *(resume_with_optimizer, resume, custom_loss_in_numpy, custom_loss_in_torch),
    *(
        get_info,
        get_tokenizer,
        list_training_runs,
        list_checkpoints,
        probe_server,
        unload_model,
        close,
    ),
)


def loss_of(batch: Sequence[Datum], result: ForwardBackwardOutput) -> float:
    """Computes the cross entropy of a batch in nats from its logprobs: not every server returns
    it, and some return its mean.
    """
    logprobs = [output["logprobs"].to_numpy() for output in result.loss_fn_outputs]
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in batch]
    return -sum(float(w @ x) for w, x in zip(weights, logprobs, strict=True))


def _one_step(trainer: Any) -> float:
    """Makes one training step and returns the loss before it."""
    gradients = trainer.forward_backward(BATCH, "cross_entropy")
    update = trainer.optim_step(ADAM)
    loss = loss_of(BATCH, gradients.result())
    update.result()
    return loss


def _loss_now(trainer: Any, batch: Sequence[Datum] = BATCH) -> float:
    return loss_of(batch, trainer.forward(batch, "cross_entropy").result())


def _loss_after_update(trainer: Any, batch: Sequence[Datum]) -> float:
    trainer.optim_step(ADAM).result()
    return _loss_now(trainer, batch)


def _greedy(sampler: Any) -> Any:
    return sampler.sample(QUESTION, 1, {"max_tokens": 4, "temperature": 0.0}).result().sequences[0]


def _prompt_differs(job: Job, logprobs: Sequence[float | None] | None) -> str | None:
    if not logprobs:
        return "none are given"
    if len(logprobs) != len(PROMPT):
        return f"{len(logprobs)} logprobs of {len(PROMPT)} tokens"
    if logprobs[0] is not None:
        return f"the first token has a logprob, {logprobs[0]}"
    return _apart(
        "logprobs of the prompt by the sampler, and by the trainer",
        logprobs[1:],
        job.logprobs_trained,
    )


def _apart(what: str, one: Any, other: Any) -> str | None:
    """Describes the distance of two numbers or rows; None if they count as equal."""
    distance = float(np.max(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64))))
    return None if distance <= EQUAL else f"{what}: {distance:.3g} apart"


def _even_batch() -> Sequence[Datum]:
    """Makes datums of one length: servers weigh long ones differently."""
    return [text_datum("two is ", "2\n"), text_datum("six is ", "6\n")]


def _advantages(datum: Datum) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Makes advantages of both signs, with more of one sign than of the other; the sign differs
    by datum.
    """
    count = len(datum.loss_fn_inputs["weights"].to_numpy())
    sign = 1 if datum.model_input.to_ints()[0] == ord("t") else -1
    return sign * np.where(np.arange(count) % 3 == 0, -1.0, 1.0).astype(np.float32)


def _policy_gradient(
    data: Sequence[Datum], logprobs: Sequence[Any]
) -> tuple[float, Sequence[Any], dict[str, float]]:
    advantages = [_advantages(datum) for datum in data]
    return (
        -sum(float(a @ x) for a, x in zip(advantages, logprobs, strict=True)),
        [-a for a in advantages],
        {},
    )


def _arrays(outputs: Sequence[Any]) -> Sequence[Any]:
    return [output["logprobs"].to_numpy() for output in outputs]


def _with_advantages(batch: Sequence[Datum], outputs: Sequence[Any]) -> Sequence[Datum]:
    """Makes datums for the server's importance sampling, at a ratio of 1."""
    return [
        Datum(
            ModelInput.from_ints(datum.model_input.to_ints()),
            {
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "logprobs": output["logprobs"],
                "advantages": _advantages(datum),
            },
        )
        for datum, output in zip(batch, outputs, strict=True)
    ]
