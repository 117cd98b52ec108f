"""Keys for programs: made, shown once, revoked."""

import hashlib
import secrets

from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from annotator.errors import Conflict, InvalidSettings, NotFound
from annotator.models import ApiToken, AuditEvent

PREFIX = "winnow_"
NAME_AT_MOST = 80
TOKENS_AT_MOST = 50


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


@transaction.atomic
def make_token(*, user: User, name: str) -> tuple[ApiToken, str]:
    """A new token of this person and its text, which is nowhere kept. Raises InvalidSettings, Conflict."""
    name = " ".join(name.split())
    if not name or len(name) > NAME_AT_MOST:
        why = _("a token's name has 1 to %(name_at_most)s characters, this has %(n)s") % {
            "name_at_most": NAME_AT_MOST,
            "n": len(name),
        }
        raise InvalidSettings(why, fields={"name": why})
    if ApiToken.objects.filter(user=user).count() >= TOKENS_AT_MOST:
        raise Conflict(
            _("you have %(tokens_at_most)s tokens already; revoke one first") % {"tokens_at_most": TOKENS_AT_MOST}
        )
    text = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(user=user, name=name, start=text[: len(PREFIX) + 4], sha256=hash_token(text))
    AuditEvent.objects.create(actor=user, verb="made an API token", detail={"token": token.pk, "name": name})
    return token, text


@transaction.atomic
def revoke_token(*, user: User, token_id: int) -> None:
    """Make a token of this person worthless from this moment on. Raises NotFound for somebody else's."""
    deleted, _by_kind = ApiToken.objects.filter(user=user, pk=token_id).delete()
    if not deleted:
        raise NotFound(_("you have no token %(token_id)s") % {"token_id": token_id})
    AuditEvent.objects.create(actor=user, verb="revoked an API token", detail={"token": token_id})
