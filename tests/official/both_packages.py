"""tinkex and the official SDK in one process, run by scripts/test_clients.py: `both_packages.py URL
FIRST SECOND`, which are imported in this order.
"""

import importlib
import sys
import warnings

from ending import end

warnings.simplefilter("ignore")  # the deprecations of the official SDK
KEY = "tml-local"
TEXT = list(b"forty two is 42\n")


def job(sdk, url):
    """Makes a loss, a step and a sample with either package."""
    datum = sdk.Datum(
        model_input=sdk.ModelInput.from_ints(TEXT[:-1]),
        loss_fn_inputs={"target_tokens": TEXT[1:], "weights": [1.0] * (len(TEXT) - 1)},
    )
    with sdk.ServiceClient(base_url=url, api_key=KEY) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4, seed=1)
        loss = trainer.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"]
        trainer.optim_step(sdk.AdamParams(learning_rate=1e-3)).result()
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        greedy = sdk.SamplingParams(max_tokens=4, temperature=0.0)
        [sequence] = (
            sampler.sample(sdk.ModelInput.from_ints(TEXT[:8]), 1, greedy).result().sequences
        )
        return loss, list(sequence.tokens)


def main(url, *names):
    sdks = [importlib.import_module(name) for name in names]
    (first_loss, first_tokens), (loss, tokens) = (job(sdk, url) for sdk in sdks)
    assert abs(first_loss - loss) < 1e-4, (first_loss, loss)
    assert first_tokens == tokens, (first_tokens, tokens)
    print(
        f"{' and '.join(names)} in one process: loss {loss:.4f} and {len(tokens)} tokens from both"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
    end(0)
