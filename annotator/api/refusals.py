"""Every refusal as ``{"error": {"code", "message", "fields"?}}``."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import IntegrityError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from annotator.errors import Conflict, WinnowError

logger = logging.getLogger(__name__)


def answer_refusal(refusal: Exception, context: dict[str, Any]) -> Response | None:
    """The answer to a refusal; None for anything unexpected, which then is a 500 with its traceback in the log."""
    if isinstance(refusal, IntegrityError):  # two requests at once passed the same check; the constraint decided
        logger.warning("a constraint refused what an action let through", exc_info=refusal)
        refusal = Conflict("somebody changed the same thing at the same moment; nothing was saved, try again")
    if isinstance(refusal, WinnowError):
        set_rollback()
        return _answer(refusal.status, refusal.code, refusal.message, refusal.fields)
    if isinstance(refusal, Http404):
        refusal = exceptions.NotFound()
    elif isinstance(refusal, PermissionDenied):
        refusal = exceptions.PermissionDenied()
    elif isinstance(refusal, SuspiciousOperation):  # more files or fields in one request than the settings allow
        refusal = exceptions.ParseError(str(refusal))
    if isinstance(refusal, exceptions.ValidationError):
        fields = _sentences(refusal.detail)
        message = "; ".join(f"{name}: {why}" if name else why for name, why in fields.items())
        return _answer(422, "invalid_request", message, {name: why for name, why in fields.items() if name})
    if isinstance(refusal, exceptions.APIException):
        set_rollback()
        answer = _answer(refusal.status_code, str(refusal.get_codes()), str(refusal.detail), {})
        if challenge := getattr(refusal, "auth_header", None):
            answer["WWW-Authenticate"] = challenge
        return answer
    return None


def _answer(status: int, code: str, message: str, fields: dict[str, str]) -> Response:
    error: dict[str, Any] = {"code": code, "message": _sayable(message)}
    if fields:
        error["fields"] = {_sayable(name): _sayable(why) for name, why in fields.items()}
    return Response({"error": error}, status=status)


def _sayable(text: str) -> str:
    """A sentence may quote what came in, and that may be half of a surrogate pair, which UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def _sentences(detail: Any, path: str = "") -> dict[str, str]:
    """One sentence for each bad field; nested fields by their path, as in ``corrected.12``."""
    if isinstance(detail, dict):
        found: dict[str, str] = {}
        for name, inner in detail.items():
            step = "" if name == "non_field_errors" else str(name)
            found |= _sentences(inner, ".".join(part for part in (path, step) if part))
        return found
    if isinstance(detail, list):
        if any(isinstance(each, dict | list) for each in detail):
            return _sentences({index: each for index, each in enumerate(detail) if each}, path)
        return {path: " ".join(str(each) for each in detail)}
    return {path: str(detail)}
