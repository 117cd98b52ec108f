"""How people come in: a password, or a link that works once."""

import hashlib
from typing import Any

from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import User
from django.core import signing
from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlsafe_base64_decode, urlsafe_base64_encode
from django.utils.translation import gettext as _

from annotator.errors import NotFound, WinnowError

LINK_HOURS = 24
_SALT = "annotator.login-link"

# Failed log-ins in a quarter of an hour: of one name from one address, of one name, from one address. The wider two
# leave room for an office behind one address, and make it dear to lock somebody else out.
WINDOW_S = 15 * 60
FAILURES_AT_MOST = (5, 50, 200)


class TooManyAttempts(WinnowError):
    code = "too_many_attempts"
    status = 429


def create_login_link(user: User) -> str:
    """The path of a link that logs this person in once, within LINK_HOURS.

    Nothing is stored: the link is signed and names the state of the account it was made for. Any log-in and any change
    of the password changes that state, and with it every older link is void.
    """
    token = signing.dumps(_state(user), salt=_SALT)
    return reverse("login-link", args=[urlsafe_base64_encode(str(user.pk).encode()), token])


def _state(user: User) -> str:
    last = user.last_login.isoformat() if user.last_login else "never"
    return hashlib.sha256(f"{user.pk}|{last}|{user.get_session_auth_hash()}".encode()).hexdigest()[:32]


def find_by_link(uid: str, token: str) -> User:
    """Whom the link would log in. Changes nothing, so a mail scanner may look. Raises NotFound for a void link."""
    return _find(uid, token, get_user_model().objects.all())


@transaction.atomic
def use_login_link(uid: str, token: str) -> User:
    """The person the link logs in; the link is void from here on. Locks the account, so that it works once only."""
    user = _find(uid, token, get_user_model().objects.select_for_update())
    user.last_login = timezone.now()
    user.save(update_fields=["last_login"])
    return user


def _find(uid: str, token: str, accounts: Any) -> User:
    try:
        user = accounts.filter(pk=int(urlsafe_base64_decode(uid).decode()), is_active=True).first()
        state = signing.loads(token, salt=_SALT, max_age=LINK_HOURS * 3600)
    except (ValueError, OverflowError, signing.BadSignature):
        user = state = None
    if user is None or state != _state(user):
        raise NotFound(
            _("this login link was used already, or is too old; make a new one with `manage.py login_link`")
        )
    found: User = user
    return found


def check_password(*, request: HttpRequest, username: str, password: str) -> User | None:
    """The person with this name and password, or None. Raises TooManyAttempts without looking at the password."""
    keys = _failure_keys(request, username)
    if any(cache.get(key, 0) >= most for key, most in zip(keys, FAILURES_AT_MOST, strict=True)):
        raise TooManyAttempts(
            _("too many failed attempts; try again in %(minutes)s minutes") % {"minutes": WINDOW_S // 60}
        )
    user = authenticate(request, username=username, password=password)
    if not isinstance(user, User):
        for key in keys:
            cache.add(key, 0, WINDOW_S)
            cache.incr(key)
        return None
    cache.delete(keys[0])
    return user


def _failure_keys(request: HttpRequest, username: str) -> list[str]:
    name, address = username.casefold(), request.META.get("REMOTE_ADDR", "")
    wanted = (f"both|{name}|{address}", f"name|{name}", f"address|{address}")
    return ["login-failures:" + hashlib.sha256(each.encode("utf-8", "replace")).hexdigest() for each in wanted]
