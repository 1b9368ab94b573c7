"""A sample as it is drawn: the text appears token by token, with the probability of each."""

import math
import os

from tinkex import ServiceClient


def main() -> None:
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        tokenizer = sampler.get_tokenizer()
        decoder, probabilities = tokenizer.stream_decoder(), []
        prompt = "Once upon a time"
        print(prompt, end="", flush=True)
        params = {"max_tokens": 20, "seed": 1, "temperature": 0.8}
        for piece in sampler.sample_stream(tokenizer.encode(prompt), params):
            print(decoder.push(piece.tokens), end="", flush=True)
            probabilities += [math.exp(logprob) for logprob in piece.logprobs or ()]
        print(decoder.end())
        print(f"{len(probabilities)} tokens; the unlikeliest had {min(probabilities):.1%}")


if __name__ == "__main__":
    main()
