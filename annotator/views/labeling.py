"""The labelling page. GET never takes work; every POST answers with the next thing to do."""

import json
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.contrib.auth.models import User
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from annotator import queries
from annotator.access import LABEL, OWN, REVIEW, allows, get_membership
from annotator.actions import labeling, needs, queueing, shares
from annotator.actions.classes import PAGE_KEYS
from annotator.errors import InvalidAnnotation, WinnowError
from annotator.formats.images import NEEDS_RENDITION
from annotator.models import Annotation, Item, Membership, Project, QueueEntry, Split
from annotator.views import PageRequest, page
from annotator.views.choices import TINY_PX, choices_of, is_tiny
from annotator.views.reading import is_number, read_uuid
from annotator.wording import is_storable, percent

TEMPLATE = "labeling.html"
HELD_AT_MOST = 5
TOGETHER_AT_MOST = 50
SHOWN_SALT = "annotator.views.labeling.shown"


@dataclass(frozen=True)
class Suggestion:
    """The model's best guess for an item, where the project shows it."""

    class_id: int
    name: str
    probability: str


@dataclass(frozen=True)
class NamedExample:
    """A labelled image that speaks for the reason, with the name of its class."""

    item_id: int
    name: str
    is_tiny: bool


@dataclass(frozen=True)
class Card:
    """One held item as the page shows it. ``is_returned``: its answer was just taken back, so it comes first;
    ``is_due``: it comes right behind the image on the desk, before what is held already; ``shown``: our signed word on
    whether it tells anything of what the model thinks; ``likely``: class ids, the model's guesses first, where it may
    say so; ``has_more_pixels``: the original shows more than the picture that comes first."""

    entry: QueueEntry
    item: Item
    reason: str
    suggestion: Suggestion | None
    examples: list[NamedExample]
    evidence_said: str
    shown: str
    likely: list[int]
    has_more_pixels: bool
    is_flagged: bool
    is_tiny: bool
    is_returned: bool
    is_due: bool


@dataclass(frozen=True)
class Holder:
    """Somebody who holds items, and the minutes until they are free again unless renewed."""

    name: str
    count: int
    minutes: int


@require_http_methods(["GET", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, LABEL)
    if request.method == "POST":
        return _submit(request, membership)
    if request.htmx:
        return render(request, f"{TEMPLATE}#progress", _progress(membership))
    return _whole_page(request, membership)


@require_POST
@page
def start(request: PageRequest, project_id: int) -> HttpResponse:
    """Take the first items; with ``skipped``, after putting up again what everybody skipped."""
    membership = get_membership(request.user, project_id, LABEL)
    if request.POST.get("skipped"):
        queueing.return_skipped(project=membership.project)
    entries = queueing.reserve_items(project=membership.project, annotator=request.user, count=HELD_AT_MOST)
    return _next(request, membership, entries)


@require_POST
@page
def undo(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, LABEL)
    project = membership.project
    named = request.POST.get("answer")
    try:
        undone = labeling.undo_last(
            project=project,
            annotator=request.user,
            uuid=read_uuid(request.POST.get("uuid")),
            answer=read_uuid(named) if named else None,
        )
    except WinnowError as error:
        return _refused(request, membership, error)
    entries = list(queries.held_entries(project, request.user))
    notice = _undo_notice(undone, entries)
    return _next(request, membership, entries, returned=undone, notice=notice)


def _undo_notice(undone: Annotation | None, entries: list[QueueEntry]) -> str:
    if undone is None:
        return _("There is no answer of yours to take back.")
    if undone.item_id in {entry.item_id for entry in entries}:
        return ""
    return _("Your answer is taken back. You do not get the image again: another answer counts, or somebody has it.")


@require_POST
@page
def renew(request: PageRequest, project_id: int) -> HttpResponse:
    """Keep what is held: the person is still here. What was lost meanwhile is replaced."""
    membership = get_membership(request.user, project_id, LABEL)
    entries = queueing.reserve_items(project=membership.project, annotator=request.user, count=HELD_AT_MOST)
    return _next(request, membership, entries)


def _submit(request: PageRequest, membership: Membership) -> HttpResponse:
    project = membership.project
    if "answers" in request.POST:
        return _submit_many(request, membership)
    try:
        answer = _read_answer(request.POST)
        _, entries = labeling.submit_and_reserve(
            project=project,
            annotator=request.user,
            suggestion_shown=_hint_was_shown(request.user, project, request.POST.get("shown"), answer["item_id"]),
            count=HELD_AT_MOST,
            **answer,
        )
    except WinnowError as error:
        return _refused(request, membership, error)
    return _next(request, membership, entries)


def _submit_many(request: PageRequest, membership: Membership) -> HttpResponse:
    """Answers that waited in a browser, in their order; each is recorded by itself, and those that cannot be are named
    with the reason. Sent again after half of them went in, the others follow."""
    project = membership.project
    try:
        answers = _read_answers(request.POST["answers"])
    except WinnowError as error:
        return _refused(request, membership, error)
    refusals = []
    for posted in answers:
        try:
            answer = _read_answer(posted)
            labeling.record_annotation(
                project=project,
                annotator=request.user,
                suggestion_shown=_hint_was_shown(request.user, project, posted.get("shown"), answer["item_id"]),
                **answer,
            )
        except WinnowError as error:
            refusals.append({"uuid": posted.get("uuid"), "code": error.code, "message": error.message})
    entries = queueing.reserve_items(project=project, annotator=request.user, count=HELD_AT_MOST)
    return _next(request, membership, entries, refusals=refusals)


def _read_answers(raw: str) -> list[dict[str, str]]:
    """Raises InvalidAnnotation unless it is a JSON list of at most TOGETHER_AT_MOST objects, each a form's fields."""
    try:
        answers = json.loads(raw)
    except (ValueError, RecursionError):
        answers = None
    if not isinstance(answers, list) or not all(isinstance(each, dict) for each in answers):
        raise InvalidAnnotation(_("answers is not a JSON list of objects; reload the page"))
    if len(answers) > TOGETHER_AT_MOST:
        raise InvalidAnnotation(
            _("%(n)s answers at once; send at most %(together_at_most)s")
            % {"n": len(answers), "together_at_most": TOGETHER_AT_MOST}
        )
    forms = [{name: str(value) for name, value in each.items() if value is not None} for each in answers]
    if not all(is_storable("".join([name, value])) for form in forms for name, value in form.items()):
        raise InvalidAnnotation(_("answers contains a character that cannot be kept; reload the page"))
    return forms


def _read_answer(posted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the action from the form. ``answer`` is ``class:<id>``, ``skip`` or ``none_of_these``."""
    kind, _, raw_value = posted.get("answer", "").partition(":")
    milliseconds = posted.get("milliseconds")
    return {
        "item_id": _read_number(posted.get("item"), "item"),
        "uuid": read_uuid(posted.get("uuid")),
        "kind": Annotation.Kind.LABEL if kind == "class" else kind,
        "raw_value": raw_value or None,
        "milliseconds": _read_number(milliseconds, "milliseconds") if milliseconds else None,
    }


def _read_number(raw: str | None, name: str) -> int:
    if not is_number(raw):
        raise InvalidAnnotation(
            _("%(name)s %(found)s is not a whole number; reload the page")
            % {"name": name, "found": repr((raw or "")[:40])}
        )
    return int(raw)


def _hint_was_shown(user: User, project: Project, shown: str | None, item_id: int) -> bool:
    """Whether this page showed a hint with the item, by our own signed word that came with the card: the answer may
    have waited for long, and the queue says something else by now. Without it, by what the queue says."""
    try:
        signed = signing.Signer(salt=SHOWN_SALT).unsign(shown or "")
    except signing.BadSignature:
        signed = ""
    said_of, _separator, hint = signed.rpartition(":")
    if said_of == f"{user.pk}:{item_id}":
        return hint == "hint"
    entry = QueueEntry.objects.select_related("item").filter(project=project, item_id=item_id).first()
    if entry is None:
        return False
    return queries.shows_hint(entry, project) or queries.shows_examples(project, entry)


def _sign_shown(user: Any, entry: QueueEntry, *, has_hint: bool) -> str:
    return signing.Signer(salt=SHOWN_SALT).sign(f"{user.pk}:{entry.item_id}:{'hint' if has_hint else 'blind'}")


def _next(
    request: PageRequest,
    membership: Membership,
    entries: Iterable[QueueEntry],
    *,
    returned: Annotation | None = None,
    notice: str = "",
    refusals: Sequence[dict[str, Any]] = (),
) -> HttpResponse:
    """The answer to a POST that went well: the held cards and the progress, or the way back to the page."""
    if not request.htmx:
        response = redirect("label", membership.project_id)
        response.status_code = 303
        return response
    context = _context(request, membership, entries, returned=returned)
    context |= {"notice": notice, "refusals": refusals}
    return render(request, f"{TEMPLATE}#next", context)


def _refused(request: PageRequest, membership: Membership, error: WinnowError) -> HttpResponse:
    """What happened, and the next items: a refused answer must not stop the work."""
    entries = queueing.reserve_items(project=membership.project, annotator=request.user, count=HELD_AT_MOST)
    context = _context(request, membership, entries)
    context |= {"notice": error.message, "is_refusal": True, "refusal": error.code}
    if request.htmx:
        return render(request, f"{TEMPLATE}#next", context, status=error.status)
    return render(request, TEMPLATE, context | {"is_whole_page": True}, status=error.status)


def _whole_page(request: PageRequest, membership: Membership) -> HttpResponse:
    entries = queries.held_entries(membership.project, request.user)
    return render(request, TEMPLATE, _context(request, membership, entries) | {"is_whole_page": True})


def _context(
    request: HttpRequest,
    membership: Membership,
    entries: Iterable[QueueEntry],
    *,
    returned: Annotation | None = None,
) -> dict[str, Any]:
    project = membership.project
    classes = queries.open_classes(project)
    choices = choices_of(classes, PAGE_KEYS)
    cards = _cards(project, request.user, entries, returned)
    context = _progress(membership) | {
        "cards": cards,
        "choices": choices,
        # More classes than there are digits are found by typing.
        "has_many_classes": (is_many := any(not choice.key.isdigit() for choice in choices)),
        "uses": _uses(project) if is_many else "",
        "is_nought_free": all(choice.key != "0" for choice in choices),
        "uuid": uuids.uuid4(),
        "task_type": f"task_types/{project.task_type}.html",
        "may_review": allows(membership.role, REVIEW),
        "may_own": allows(membership.role, OWN),
    }
    if not cards:
        context |= _why_empty(project, request.user, classes, context["progress"])
    return context


def _uses(project: Project) -> str:
    """How many images have each class, as ``id:count``, for the order in which classes are found: it says nothing of
    the image that is asked about."""
    return " ".join(f"{each.pk}:{count}" for each, count in queries.class_balance(project))


def _cards(project: Project, user: Any, entries: Iterable[QueueEntry], returned: Annotation | None) -> list[Card]:
    names = {each.pk: each.name for each in project.classes.all()}
    entries = list(entries)
    spoken = queries.evidence(project, entries)
    flagged = queries.flagged_by(project, user.pk, [entry.item_id for entry in entries])
    cards = [_card(project, user, entry, names, spoken.get(entry.item_id), returned) for entry in entries]
    cards = [replace(card, is_flagged=card.item.pk in flagged) for card in cards] if flagged else cards
    return sorted(cards, key=lambda card: not card.is_returned)


def _card(
    project: Project,
    user: Any,
    entry: QueueEntry,
    names: dict[int, str],
    spoken: queries.Evidence | None,
    returned: Annotation | None,
) -> Card:
    guess = queries.suggestion(entry, project)
    examples = spoken.examples if spoken else ()
    return Card(
        entry=entry,
        item=entry.item,
        reason=queries.reason_text(entry, names),
        suggestion=Suggestion(guess[0], names[guess[0]], percent(guess[1])) if guess and guess[0] in names else None,
        examples=[NamedExample(each.item_id, names[each.class_id], each.px <= TINY_PX) for each in examples],
        evidence_said=spoken.sentence if spoken else "",
        shown=_sign_shown(user, entry, has_hint=queries.shows_hint(entry, project) or spoken is not None),
        likely=[class_id for class_id, _prob in entry.reason_data.get("classes", [])] if guess else [],
        has_more_pixels="rendition_key" in entry.item.metadata and entry.item.mime not in NEEDS_RENDITION,
        is_flagged=False,
        is_tiny=is_tiny(entry.item),
        is_returned=returned is not None and entry.item_id == returned.item_id,
        is_due=entry.reason_code in shares.NEEDS,
    )


def _progress(membership: Membership) -> dict[str, Any]:
    project = membership.project
    progress = queries.label_progress(project, membership.user)
    is_waiting = progress.is_learning or progress.until_refit <= 0
    checks = queries.measured(queries.current_model(project), "audit").n
    return {
        "project": project,
        "membership": membership,
        "progress": progress,
        "waiting": queries.pending(project).count(),
        "since_refit": progress.answers_per_refit - progress.until_refit,
        "accuracy": _accuracy(progress) if checks >= queries.CHECKS_AT_LEAST else None,
        "checks": checks,
        "checks_at_least": queries.CHECKS_AT_LEAST,
        # Asked only when it matters: every answer comes by here.
        "has_worker": not is_waiting or queries.worker_state()["alive"] > 0,
    }


def _accuracy(progress: queries.LabelProgress) -> dict[str, str] | None:
    """The estimate and its interval in words, or None before the first random check was answered."""
    if progress.accuracy is None or progress.low is None or progress.high is None:
        return None
    return {
        "estimate": percent(progress.accuracy),
        "interval": _("%(low)s to %(high)s")
        % {"low": f"{progress.low * 100:.0f}", "high": f"{progress.high * 100:.0f}\xa0%"},
    }


def _why_empty(project: Project, user: Any, classes: list[Any], progress: Any) -> dict[str, Any]:
    """Why there is nothing on the desk: one word for the template, and who holds what."""
    if not progress.pool:
        return {"empty": "no_items"}
    if not classes:
        return {"empty": "no_classes"}
    if not progress.open and not needs.has_second_looks(project, user):
        counts = queries.pool_counts(project)
        return {"empty": "all_answered", "skipped": sum(counts[split][Item.State.SKIPPED] for split in Split.values)}
    held = queries.other_holders(project, user)
    if progress.open and len(held) >= progress.open:
        return {"empty": "all_held", "holders": _holders(held)}
    return {"empty": "start"}


def _holders(held: list[QueueEntry]) -> list[Holder]:
    now = timezone.now()
    by_name: dict[str, list[float]] = {}
    for entry in held:
        if entry.leased_until is not None:
            by_name.setdefault(str(entry.leased_by), []).append((entry.leased_until - now).total_seconds())
    return [Holder(name, len(left), max(1, round(max(left) / 60))) for name, left in by_name.items()]
