"""The pages. A view fetches and authorises through access.py, calls one action, and renders one template."""

import codecs
import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.db import IntegrityError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from annotator.errors import Conflict, WinnowError
from annotator.wording import is_storable

logger = logging.getLogger(__name__)

AWAY = gettext_noop("the database cannot answer now; nothing was saved, try again in a moment")


class PageRequest(HttpRequest):
    """A request of somebody who is logged in, as every view under ``page`` gets it."""

    user: User
    htmx: Any


def utf8_only(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: a body says that it is in UTF-8, or nothing. Other codecs make text that cannot be kept, or none."""

    def answer(request: HttpRequest) -> HttpResponse:
        if request.encoding and codecs.lookup(request.encoding).name not in ("utf-8", "ascii"):
            return HttpResponse("text is read as UTF-8 only\n", content_type="text/plain", status=415)
        return get_response(request)

    return answer


def page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A view for people who are logged in, in which a WinnowError becomes a page that says what was wrong.

    Views that can show the refused form again catch the error themselves; this is the net below them.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        try:
            _check_text(request)
            response = view(cast(PageRequest, request), *args, **kwargs)
        except WinnowError as error:
            response = refused(request, error)
        except IntegrityError:  # two requests at once passed the same check; the constraint decided
            logger.warning("a constraint refused what an action let through", exc_info=True)
            why = _("somebody changed the same thing at the same moment; nothing was saved, look and try again")
            response = refused(request, Conflict(why))
        # Not "no-cache": "back" shows such a page without asking, to whoever sits there after a log-out.
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response

    return wrapped


def _check_text(request: HttpRequest) -> None:
    """Raises WinnowError for text that cannot be kept: nobody types it, and one sentence serves every form."""
    sent = [request.GET]
    # A view that is exempt sets its upload handlers first; reading the body here would come before them.
    if not (request.resolver_match and getattr(request.resolver_match.func, "csrf_exempt", False)):
        sent.append(request.POST)
    for form in sent:
        for name, texts in form.lists():
            if not is_storable("".join([name, *texts])):
                why = _("%(name)s contains a character that cannot be kept; type the text anew")
                raise WinnowError(why % {"name": ascii(name)})


def refused(request: HttpRequest, error: WinnowError) -> HttpResponse:
    """The page for a refusal, with the error's status."""
    template = {404: "404.html", 403: "403.html"}.get(error.status, "message.html")
    return render(request, template, {"error": error}, status=error.status)


def broken(request: HttpRequest) -> HttpResponse:
    """The answer to what nothing caught (Django's handler500): 503 when it was the database, which may come back."""
    is_away = isinstance(sys.exc_info()[1], OperationalError | InterfaceError)
    status = 503 if is_away else 500
    if request.path.startswith("/api/"):
        code = "database_away" if is_away else "broken"
        message = AWAY if is_away else "something broke on the server; what went wrong is in its log"
        response: HttpResponse = JsonResponse({"error": {"code": code, "message": message}}, status=status)
    else:
        # Without the request: who is logged in is in the database too.
        response = HttpResponse(render_to_string(f"{status}.html", {"why": _(AWAY)}), status=status)
    if is_away:
        response["Retry-After"] = "5"
    return response
