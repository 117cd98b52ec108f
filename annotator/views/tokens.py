"""The page of a person's API tokens."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotator.actions import tokens
from annotator.errors import WinnowError
from annotator.models import ApiToken
from annotator.views import PageRequest, page


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@page
def show(request: PageRequest) -> HttpResponse:
    if request.method != "POST":
        return _shown(request)
    name = request.POST.get("name", "")
    try:
        token, text = tokens.make_token(user=request.user, name=name)
    except WinnowError as error:
        return _shown(request, {"name": name, "error": error}, status=error.status)
    # Answered at once and not after a redirect: the text is nowhere kept that a second request could read it from.
    example = request.build_absolute_uri(reverse("api-projects"))
    return _shown(request, {"made": token, "text": text, "example": example})


@require_POST
@page
def revoke(request: PageRequest, token_id: int) -> HttpResponse:
    tokens.revoke_token(user=request.user, token_id=token_id)
    messages.success(request, _("The token is revoked; programs that use it are refused from now on."))
    response = redirect("tokens")
    response.status_code = 303
    return response


def _shown(request: PageRequest, more: dict[str, object] | None = None, status: int = 200) -> HttpResponse:
    context = {"tokens": ApiToken.objects.filter(user=request.user), "name_at_most": tokens.NAME_AT_MOST}
    return render(request, "tokens.html", context | (more or {}), status=status)
