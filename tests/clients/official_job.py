"""A whole job by the official SDK, run by scripts/test_clients.py in a venv that has it: `official_job.py URL`. Raises when a step fails."""

import sys
import warnings

import tinker
from tinker import types

warnings.simplefilter("ignore", FutureWarning)  # the deprecations of the SDK itself
TEXT = list(b"forty two is 42\n")
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints(TEXT[:-1]),
    loss_fn_inputs={"target_tokens": TEXT[1:], "weights": [1.0] * (len(TEXT) - 1)},
)


def ready(client):
    """Newer releases give a future of the client."""
    return client.result(60) if hasattr(client, "result") else client


def main() -> None:
    service = tinker.ServiceClient(base_url=sys.argv[1], api_key="tml-local")
    trainer = ready(service.create_lora_training_client("tinkex/tiny", rank=8))
    losses = []
    for _ in range(8):
        gradients = trainer.forward_backward([DATUM] * 4, "cross_entropy")
        update = trainer.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(gradients.result(60).metrics["loss:sum"])
        update.result(60)
    assert losses[-1] < losses[0] / 10, losses
    after = trainer.forward([DATUM], "cross_entropy").result(60).metrics["loss:sum"]
    path = trainer.save_state("one").result(60).path
    sampler = ready(trainer.save_weights_and_get_sampling_client())
    prompt = types.ModelInput.from_ints(TEXT[:12])
    sampled = sampler.sample(prompt, 1, types.SamplingParams(max_tokens=3, temperature=0.0)).result(60)
    assert list(sampled.sequences[0].tokens) == TEXT[12:15], sampled
    assert len(sampler.compute_logprobs(prompt).result(60)) == 12
    resumed = ready(service.create_training_client_from_state_with_optimizer(path))
    again = resumed.forward_backward([DATUM], "cross_entropy").result(60).metrics["loss:sum"]
    assert abs(again - after) < 1e-3, (again, after)
    print(f"tinker {tinker.__version__}: loss {losses[0]:.1f} -> {losses[-1]:.3f}, sampled, saved and resumed")


if __name__ == "__main__":
    main()
