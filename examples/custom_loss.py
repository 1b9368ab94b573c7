"""A loss of your own, in torch, with a regularizer: cross entropy in which hard tokens count more,
and a penalty that keeps the logprobs from growing too large.
"""

import os

import torch

from tinkex import AdamParams, Datum, ModelInput, ServiceClient
from tinkex.regularizers import Weighted, l2, regularized


def focal(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """Returns the mean of `-(1 - p)^2 log p` over all tokens (Lin et al. 2017)."""
    every = torch.cat(logprobs)
    loss = -((1 - every.exp()) ** 2 * every).mean()
    return loss, {"likeliest:max": every.max().exp().item()}


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        tokens = trainer.get_tokenizer().encode("red stop")
        data = [Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})]
        loss = regularized(focal, [Weighted(l2(), 0.01, "l2")])
        for step in range(6):
            gradients = trainer.forward_backward_custom(data, loss)
            update = trainer.optim_step(AdamParams(learning_rate=3e-3))
            metrics = gradients.result().metrics
            penalty = metrics["regularizers/l2/contribution"]
            print(f"step {step}: loss {metrics['loss:sum']:.3f}, of it the penalty {penalty:.3f}")
            update.result()


if __name__ == "__main__":
    main()
