"""What every endpoint shares."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import CursorPagination
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer, Serializer
from rest_framework.views import APIView

Row = TypeVar("Row", bound=Model)
ID = re.compile("[0-9]{1,18}")


class AlwaysJson(DefaultContentNegotiation):
    """JSON whatever Accept says: some answers are files, and a refusal must not become a 406."""

    def select_renderer(  # type: ignore[override]
        self, request: Request, renderers: Sequence[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], str(renderers[0].media_type)


class Pages(CursorPagination):
    """Rows in the order of their ids; ``next`` is the address of the following page, null at the end."""

    page_size = 100
    page_size_query_param = "limit"
    max_page_size = 1000
    ordering = "id"

    def decode_cursor(self, request: Request) -> Any:
        """The base class takes any text for a position, which the database then cannot compare with an id."""
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None and not ID.fullmatch(str(cursor.position)):
            raise NotFound(self.invalid_cursor_message)
        return cursor


class Endpoint(APIView):
    """One address of the API. Who may come in: any account; access.py decides about the project."""

    content_negotiation_class = AlwaysJson


class Listing(Endpoint):
    """An address whose GET answers a page of rows."""

    pagination_class = Pages

    def page_of(self, request: Request, rows: QuerySet[Row], shape: type[BaseSerializer[Any]]) -> Response:
        """One page of ``rows``, each in ``shape``."""
        paginator = self.pagination_class()
        page = paginator.paginate_queryset(rows, request, view=self)
        return paginator.get_paginated_response(shape(page, many=True, context={"request": request}).data)


def person(request: Request) -> User:
    """Who asks. IsAuthenticated has let them in, so they have an account."""
    return cast(User, request.user)


def read(shape: type[Serializer[Any]], raw: Any) -> dict[str, Any]:
    """The request's body or query as ``shape`` reads it. Raises ValidationError naming each bad field."""
    reader = shape(data=raw)
    reader.is_valid(raise_exception=True)
    return dict(reader.validated_data)
