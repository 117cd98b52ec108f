"""Items and their images."""

from django.core.files.storage import default_storage
from django.http import FileResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.errors import NotFound
from annotator.models import Item


@extend_schema(tags=["items"])
class Items(Listing):
    @extend_schema(parameters=[shapes.ItemFilter], responses=shapes.ItemShape(many=True), operation_id="items_list")
    def get(self, request: Request, project_id: int) -> Response:
        """The items, oldest first."""
        project = access.get_project(person(request), project_id)
        wanted = read(shapes.ItemFilter, request.query_params)
        return self.page_of(request, Item.objects.filter(project=project, **wanted), shapes.ItemShape)


@extend_schema(tags=["items"])
class OneItem(Endpoint):
    @extend_schema(responses=shapes.ItemShape)
    def get(self, request: Request, project_id: int, item_id: int) -> Response:
        """An item."""
        item = access.get_item(person(request), project_id, item_id)
        return Response(shapes.ItemShape(item, context={"request": request}).data)


@extend_schema(tags=["items"], responses={(200, "image/*"): OpenApiTypes.BINARY})
class ItemImage(Endpoint):
    def get(self, request: Request, project_id: int, item_id: int) -> HttpResponseBase:
        """The image as it was imported."""
        item = access.get_item(person(request), project_id, item_id)
        return _file(item.storage_key, item.mime, item)


@extend_schema(tags=["items"], responses={(200, "image/*"): OpenApiTypes.BINARY})
class ItemThumbnail(Endpoint):
    def get(self, request: Request, project_id: int, item_id: int) -> HttpResponseBase:
        """A small version of the image."""
        item = access.get_item(person(request), project_id, item_id)
        return _file(item.thumbnail_key, None, item)


def _file(key: str, mime: str | None, item: Item) -> HttpResponseBase:
    """A stored file, streamed; without ``mime`` its type is told by the name. Private: only members may see it."""
    try:
        opened = default_storage.open(key)
    except OSError:
        raise NotFound(f"the file of item {item.pk} is gone from storage") from None
    response = FileResponse(opened, content_type=mime)
    response["Cache-Control"] = "private, max-age=31536000, immutable"
    # Somebody sent this file in: a browser that opens it may do nothing with it but show it.
    response["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return response
