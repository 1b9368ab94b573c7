"""Direct preference optimization by a custom loss in torch: one answer becomes likelier than
another, compared with the model as it was.
"""

import os

import torch
from torch.nn.functional import logsigmoid

from tinkex import AdamParams, Datum, ModelInput, ServiceClient, Tokenizer

PAIRS = [("red", " yes", " no"), ("green", " yes", " no")]
BETA = 0.1


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        tokenizer = trainer.get_tokenizer()
        data = [
            datum(tokenizer, prompt, answer) for prompt, *answers in PAIRS for answer in answers
        ]
        # the reference: the model before its first step
        outputs = trainer.forward(data, "cross_entropy").result().loss_fn_outputs
        reference = answer_logprobs(data, [values["logprobs"].to_torch() for values in outputs])

        def loss(
            data: list[Datum], logprobs: list[torch.Tensor]
        ) -> tuple[torch.Tensor, dict[str, float]]:
            gain = answer_logprobs(data, logprobs) - reference
            margins = BETA * (gain[:, 0] - gain[:, 1])
            return -logsigmoid(margins).mean(), {"margin:mean": margins.mean().item()}

        for step in range(5):
            gradients = trainer.forward_backward_custom(data, loss)
            update = trainer.optim_step(AdamParams(learning_rate=3e-3))
            print(f"step {step}: margin {gradients.result().metrics['margin:mean']:.3f}")
            update.result()


def datum(tokenizer: Tokenizer, prompt: str, answer: str) -> Datum:
    before, after = tokenizer.encode(prompt), tokenizer.encode(answer)
    tokens, weights = before + after, [0.0] * (len(before) - 1) + [1.0] * len(after)
    return Datum(
        ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": weights}
    )


def answer_logprobs(data: list[Datum], logprobs: list[torch.Tensor]) -> torch.Tensor:
    """Returns the logprob of each answer: one row per pair, with the preferred answer first."""
    weights = [datum.loss_fn_inputs["weights"].to_torch() for datum in data]
    sums = [weight @ row for weight, row in zip(weights, logprobs, strict=True)]
    return torch.stack(sums).reshape(-1, 2)


if __name__ == "__main__":
    main()
