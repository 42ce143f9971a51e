"""The application that ``hypercorn -k trio ds4trio.asgi:app`` serves, configured by ``DS4TRIO_*`` variables."""

from ds4trio import create_app

__all__ = ["app"]

app = create_app()
