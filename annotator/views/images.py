"""The pictures of items, for members. Their bytes never change, so a browser asks for each only once."""

from django.core.files.storage import default_storage
from django.http import FileResponse, HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from annotator.access import VIEW, get_item
from annotator.errors import NotFound
from annotator.models import Item
from annotator.views import PageRequest, page

# A picture opened by itself runs nothing and loads nothing, whatever its bytes turn out to be.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
_MIMES = {".webp": "image/webp", ".jpg": "image/jpeg", ".png": "image/png"}


@require_safe
@page
def image(request: PageRequest, project_id: int, item_id: int) -> HttpResponseBase:
    """The original, or what was made of it where a browser cannot show that; ``?original`` insists."""
    item = get_item(request.user, project_id, item_id, VIEW)
    rendition = item.metadata.get("rendition_key")
    if rendition and "original" not in request.GET:
        return _served(request, item, rendition, f"{item.sha256}-rendition")
    return _served(request, item, item.storage_key, item.sha256)


@require_safe
@page
def thumbnail(request: PageRequest, project_id: int, item_id: int) -> HttpResponseBase:
    item = get_item(request.user, project_id, item_id, VIEW)
    own = item.thumbnail_key != item.storage_key
    return _served(request, item, item.thumbnail_key, f"{item.sha256}-thumbnail" if own else item.sha256)


def _served(request: PageRequest, item: Item, key: str, version: str) -> HttpResponseBase:
    etag = quote_etag(version)
    known: HttpResponse | None = get_conditional_response(request, etag=etag)
    response: HttpResponseBase = known if known is not None else _file(item, key)
    response["ETag"] = etag
    response["Cache-Control"] = "private, max-age=31536000, immutable"
    response["Content-Security-Policy"] = POLICY
    response["X-Content-Type-Options"] = "nosniff"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


def _file(item: Item, key: str) -> FileResponse:
    try:
        file = default_storage.open(key)
    except OSError:
        raise NotFound(_("the picture of item %(item)s is missing from storage") % {"item": item.pk}) from None
    mime = item.mime if key == item.storage_key else _MIMES[key[key.rindex(".") :]]
    response = FileResponse(file, content_type=mime)
    response["Content-Disposition"] = "inline"
    return response
