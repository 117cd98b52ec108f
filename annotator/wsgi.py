"""The web process: the WSGI application, and waitress serving it (`python -m annotator.wsgi`).

Waitress: plain Python threads on Linux and macOS, takes big uploads to disk before a thread is busy with
them, and sends streamed answers as they are made. Before any view runs, then; so who may send something big
is asked where the headers are read.
"""

import copy
import logging
import os
import re
import signal
import sys
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")

from django.core.wsgi import get_wsgi_application
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser

THREADS = 12
LARGEST_REQUEST_BYTES = 64 * 1024**3  # a zip of a whole pool; importing has its own limits
LARGEST_FORM_BYTES = 10 * 1024**2  # of every other request
IMPORT_ADDRESS = re.compile(r"/projects/[0-9]+/import/|/api/v1/projects/[0-9]+/imports/")

application = get_wsgi_application()
logger = logging.getLogger("annotator.wsgi")


class BoundedParser(HTTPRequestParser):
    """Refuses a big body with 413 before it is read, unless somebody with an account sends it to an import."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.content_length < LARGEST_FORM_BYTES and not self.chunked:
            return
        if IMPORT_ADDRESS.fullmatch(self.path) and _has_account(self.headers):
            return
        self.adj: Any = copy.copy(self.adj)
        self.adj.max_request_body_size = LARGEST_FORM_BYTES
        if self.content_length >= LARGEST_FORM_BYTES:
            self.expect_continue = False  # or waitress would ask for the body, and refuse it afterwards


def _has_account(headers: dict[str, str]) -> bool:
    """Whether a living session or token comes along. One query, on the thread that reads every socket.

    What the person may do, the view asks.
    """
    from django.conf import settings
    from django.contrib.auth import SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import Error, close_old_connections
    from django.http import parse_cookie

    from annotator.actions.tokens import hash_token
    from annotator.models import ApiToken

    close_old_connections()
    try:
        scheme, _, token = headers.get("AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer":
            return ApiToken.objects.filter(sha256=hash_token(token.strip()), user__is_active=True).exists()
        session = parse_cookie(headers.get("COOKIE", "")).get(settings.SESSION_COOKIE_NAME)
        return SESSION_KEY in SessionStore(session).load()
    except (Error, ValueError):
        logger.warning("cannot tell who sends a large body, so it is refused", exc_info=True)
        return False


def serve() -> None:
    """Serve on settings.HOST and settings.PORT until SIGTERM; answers under way get a few seconds to end."""
    import waitress
    from django.conf import settings

    from annotator.supervisor import die_with_parent

    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    HTTPChannel.parser_class = BoundedParser
    waitress.serve(
        application,
        host=settings.HOST,
        port=settings.PORT,
        threads=THREADS,
        max_request_body_size=LARGEST_REQUEST_BYTES,
        ident=None,
    )


if __name__ == "__main__":
    serve()
