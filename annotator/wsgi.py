"""The web process: the WSGI application, and waitress serving it (`python -m annotator.wsgi`).

Waitress: plain Python threads on Linux and macOS, takes big uploads to disk before a thread is busy with
them, and sends streamed answers as they are made.
"""

import os
import signal
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")

from django.core.wsgi import get_wsgi_application

THREADS = 12
LARGEST_REQUEST_BYTES = 64 * 1024**3  # a zip of a whole pool; importing has its own limits

application = get_wsgi_application()


def serve() -> None:
    """Serve on settings.HOST and settings.PORT until SIGTERM; answers under way get a few seconds to end."""
    import waitress
    from django.conf import settings

    from annotator.supervisor import die_with_parent

    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
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
