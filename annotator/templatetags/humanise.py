"""Numbers and times as people say them."""

from datetime import datetime

from django import template
from django.utils import timezone

from annotator.wording import percent

register = template.Library()
register.filter(percent)


@register.filter
def thousands(count: int) -> str:
    """1797 as 1,797."""
    return f"{count:,}"


@register.filter
def at_most(count: int, most: int) -> int:
    return min(count, most)


@register.filter
def ago(at: datetime | None) -> str:
    """How long ago in one short step; after a month the date."""
    if at is None:
        return ""
    seconds = int((timezone.now() - at).total_seconds())
    if seconds < 10:
        return "just now"
    for size, unit in ((60, "s"), (3600, "min"), (86400, "h")):
        if seconds < size:
            return f"{seconds // {'s': 1, 'min': 60, 'h': 3600}[unit]} {unit} ago"
    if seconds < 30 * 86400:
        return f"{seconds // 86400} d ago"
    return f"{at:%d %b %Y}"


@register.filter
def duration(start: datetime | None, end: datetime | None) -> str:
    """From start to end, or to now, in one or two steps; empty when it has not begun."""
    if start is None:
        return ""
    seconds = max(0.0, ((end or timezone.now()) - start).total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
