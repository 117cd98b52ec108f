"""Bodies as they come in."""

from math import isfinite
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from annotator.wording import is_storable

LEVELS_AT_MOST = 30


class BoundedJson(JSONParser):
    """JSON that the rest of the program can walk, store and send back: not deep, and of storable text and numbers."""

    def parse(self, *args: Any, **options: Any) -> Any:
        try:
            body = super().parse(*args, **options)
        except RecursionError:
            raise ParseError(f"JSON may be nested {LEVELS_AT_MOST} levels deep, this is far deeper") from None
        _check(body)
        return body


def _check(body: Any) -> None:
    """Raises ParseError. Level by level and without recursion."""
    level, depth = [body], 0
    while level:
        if depth > LEVELS_AT_MOST:
            raise ParseError(f"JSON may be nested {LEVELS_AT_MOST} levels deep, this is deeper")
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str) and not is_storable(each):
                raise ParseError("text may contain neither NUL nor half of a surrogate pair")
            elif isinstance(each, float) and not isfinite(each):
                raise ParseError("a number is too large")
        level, depth = below, depth + 1
