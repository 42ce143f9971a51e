"""llama-server's conveniences around the tokenizer and the template."""

from quart import Response
from quart_trio import QuartTrio

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.tokens import (
    detokenize_document,
    parse_detokenize,
    parse_tokenize,
    template_document,
    tokenize_document,
)
from ds4trio.engine import Tokenizer
from ds4trio.server.bodies import json_body, json_response
from ds4trio.server.host import EngineHost
from ds4trio.server.prompts import rendered

__all__ = ["add_tokenizer_routes"]


def add_tokenizer_routes(app: QuartTrio, host: EngineHost) -> None:
    """Register ``/tokenize``, ``/detokenize`` and ``/apply-template``."""

    @app.post("/tokenize")
    async def tokenize() -> Response:
        body = await json_body()

        def build(tokenizer: Tokenizer) -> bytes:
            wanted = parse_tokenize(body)
            tokens = tokenizer.tokenize(
                wanted.content, add_special=wanted.add_special, parse_special=wanted.parse_special
            )
            return tokenize_document(tokens, tokenizer.pieces(tokens) if wanted.with_pieces else None)

        return json_response(await host.engine().prepare(build))

    @app.post("/detokenize")
    async def detokenize() -> Response:
        body = await json_body()

        def build(tokenizer: Tokenizer) -> bytes:
            tokens = parse_detokenize(body).tokens
            try:
                return detokenize_document(tokenizer.pieces(tokens))
            except ValueError as error:
                raise InvalidRequestError(str(error), code="invalid_value", param="tokens") from None

        return json_response(await host.engine().prepare(build))

    @app.post("/apply-template")
    async def apply_template() -> Response:
        body = await json_body()

        def build(_: Tokenizer) -> bytes:
            return template_document(rendered(ChatCompletions().parse(body), host.chat()))

        return json_response(await host.engine().prepare(build))
