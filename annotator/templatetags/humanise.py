"""Numbers and times as people say them."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from annotator.wording import decimal, percent, promised, thousands, within, written

register = template.Library()
register.filter(decimal)
register.filter(percent)
register.filter(promised)
register.filter(thousands)
register.filter(within)


@register.filter
def as_read(number: float) -> str:
    """A number as it is, but for the signs of the page's language."""
    return written(str(number))


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
        return _("just now")
    if seconds < 60:
        return _("%(n)s s ago") % {"n": seconds}
    if seconds < 3600:
        return _("%(n)s min ago") % {"n": seconds // 60}
    if seconds < 86400:
        return _("%(n)s h ago") % {"n": seconds // 3600}
    if seconds < 30 * 86400:
        return _("%(n)s d ago") % {"n": seconds // 86400}
    return date_format(at, "DATE_FORMAT")


@register.filter
def duration(start: datetime | None, end: datetime | None) -> str:
    """From start to end, or to now, in one or two steps; empty when it has not begun."""
    if start is None:
        return ""
    seconds = max(0.0, ((end or timezone.now()) - start).total_seconds())
    if seconds < 10:
        return _("%(s)s s") % {"s": decimal(seconds)}
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return _("%(h)s h %(min)s min") % {"h": hours, "min": minutes}
    if minutes:
        return _("%(min)s min %(s)s s") % {"min": minutes, "s": seconds}
    return _("%(s)s s") % {"s": seconds}
