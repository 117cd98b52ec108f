"""The classes of a project: the list, one of them in full, and every change an owner makes to them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from annotator import queries
from annotator.access import LABEL, OWN, REVIEW, VIEW, allows, get_membership
from annotator.actions import assigning, classes, merging
from annotator.errors import InvalidClass, NotAllowed, NotFound, WinnowError
from annotator.models import AuditEvent, ClassExample, Item, LabelClass, Membership, Project, Split
from annotator.queries.class_history import ASSIGNED, MERGED, class_history
from annotator.views import PageRequest, page
from annotator.views.choices import is_tiny
from annotator.views.reading import is_number

TEMPLATE = "classes.html"
# Examples in a line of the list, pictures to choose examples from, and changes that are told.
IN_A_LINE, TO_CHOOSE_FROM, TOLD = 4, 36, 30


@dataclass(frozen=True)
class Picture:
    """An image as a tile."""

    item: Item

    @property
    def is_tiny(self) -> bool:
        return is_tiny(self.item)


@dataclass(frozen=True)
class Row:
    """A class in the list. count: images labelled with it; examples: a few of those that show it."""

    label_class: LabelClass
    count: int
    examples: list[Picture]


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """The page; a POST changes something: ``do`` says what."""
    is_change = request.method == "POST"
    membership = get_membership(request.user, project_id, OWN if is_change else VIEW)
    if not is_change:
        chosen = request.GET.get("class", "")
        return _page(request, membership, _class(membership.project, chosen) if chosen else None)
    do = next((each for each in ("up", "down") if each in request.POST), request.POST.get("do", ""))
    try:
        change = CHANGES.get(do)
        if change is None:
            raise InvalidClass(_("%(do)s is not something to do with a class") % {"do": repr(do[:40])})
        chosen_class = change(request, membership.project)
    except WinnowError as error:
        refused = error
    else:
        if request.htmx:  # the list shows it already
            return HttpResponse(status=204)
        return _see_other(_address(membership.project, chosen_class))
    fresh = get_membership(request.user, project_id, OWN)
    raw = request.POST.get("class", "")
    found = fresh.project.classes.filter(pk=int(raw)).first() if is_number(raw) else None
    return _page(request, fresh, found, error=refused)


def _address(project: Project, label_class: LabelClass | None) -> str:
    here = reverse("project-classes", args=[project.pk])
    return f"{here}?class={label_class.pk}#class-{label_class.pk}" if label_class else here


# --- the changes: each answers the class to show next ---------------------------------------------------------------


def _add(request: PageRequest, project: Project) -> LabelClass | None:
    names = [line.strip() for line in request.POST.get("names", "").splitlines() if line.strip()]
    if not names:
        raise InvalidClass(_("write at least one class name"))
    made = classes.add_classes(project=project, actor=request.user, names=names)
    if len(made) == 1:
        return made[0]
    messages.success(request, ngettext("%(n)s class added.", "%(n)s classes added.", len(made)) % {"n": len(made)})
    return None


def _update(request: PageRequest, project: Project) -> LabelClass:
    columns = ("name", "colour", "shortcut", "description")
    return classes.update_class(
        label_class=_posted(request, project),
        actor=request.user,
        **{name: request.POST[name] for name in columns if name in request.POST},
    )


def _archive(request: PageRequest, project: Project) -> None:
    classes.archive_class(label_class=_posted(request, project), actor=request.user, archived=True)


def _restore(request: PageRequest, project: Project) -> LabelClass:
    return classes.archive_class(label_class=_posted(request, project), actor=request.user, archived=False)


def _move(request: PageRequest, project: Project) -> LabelClass:
    """A button of the list names the class itself: ``up=5``."""
    up = "up" in request.POST or request.POST.get("do") == "up"
    raw = request.POST.get("up" if up else "down") or request.POST.get("class", "")
    label_class = _class(project, raw)
    classes.move_class(label_class=label_class, actor=request.user, up=up)
    return label_class


def _place(request: PageRequest, project: Project) -> LabelClass:
    label_class, before = _posted(request, project), request.POST.get("before", "")
    classes.place_class(
        label_class=label_class, actor=request.user, before=_class(project, before) if before else None
    )
    return label_class


def _merge(request: PageRequest, project: Project) -> LabelClass:
    source, target = _posted(request, project), _class(project, request.POST.get("into", ""))
    event = merging.merge_classes(project=project, actor=request.user, source_id=source.pk, target_id=target.pk)
    said = ngettext(
        "%(name)s is merged into %(into)s; %(n)s answer counts there now. The history below takes it back.",
        "%(name)s is merged into %(into)s; %(n)s answers count there now. The history below takes it back.",
        event.detail["answers"],
    )
    messages.success(request, said % {"name": source.name, "into": target.name, "n": f"{event.detail['answers']:,}"})
    return target


def _nominate(request: PageRequest, project: Project) -> LabelClass:
    label_class = _posted(request, project)
    classes.add_examples(label_class=label_class, actor=request.user, item_ids=_items(request))
    return label_class


def _withdraw(request: PageRequest, project: Project) -> LabelClass:
    label_class = _posted(request, project)
    classes.remove_examples(label_class=label_class, actor=request.user, item_ids=_items(request))
    return label_class


CHANGES: dict[str, Callable[[PageRequest, Project], LabelClass | None]] = {
    "add": _add,
    "update": _update,
    "archive": _archive,
    "restore": _restore,
    "up": _move,
    "down": _move,
    "place": _place,
    "merge": _merge,
    "nominate": _nominate,
    "withdraw": _withdraw,
}


def _posted(request: PageRequest, project: Project) -> LabelClass:
    return _class(project, request.POST.get("class", ""))


def _class(project: Project, raw: str) -> LabelClass:
    found = project.classes.filter(pk=int(raw)).first() if is_number(raw) else None
    if found is None:
        raise NotFound(_("there is no class %(id)s in this project; reload the page") % {"id": repr(raw[:40])})
    return found


def _items(request: PageRequest) -> list[int]:
    raw = request.POST.getlist("item")
    if not raw or not all(is_number(each) for each in raw):
        raise InvalidClass(_("tick at least one image"))
    return [int(each) for each in raw]


# --- taking something back ------------------------------------------------------------------------------------------


@require_POST
@page
def undo(request: PageRequest, project_id: int) -> HttpResponse:
    """Take back a merge (owners), or a screenful of images that got a class (who gave it, and owners)."""
    membership = get_membership(request.user, project_id, LABEL)
    project, is_owner = membership.project, allows(membership.role, OWN)
    said = take_back(project, request.user, request.POST.get("event", ""), is_owner=is_owner)
    messages.success(request, said)
    return _see_other(_back(request, project))


def take_back(project: Project, actor: Any, raw: str, *, is_owner: bool) -> str:
    """Undo this change; what that did, in a sentence. Raises NotFound, NotAllowed, Conflict."""
    if not is_number(raw):
        raise InvalidClass(_("say which change is taken back; reload the page"))
    event = AuditEvent.objects.filter(project=project, pk=int(raw)).first()
    if event is None or event.verb not in (MERGED, ASSIGNED):
        raise NotFound(_("there is no change %(id)s of classes to take back") % {"id": repr(raw[:40])})
    if event.verb == ASSIGNED:
        n = assigning.take_assignment_back(project=project, actor=actor, event_id=event.pk, is_owner=is_owner)
        return ngettext("%(n)s image is what it was.", "%(n)s images are what they were.", n) % {"n": f"{n:,}"}
    if not is_owner:
        raise NotAllowed(_("this needs the role owner; only owners merge classes and take that back"))
    taken = merging.take_merge_back(project=project, actor=actor, event_id=event.pk)
    return ngettext(
        "%(name)s is a class of its own again, with %(n)s answer.",
        "%(name)s is a class of its own again, with %(n)s answers.",
        taken.detail["answers"],
    ) % {"name": taken.detail["name"], "n": f"{taken.detail['answers']:,}"}


def _back(request: PageRequest, project: Project) -> str:
    """To where the button was, on this project's class pages."""
    here = reverse("project-classes", args=[project.pk])
    back = request.POST.get("back", "")
    return back if back.startswith(here) and "\n" not in back and "\r" not in back else f"{here}#history"


# --- the page -------------------------------------------------------------------------------------------------------


def _page(
    request: HttpRequest, membership: Membership, chosen: LabelClass | None, *, error: WinnowError | None = None
) -> HttpResponse:
    """The list, the chosen class in full, and the history; after a refusal the refused form as it was sent."""
    project = membership.project
    is_owner = allows(membership.role, OWN)
    counts = {each.pk: n for each, n in queries.class_balance(project)}
    every_class = list(project.classes.select_related("merged_into"))
    shown = _examples(project)
    rows = [
        Row(each, counts.get(each.pk, 0), shown.get(each.pk, [])[:IN_A_LINE])
        for each in every_class
        if not each.is_archived
    ]
    do = request.POST.get("do", "") if error else ""
    pool = queries.pool_counts(project)
    context: dict[str, Any] = {
        "project": project,
        "membership": membership,
        "is_owner": is_owner,
        "may_review": allows(membership.role, REVIEW),
        "may_label": allows(membership.role, LABEL),
        "rows": rows,
        "archived": [each for each in every_class if each.is_archived],
        "none_of_these": sum(pool[split]["none_of_these"] for split in (Split.POOL, Split.AUDIT)),
        "has_images": any(sum(each.values()) for each in pool.values()),
        "chosen": chosen,
        "chosen_count": counts.get(chosen.pk, 0) if chosen else 0,
        "error": error,
        "do": do,
        "posted": request.POST if error else {},
        "history": class_history(project, TOLD),
        "examples_at_most": classes.EXAMPLES_AT_MOST,
    }
    if chosen is not None:
        context |= _in_full(project, chosen, shown.get(chosen.pk, []), is_owner)
    return render(request, TEMPLATE, context, status=error.status if error else 200)


def _examples(project: Project) -> dict[int, list[Picture]]:
    """What may be seen with each class; no random check, test image, or image that somebody is asked about blind."""
    nominated = (
        ClassExample.objects.filter(label_class__project=project, item__split=Split.POOL)
        .exclude(item__queue_entry__reason_code__in=queries.BLIND)
        .select_related("item")
    )
    shown: dict[int, list[Picture]] = {}
    for example in nominated:
        shown.setdefault(example.label_class_id, []).append(Picture(example.item))
    return shown


def _in_full(project: Project, chosen: LabelClass, examples: list[Picture], is_owner: bool) -> dict[str, Any]:
    others = [each for each in queries.open_classes(project) if each != chosen]
    context: dict[str, Any] = {"examples": examples, "others": others, "room": 0, "pictures": []}
    if is_owner and not chosen.is_archived:
        labelled = queries.groupable_items(project, f"class:{chosen.pk}")
        labelled = labelled.exclude(pk__in=chosen.examples.values("item"))
        context["pictures"] = [Picture(item) for item in labelled.order_by("-pk")[:TO_CHOOSE_FROM]]
        context["room"] = max(0, classes.EXAMPLES_AT_MOST - chosen.examples.count())
    return context


def _see_other(url: str) -> HttpResponse:
    response = redirect(url)
    response.status_code = 303
    return response
