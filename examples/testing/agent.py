"""A small agent's way of asking a model: what stands here is what the tests beside it try.

It takes any bytes as a sign of life, and asks again, twice at most, when there were none for too long.
"""

import json

import httpx2

__all__ = ["ask"]

TRIES = 3


async def ask(base_url: str, prompt: str, *, patience: float) -> str:
    """The answer to a prompt; ``patience`` are the seconds that may pass without bytes.

    Raises ``httpx2.ReadTimeout`` when all tries were in vain.
    """
    body = {"stream": True, "messages": [{"role": "user", "content": prompt}]}
    async with httpx2.AsyncClient(base_url=base_url, timeout=patience) as client:
        for _ in range(TRIES - 1):
            try:
                return await _answer(client, body)
            except httpx2.ReadTimeout:
                continue
        return await _answer(client, body)


async def _answer(client: httpx2.AsyncClient, body: dict[str, object]) -> str:
    text = ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                text += "".join(choice["delta"].get("content", "") for choice in choices)
    return text
