"""The pages. A view fetches and authorises through access.py, calls one action, and renders one template."""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from annotator.errors import WinnowError


class PageRequest(HttpRequest):
    """A request of somebody who is logged in, as every view under ``page`` gets it."""

    user: User
    htmx: Any


def page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A view for people who are logged in, in which a WinnowError becomes a page that says what was wrong.

    Views that can show the refused form again catch the error themselves; this is the net below them.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        try:
            return view(cast(PageRequest, request), *args, **kwargs)
        except WinnowError as error:
            return refused(request, error)

    return wrapped


def refused(request: HttpRequest, error: WinnowError) -> HttpResponse:
    """The page for a refusal, with the error's status."""
    template = {404: "404.html", 403: "403.html"}.get(error.status, "message.html")
    return render(request, template, {"error": error}, status=error.status)
