"""In which language a person reads the pages: as chosen here, else as the browser asks for."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.middleware.locale import LocaleMiddleware
from django.shortcuts import redirect, resolve_url
from django.urls import Resolver404, resolve, reverse
from django.utils import translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from annotator.errors import InvalidSettings
from annotator.views import refused

YEAR_S = 365 * 24 * 3600
# Addresses that answer POST alone -> the page they are asked from. A refusal is shown there, and nobody can go back.
PAGE_OF = {
    "logout": "projects",
    "language": "projects",
    "token-revoke": "tokens",
    "map-choose": "map",
    "draw-checks": "dashboard",
    "start-round": "dashboard",
    "cancel-round": "dashboard",
    "class-undo": "project-classes",
    "import-files": "import",
    "label-next": "label",
    "label-undo": "label",
    "label-renew": "label",
    "job-cancel": "training",
    "review-undo": "review",
    "item-flag": "label",
    "export-model": "export",
}


class PageLanguage(LocaleMiddleware):
    """Middleware: pages speak the reader's language, machines always get English."""

    def process_request(self, request: HttpRequest) -> None:
        if request.path.startswith(("/api/", "/health/", "/metrics")):
            translation.activate(settings.LANGUAGE_CODE)
            request.LANGUAGE_CODE = settings.LANGUAGE_CODE
        else:
            super().process_request(request)

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        if request.path.startswith(("/api/", "/health/", "/metrics")):
            return response
        return super().process_response(request, response)


@require_POST
def choose(request: HttpRequest) -> HttpResponse:
    """Keep a choice of language in this browser and go back to the page it was made on."""
    wanted = request.POST.get("language", "")
    if wanted not in dict(settings.LANGUAGES):
        spoken = ", ".join(code for code, _ in settings.LANGUAGES)
        return refused(
            request,
            InvalidSettings(
                _("language %(wanted)s is not one of %(spoken)s") % {"wanted": repr(wanted[:20]), "spoken": spoken}
            ),
        )
    # Not a field of the form: an address in the page that says "not found" would tell what was asked for.
    back = request.headers.get("referer", "")
    is_here = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
    response = redirect(_page_of(back) if is_here else resolve_url("projects"))
    response.status_code = 303
    response.set_cookie(
        settings.LANGUAGE_COOKIE_NAME,
        wanted,
        max_age=YEAR_S,
        samesite="Lax",
        httponly=True,
        secure=settings.SESSION_COOKIE_SECURE,
    )
    return response


def _page_of(address: str) -> str:
    """The address, or that of the page it belongs to where it answers no GET."""
    try:
        match = resolve(urlsplit(address).path)
    except Resolver404:
        return address
    page = PAGE_OF.get(match.url_name or "")
    if page is None:
        return address
    inside = [match.kwargs["project_id"]] if "project_id" in match.kwargs else []
    return reverse(page, args=inside)
