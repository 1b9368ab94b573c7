"""Checkpoints: saved, listed, given a time to live, downloaded, and trained on from."""

import os
import tempfile

from tinkex import AdamParams, Datum, ModelInput, ServiceClient

ADAM = AdamParams(learning_rate=3e-3)


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        tokens = trainer.get_tokenizer().encode("two = 2")
        data = [Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})]
        for _ in range(3):
            trainer.train_step(data, "cross_entropy", ADAM).result()

        # to train on from: weights and the optimizer's state
        state = trainer.save_state("step-3").result().path
        # to sample from and to download: weights alone, here for a day
        weights = trainer.save_weights_for_sampler("step-3", ttl_seconds=24 * 3600).result().path

        rest = service.create_rest_client()
        for checkpoint in rest.list_checkpoints(trainer.model_id).checkpoints:
            print(f"{checkpoint.checkpoint_type}: {checkpoint.tinker_path}")
        with tempfile.TemporaryDirectory() as folder:
            files = rest.download_checkpoint(weights, output_dir=folder)
            print("downloaded:", ", ".join(sorted(path.name for path in files.iterdir())))

        resumed = service.create_training_client_from_state_with_optimizer(state)
        losses = [
            each.train_step(data, "cross_entropy", ADAM).result().forward_backward
            for each in (trainer, resumed)
        ]
        same = losses[0].metrics["loss:sum"] == losses[1].metrics["loss:sum"]
        print("the resumed model trains", "alike" if same else "otherwise")
        rest.delete_checkpoint_from_tinker_path(state)


if __name__ == "__main__":
    main()
