"""``GET /openapi.json``: an OpenAPI 3.1 document of the whole server.

It is made of the types that read the bodies (`ds4trio.api`), so it cannot say of a request what is not so, and of
types that tell what answers look like (`answers`), which tests hold every answer against. `operations` is the table of
endpoints with their examples; `document` puts it together. It is here and not in `ds4trio.api`, because half of the
endpoints belong to the server itself.
"""

from ds4trio.server.openapi.document import openapi_document
from ds4trio.server.openapi.routes import add_openapi_route

__all__ = ["add_openapi_route", "openapi_document"]
