"""Tokens over the API. Only somebody who is logged in makes one: a leaked token must not outlive its revocation."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.actions import tokens
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.errors import NotAllowed
from annotator.models import ApiToken


@extend_schema(tags=["tokens"])
class Tokens(Listing):
    @extend_schema(responses=shapes.TokenShape(many=True), operation_id="tokens_list")
    def get(self, request: Request) -> Response:
        """Your tokens, without their text."""
        return self.page_of(request, ApiToken.objects.filter(user=person(request)), shapes.TokenShape)

    @extend_schema(request=shapes.NewToken, responses={201: shapes.MadeToken})
    def post(self, request: Request) -> Response:
        """Make a token; its text is shown this once. Needs a log-in: a token cannot make another."""
        if isinstance(request.auth, ApiToken):
            raise NotAllowed("a token cannot make another token; log in and make it on the tokens page")
        token, text = tokens.make_token(user=person(request), name=read(shapes.NewToken, request.data)["name"])
        shown = {**shapes.TokenShape(token).data, "token": text}
        return Response(shown, status=201, headers={"Cache-Control": "no-store"})


@extend_schema(tags=["tokens"])
class OneToken(Endpoint):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, token_id: int) -> Response:
        """Revoke a token of yours."""
        tokens.revoke_token(user=person(request), token_id=token_id)
        return Response(status=204)
