"""``Authorization: Bearer winnow_...``."""

from typing import Any

from rest_framework.authentication import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

from annotator.actions.tokens import hash_token
from annotator.models import ApiToken


class ApiTokenAuthentication(TokenAuthentication):
    """The person whose token was sent; only its hash is looked up. One query."""

    keyword = "Bearer"

    def authenticate_credentials(self, key: str) -> tuple[Any, Any]:
        token = ApiToken.objects.select_related("user").filter(sha256=hash_token(key)).first()
        if token is None or not token.user.is_active:
            raise AuthenticationFailed("this token is unknown or was revoked; make a new one")
        return token.user, token
