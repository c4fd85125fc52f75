"""Many conversations at once, each of which must remember itself alone."""

from __future__ import annotations

import asyncio
import unittest

import openai

import sdk

CHAINS = 50
TURNS = 4


async def converse(client: openai.AsyncOpenAI, chain: int) -> list[str]:
    """The answers of a chain, every other turn streamed."""
    answers = []
    previous = None
    for turn in range(TURNS):
        request = {"model": "sdk-chains", "input": f"chain{chain}turn{turn}", "previous_response_id": previous}
        if turn % 2:
            async with client.responses.stream(**request) as stream:
                response = await stream.get_final_response()
        else:
            response = await client.responses.create(**request)
        previous = response.id
        answers.append(response.output_text)
    return answers


class Chains(unittest.IsolatedAsyncioTestCase):
    async def test_chains_do_not_mix(self) -> None:
        async with sdk.async_client() as client:
            conversations = await asyncio.gather(*(converse(client, chain) for chain in range(CHAINS)))
        for chain, answers in enumerate(conversations):
            said = [f"chain{chain}turn{turn}" for turn in range(TURNS)]
            expected = [f"{2 * turn + 1}: {' '.join(said[: turn + 1])}" for turn in range(TURNS)]
            self.assertEqual(answers, expected)


if __name__ == "__main__":
    sdk.main()
