"""Addresses that lead nowhere."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

from annotator.api.endpoint import Endpoint
from annotator.errors import NotFound


@extend_schema(exclude=True)
class Elsewhere(Endpoint):
    """JSON for a mistyped address too, and no redirect to the one with a slash, which would lose a POST."""

    permission_classes = (AllowAny,)

    def _nothing(self, request: Request, address: str) -> Any:
        hint = "" if address.endswith("/") else "; every address ends with a slash"
        raise NotFound(f"there is nothing at this address{hint}; see /api/docs/")

    get = post = put = patch = delete = _nothing
