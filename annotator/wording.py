"""Numbers as people say them in the language of the page, for pages and pictures; and which text can be kept."""

import re

from django.utils.translation import get_language, override, pgettext
from django.utils.translation import gettext as _

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Languages in which a noun keeps its capital in the middle of a sentence.
_CAPITALS_STAY = ("de", "lb")


def written(number: str) -> str:
    """A number in Python's writing, ``1,797.5``, with the signs of the reader's language, ``1.797,5``."""
    if get_language() in (None, "en"):
        return number
    point, comma = pgettext("before the decimals of a number", "."), pgettext("between the thousands of a number", ",")
    return "".join({".": point, ",": comma}.get(sign, sign) for sign in number)


def in_english() -> override:
    """For what is kept or sent to machines: ``with in_english(): ...``, whoever asks."""
    return override("en")


def thousands(count: float) -> str:
    """1797 as 1,797; what is no whole number is rounded."""
    return written(f"{count:,.0f}")


def decimal(number: float, digits: int = 1) -> str:
    return written(f"{number:,.{digits}f}")


def percent(rate: float, digits: int = 0) -> str:
    """A rate in words that never round up to certainty: ``>99 %`` rather than ``100 %``. A line never ends before the
    sign: the space is U+00A0."""
    most = 1 - 0.5 * 10 ** (-2 - digits)
    if most <= rate < 1:
        return written(f">{100 - 10**-digits:.{digits}f}\xa0%")
    return written(f"{rate * 100:.{digits}f}\xa0%")


def promised(rate: float) -> str:
    """A rate somebody chose, as it was written: ``99 %``, ``99.5 %``."""
    return written(f"{round(rate * 100, 2):g}\xa0%")


def between(low: str, high: str) -> str:
    """Two ends of an interval, each in words already."""
    return _("%(low)s to %(high)s") % {"low": low, "high": high}


def with_interval(estimate: str, low: str, high: str) -> str:
    return _("%(estimate)s (%(low)s to %(high)s)") % {"estimate": estimate, "low": low, "high": high}


def within(title: object) -> str:
    """A title (text, or one that is still to be translated) inside a sentence: without its capital, where the language
    has no use for it."""
    return str(title) if get_language() in _CAPITALS_STAY else str(title).lower()


def is_storable(text: str) -> bool:
    """Whether PostgreSQL keeps it and UTF-8 can say it: no NUL, no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None
