"""Numbers as people say them, for pages and pictures alike; and which text can be kept."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def percent(rate: float, digits: int = 0) -> str:
    """A rate in words that never round up to certainty: ``>99 %`` rather than ``100 %``. A line never ends before the
    sign: the space is U+00A0."""
    most = 1 - 0.5 * 10 ** (-2 - digits)
    if most <= rate < 1:
        return f">{100 - 10**-digits:.{digits}f}\xa0%"
    return f"{rate * 100:.{digits}f}\xa0%"


def promised(rate: float) -> str:
    """A rate somebody chose, as it was written: ``99 %``, ``99.5 %``."""
    return f"{round(rate * 100, 2):g} %"


def is_storable(text: str) -> bool:
    """Whether PostgreSQL keeps it and UTF-8 can say it: no NUL, no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None
