"""Text travels compressed: pages, scripts and styles need a third of the bytes. Pictures and files that people
download go as they are; they are compressed already, or large and sent as they are made."""

import gzip
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.text import compress_string

KINDS = frozenset({"text/html", "text/css", "text/javascript", "application/json", "image/svg+xml", "text/plain"})
WORTH_BYTES = 400
# So that what a page quotes from its address cannot be guessed at by the length of what comes back (BREACH).
RANDOM_BYTES = 100


def compressed(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware, around the one that serves the static files: each of those is compressed once and kept."""
    kept: dict[tuple[str, str], bytes] = {}

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if kind not in KINDS or response.has_header("Content-Encoding"):
            return response
        if not response.streaming and isinstance(response, HttpResponse):
            if len(response.content) >= WORTH_BYTES:
                patch_vary_headers(response, ["Accept-Encoding"])
                if _accepts(request):
                    response.content = compress_string(response.content, max_random_bytes=RANDOM_BYTES)
                    _encoded(response)
            return response
        # Served from a file, which says when it was changed; anything else that streams is a download.
        if response.status_code != 200 or not request.path.startswith("/static/"):
            return response
        patch_vary_headers(response, ["Accept-Encoding"])
        if not _accepts(request) or request.method != "GET" or request.headers.get("Range"):
            return response
        key = (request.path, response.headers.get("Last-Modified", ""))
        if key not in kept:
            kept[key] = gzip.compress(response.getvalue(), 9, mtime=0)
        response.file_to_stream.close()  # type: ignore[attr-defined]
        whole = HttpResponse(kept[key], headers=dict(response.headers))
        _encoded(whole)
        return whole

    return answer


def _accepts(request: HttpRequest) -> bool:
    return any(
        each.partition(";")[0].strip() == "gzip" for each in request.headers.get("Accept-Encoding", "").split(",")
    )


def _encoded(response: HttpResponse) -> None:
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.content))
