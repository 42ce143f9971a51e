"""The application that ``hypercorn -k trio ds4trio.asgi:app`` serves, configured by ``DS4TRIO_*`` variables."""

import sys

from ds4trio import create_app
from ds4trio.config import ConfigError
from ds4trio.server.monitor.log_output import configure_logging

__all__ = ["app"]

try:
    app = create_app()
except ConfigError as error:
    # Hypercorn would bury the one line that says what to do under a traceback.
    sys.exit(f"ds4trio: {error}")

# Somebody who brings a logging configuration keeps it; otherwise the request log would go nowhere.
configure_logging(app.settings.log_level, app.settings.log_format)
