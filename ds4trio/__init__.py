"""ds4trio: a local LLM server for coding agents, never silent and never computing for a client that left.

``create_app`` builds the ASGI application; ``ds4trio.asgi:app`` is one made from the environment.
The rooms, from the outside in: ``server`` (HTTP and the lifeline), ``api`` (wire formats), ``chat`` (messages and
text), ``engine`` (what computes), ``cache`` (what is kept). Imports point in that direction only. Beside them
``hub`` gets models from the Hugging Face Hub, ``agents`` says how clients are pointed at a server, and ``doctor`` looks
whether a machine is fit for one.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ds4trio.config import Settings
    from ds4trio.server.app import App

__all__ = ["create_app", "__version__"]
__version__ = "0.1.0"


def create_app(settings: "Settings | None" = None) -> "App":
    """Build the application; without ``settings`` they are read from ``DS4TRIO_*`` and the TOML file it names.

    Returns an ASGI application for ``hypercorn -k trio 'ds4trio:create_app()'``. The model is loaded when the
    server starts its lifespan, not here. Raises ``ConfigError`` for settings that cannot be used.
    """
    from ds4trio.server.app import build_app  # noqa: PLC0415 - `import ds4trio` stays cheap for tools and plugins

    return build_app(settings)
