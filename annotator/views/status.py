"""For machines that watch this one: is it well, and how much is there?"""

import logging
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from annotator import jobs
from annotator.actions import tokens
from annotator.models import Annotation, ApiToken, Item, Job, Project, Proposal, QueueEntry

logger = logging.getLogger(__name__)


@require_safe
@never_cache
def health(request: HttpRequest) -> JsonResponse:
    """For anybody: 200 while people can work, 503 when the database is away. No names, no addresses, no counts.

    Without a worker people still label, and nothing is lost; ``status`` then says ``degraded``, still with 200, so
    that a watcher does not restart the web server for it.
    """
    try:
        workers = jobs.workers_alive()
    except DatabaseError:
        logger.exception("the database does not answer")
        return JsonResponse({"status": "down", "version": version(), "database": "down"}, status=503)
    state = "ok" if workers else "degraded"
    return JsonResponse({"status": state, "version": version(), "database": "ok", "workers": workers})


def version() -> str:
    return str(settings.SPECTACULAR_SETTINGS["VERSION"])


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text, for a superuser: logged in, or by API token as in ``Authorization: Bearer winnow_...``.

    Not by address: behind a proxy on the same machine everybody comes from 127.0.0.1. Totals of the installation only.
    """
    if not _is_allowed(request):
        refusal = HttpResponse("the API token of a superuser opens this\n", content_type="text/plain", status=401)
        refusal["WWW-Authenticate"] = 'Bearer realm="Winnow"'
        return refusal
    lines = [line for name, kind, help_text, values in _measured() for line in _lines(name, kind, help_text, values)]
    return HttpResponse("\n".join([*lines, ""]), content_type="text/plain; version=0.0.4; charset=utf-8")


def _is_allowed(request: HttpRequest) -> bool:
    if request.user.is_authenticated and request.user.is_superuser:
        return True
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() not in ("bearer", "token"):
        return False
    owners = ApiToken.objects.filter(sha256=tokens.hash_token(text.strip()), user__is_active=True)
    return owners.filter(user__is_superuser=True).exists()


Values = list[tuple[dict[str, str], float]]


def _measured() -> list[tuple[str, str, str, Values]]:
    """(name, type, help, [(labels, value)]). Seven queries, three of which count whole tables."""
    now = timezone.now()
    workers = jobs.workers_alive()
    held = QueueEntry.objects.filter(leased_until__gt=now).count()
    items = dict.fromkeys(Item.State.values, 0) | _grouped(Item.objects.order_by(), "state")
    answers = dict.fromkeys(Annotation.Kind.values, 0) | _grouped(Annotation.objects.order_by(), "kind")
    work = dict.fromkeys(Job.State.values, 0) | _grouped(Job.objects.order_by(), "state")
    pending = Proposal.objects.filter(state=Proposal.State.PENDING).count()
    return [
        ("winnow_info", "gauge", "The version that runs.", [({"version": version()}, 1)]),
        ("winnow_projects", "gauge", "Projects.", [({}, Project.objects.count())]),
        ("winnow_items", "gauge", "Images, by what became of them.", _by("state", items)),
        ("winnow_annotations_total", "counter", "Answers ever given, by kind.", _by("kind", answers)),
        ("winnow_proposals_pending", "gauge", "Proposals that wait for review.", [({}, pending)]),
        ("winnow_jobs", "gauge", "Jobs, by state.", _by("state", work)),
        ("winnow_queue_open", "gauge", "Images queued for an answer.", [({}, QueueEntry.objects.count())]),
        ("winnow_queue_held", "gauge", "Of these, held by somebody now.", [({}, held)]),
        ("winnow_workers", "gauge", "Worker processes connected.", [({}, workers)]),
    ]


def _grouped(rows: QuerySet[Any], column: str) -> dict[str, int]:
    return dict(rows.values_list(column).annotate(n=Count("pk")).values_list(column, "n"))


def _by(label: str, counts: dict[str, int]) -> Values:
    return [({label: value}, count) for value, count in sorted(counts.items())]


def _lines(name: str, kind: str, help_text: str, values: Values) -> list[str]:
    """One family in the text format; no label value here needs escaping."""
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for labels, value in values:
        inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return lines
