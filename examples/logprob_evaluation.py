"""Evaluation by logprobs: which of several answers to a question does the model find likeliest?
Nothing is sampled, so that the result is the same each time.
"""

import os

from tinkex import ServiceClient

QUESTIONS = [
    ("The sun rises in the", [" east", " xqzj", " 7341"]),
    ("Once upon a", [" time", " zzzz", " qwrt"]),
]


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        tokenizer = sampler.get_tokenizer()
        # all are sent before the first result is awaited
        scoring = [
            [sampler.compute_logprobs(tokenizer.encode(prompt + answer)) for answer in answers]
            for prompt, answers in QUESTIONS
        ]
        right = 0
        for (prompt, answers), futures in zip(QUESTIONS, scoring, strict=True):
            read = len(tokenizer.encode(prompt))
            sums = [sum(future.result()[read:]) for future in futures]
            likeliest = answers[sums.index(max(sums))]
            right += likeliest == answers[0]
            print(f"{prompt}{likeliest}  ({max(sums):.1f} nats)")
        print(f"{right} of {len(QUESTIONS)} right")


if __name__ == "__main__":
    main()
