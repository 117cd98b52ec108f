"""How far a job is, as people say it."""

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator import jobs
from annotator.models import Job

register = template.Library()


@register.filter
def time_left(job: Job) -> str:
    """About how long it still takes; empty while nobody can know, and where its own message says so already."""
    seconds = jobs.seconds_left(job)
    if seconds is None or " left" in job.message:
        return ""
    minutes = round(seconds / 60)
    if seconds < 50:
        return _("less than a minute left")
    if minutes < 90:
        minutes = max(1, minutes)
        return ngettext("about %(n)s minute left", "about %(n)s minutes left", minutes) % {"n": minutes}
    hours = round(minutes / 60)
    return ngettext("about %(n)s hour left", "about %(n)s hours left", hours) % {"n": hours}
