"""A run that survives the loss of its model: it goes back to its last save, and does the lost steps
again. Here the model is unloaded on purpose; `survives_kill.py` kills the whole server.
"""

import os

from tinkex import AdamParams, Datum, ModelInput, RecoveryPolicy, ServiceClient, TinkexError

STEPS, LOST_AT = 6, 4


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        tokens = trainer.get_tokenizer().encode("two = 2")
        data = [Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})]
        run = service.create_recoverable_run(trainer, RecoveryPolicy(save_every_steps=2))
        accident = iter([True])
        for step in run.steps(STEPS):
            try:
                if step == LOST_AT and next(accident, False):
                    run.trainer.unload_model()
                output = run.trainer.train_step(
                    data, "cross_entropy", AdamParams(learning_rate=3e-3)
                ).result()
                print(f"step {step}: loss {output.forward_backward.metrics['loss:sum']:.3f}")
            except TinkexError as error:
                print(f"step {step} is lost: {error.message}")
                print(f"the run goes on with step {run.recover(error)}")
        print(f"{STEPS} steps, {run.recoveries} recovery")


if __name__ == "__main__":
    main()
