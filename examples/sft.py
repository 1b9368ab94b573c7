"""Supervised fine-tuning: three prompts get the answers that they should have.

`tinkex train sft` does the same for a file, with saves, evaluation and a progress bar.
"""

import json
import os
import tempfile
from pathlib import Path

from tinkex import AdamParams, ServiceClient
from tinkex.data import load

ANSWERS = {"red": " stop", "green": " go", "blue": " ask"}


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        tokenizer = trainer.get_tokenizer()
        # only the completions count in the loss
        batch = [example.datum() for example in load(written(), tokenizer).examples]
        for step in range(15):
            losses = trainer.forward_backward(batch, "cross_entropy")
            update = trainer.optim_step(AdamParams(learning_rate=3e-3))
            if step % 7 == 0:
                print(f"step {step}: loss {losses.result().metrics['loss:sum']:.2f}")
            update.result()
        sampler = trainer.save_weights_and_get_sampling_client()
        for prompt in ANSWERS:
            params = {"max_tokens": 8, "temperature": 0.0}
            answer = sampler.sample(tokenizer.encode(prompt), 1, params).result().sequences[0]
            print(f"{prompt}:{tokenizer.decode(answer.tokens)}")


def written() -> Path:
    path = Path(tempfile.mkdtemp()) / "colors.jsonl"
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in ANSWERS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    main()
