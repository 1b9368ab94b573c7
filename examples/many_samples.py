"""Many samples, in an asyncio application: any number of prompts, of which only some are in flight
at once. A prompt that fails does not end the others.
"""

import asyncio
import os
from collections.abc import Iterator

from tinkex import AsyncServiceClient


def prompts() -> Iterator[str]:
    """Yields the prompts as they are needed; there may be millions."""
    for number in range(30):
        yield f"{number} plus {number} is"


async def main() -> None:
    url = os.environ.get("TINKER_BASE_URL", "local")
    async with AsyncServiceClient(base_url=url) as service:
        sampler = await service.create_sampling_client(base_model="tinkex/tiny")
        tokens = failed = 0
        params = {"max_tokens": 4, "temperature": 0.7}
        async for item in sampler.sample_many(prompts(), 1, params, max_in_flight=16):
            if item.error is not None:
                failed += 1
                print(f"prompt {item.index} failed: {item.error}")
            else:
                tokens += len(item.result().sequences[0].tokens)
        print(f"{tokens} tokens sampled, {failed} prompts failed")


if __name__ == "__main__":
    asyncio.run(main())
