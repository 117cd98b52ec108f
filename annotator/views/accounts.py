"""Coming in by password or by one-time link, and going out."""

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from annotator.actions import accounts
from annotator.actions.accounts import TooManyAttempts
from annotator.errors import NotFound, WinnowError

TEMPLATE = "login.html"
BACKEND = "django.contrib.auth.backends.ModelBackend"


class WrongPassword(WinnowError):
    code = "wrong_password"


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@sensitive_post_parameters("password")
def login(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return redirect(_next(request)) if request.user.is_authenticated else _form(request)
    username = request.POST.get("username", "").replace("\x00", "")[:150]  # PostgreSQL refuses NUL
    try:
        user = accounts.check_password(
            request=request, username=username, password=request.POST.get("password", "")[:4096]
        )
    except TooManyAttempts as error:
        return _form(request, username, error)
    if user is None:
        return _form(request, username, WrongPassword(_("this name and password do not belong together")))
    return _come_in(request, user)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def login_by_link(request: HttpRequest, uid: str, token: str) -> HttpResponse:
    """GET shows one button and uses nothing up, because mail scanners and browsers open links ahead of people."""
    try:
        if request.method != "POST":
            user = accounts.find_by_link(uid, token)
            return render(request, f"{TEMPLATE}", {"link_user": user})
        return _come_in(request, accounts.use_login_link(uid, token))
    except NotFound as error:
        if request.user.is_authenticated:
            return redirect(settings.LOGIN_REDIRECT_URL)
        return _form(request, error=error)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    auth.logout(request)
    return redirect(settings.LOGIN_URL)


def _come_in(request: HttpRequest, user: User) -> HttpResponse:
    auth.login(request, user, backend=BACKEND)
    response = redirect(_next(request))
    response.status_code = 303
    return response


def _next(request: HttpRequest) -> str:
    """Where the person wanted to go, if that is here."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    is_here = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if is_here else resolve_url(settings.LOGIN_REDIRECT_URL)


def _form(request: HttpRequest, username: str = "", error: WinnowError | None = None) -> HttpResponse:
    context = {"username": username, "next": request.POST.get("next") or request.GET.get("next", ""), "error": error}
    response = render(request, TEMPLATE, context, status=error.status if error else 200)
    if isinstance(error, TooManyAttempts):
        response["Retry-After"] = str(accounts.WINDOW_S)
    return response
