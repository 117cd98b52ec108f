"""What a form or an address sends is text until it is read."""

import uuid as uuids
from typing import TypeGuard

from django.utils.translation import gettext as _

from annotator.errors import InvalidAnnotation


def is_number(raw: str | None, digits: int = 18) -> TypeGuard[str]:
    """Whether it is a whole number of at most so many digits, which no id exceeds.

    ``int`` takes signs, spaces and the digits of every script, and has an error of its own for thousands of them.
    """
    return raw is not None and raw.isascii() and raw.isdigit() and len(raw) <= digits


def read_uuid(raw: str | None) -> uuids.UUID:
    """The UUID that a page made for one act. Raises InvalidAnnotation."""
    try:
        return uuids.UUID(raw or "")
    except ValueError:
        why = _("uuid %(found)s is not a UUID; reload the page")
        raise InvalidAnnotation(why % {"found": repr((raw or "")[:40])}) from None
