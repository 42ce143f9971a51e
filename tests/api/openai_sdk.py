"""The ``openai`` SDK as a judge: its client on bytes of ours, and the members that its types do not know."""

import httpx2
import openai
import pydantic

__all__ = ["sdk", "unknown_members"]


def sdk(content: bytes, content_type: str, status: int = 200) -> openai.OpenAI:
    """The real client, whose every request is answered with these bytes."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=content, headers={"content-type": content_type})

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="none", base_url="http://localhost/v1", http_client=transport, max_retries=0)


def unknown_members(model: pydantic.BaseModel) -> set[str]:
    """Names of members that the SDK's types do not declare, at any depth; they accept any."""
    found = set(model.model_extra or {})
    for value in dict(model).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, pydantic.BaseModel):
                found |= unknown_members(item)
    return found
