"""The dashboard's panel on what questions are for: the share of each need, asked for and served, and why it is not."""

from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator.access import LABEL, OWN, REVIEW, allows
from annotator.actions import certifying, round_checks, shares
from annotator.actions.shares import Reason
from annotator.models import Annotation, Item, Membership, Project, ProjectSettings, QueueEntry, Split, Suspect
from annotator.wording import percent, thousands

_SHARES = {
    Reason.AUDIT: "audit_share",
    Reason.BASELINE: "baseline_share",
    Reason.SECOND_OPINION: "second_opinion_share",
    Reason.SUSPECT: "suspect_share",
    Reason.AUTOMATIC: "automatic_share",
}
# Each need is called here what it is called where its share is set.
_CALLED = {each.name: each.metadata["title"] for each in fields(ProjectSettings)}
TITLES = {need: _CALLED[name] for need, name in _SHARES.items()}
# Labels that are looked at for one that waits for a second opinion, the newest images first.
LOOKED_AT = 1000


@dataclass(frozen=True)
class NeedRow:
    """One need. share, served: of the answers, in words; count: answers of those that are looked back at; lack: why
    it gets less than its share, or other things to know; empty when there are none. may_decide: whether this person
    can settle what nobody is left to be asked about."""

    title: str
    share: str
    served: str
    count: int
    lack: str
    may_decide: bool = False


def panel(membership: Membership) -> dict[str, Any]:
    """The context of templates/needs.html. Ten to twelve queries."""
    project = membership.project
    answers = shares.newest_answers(project)[-shares.WINDOW :]
    wanted = shares.shares(project.settings, is_round_running=round_checks.running(project) is not None)
    given = Counter(each.reason if each.reason in wanted else "" for each in answers)
    labellers = {each.user_id for each in Membership.objects.filter(project=project) if allows(each.role, LABEL)}
    disputed = disputes(project, labellers)
    lacks = {
        Reason.AUDIT: _lack_of_checks(project),
        Reason.BASELINE: _lack_of_open_images(project),
        Reason.SECOND_OPINION: _lack_of_second_opinions(project, labellers, *disputed),
        Reason.SUSPECT: _lack_of_suspects(project),
        Reason.AUTOMATIC: _lack_of_automatic_labels(project),
    }
    rows = [_row(_(title), wanted[need], given[need], len(answers), lacks[need]) for need, title in TITLES.items()]
    if allows(membership.role, REVIEW) and disputed[1]:
        at = list(TITLES).index(Reason.SECOND_OPINION)
        rows[at] = replace(rows[at], may_decide=rows[at].lack != "")
    rest = max(0.0, 1.0 - sum(wanted.values()))
    return {
        "needs": [_row(_("What teaches the model most"), rest, given[""], len(answers), ""), *rows],
        "needs_answers": len(answers),
        "needs_window": shares.WINDOW,
        "may_set_needs": allows(membership.role, OWN),
    }


def _row(title: str, share: float, count: int, answers: int, lack: str) -> NeedRow:
    lack = _("Switched off.") if share == 0 else lack
    return NeedRow(title, percent(share, 1 if share * 100 % 1 > 1e-6 else 0), _part(count, answers), count, lack)


def _part(count: int, answers: int) -> str:
    return percent(count / answers, 1) if answers else "–"


def _lack_of_checks(project: Project) -> str:
    checks = Item.objects.filter(project=project, split=Split.AUDIT)
    if checks.filter(state=Item.State.OPEN).exists():
        return ""
    return (
        _("Nothing to ask: every random check is answered.")
        if checks.exists()
        else _("Nothing to ask: none are drawn.")
    )


def _lack_of_open_images(project: Project) -> str:
    if round_checks.running(project):
        return _("Paused while a round of checks sets images aside: the others are no sample of the pool.")
    there = Item.objects.filter(project=project, split=Split.POOL, state=Item.State.OPEN).exists()
    return "" if there else _("Nothing to ask: no image of the pool is open.")


def _lack_of_second_opinions(project: Project, labellers: set[int], disputed: int, unsettled: int) -> str:
    """What is disputed, and whether anybody is left who can be asked."""
    said = ""
    if disputed:
        said = ngettext(
            "%(n)s image is disputed and not learnt from.", "%(n)s images are disputed and not learnt from.", disputed
        ) % {"n": thousands(disputed)}
    if unsettled:
        nobody = (
            _("Nobody else to ask about it: everybody who labels here has answered.")
            if disputed == 1
            else _("Nobody else to ask about them: everybody who labels here has answered.")
            if unsettled == disputed
            else _("Nobody else to ask about %(n)s of them: everybody who labels here has answered.")
        )
        said = f"{said} {nobody % {'n': thousands(unsettled)}}"
    if said:
        return said
    answered = _answered_once(project)
    if len(labellers) < 2 and not any(who not in labellers for who in answered):
        return _("Nobody else to ask: it takes a second person who labels.")
    if not answered:
        return _("Nothing to ask: no label waits for a second opinion.")
    return ""


def disputes(project: Project, labellers: set[int]) -> tuple[int, int]:
    """How many items people disagree about, and about how many of them nobody of these can be asked. Two queries."""
    waiting = QueueEntry.objects.filter(project=project, reason_code=Reason.SECOND_OPINION)
    disputed = list(waiting.filter(reason_data__has_key="people").values_list("item_id", flat=True))
    given: dict[int, set[int]] = {item_id: set() for item_id in disputed}
    current = Annotation.objects.filter(item__in=disputed, superseded_by__isnull=True)
    for item_id, person in current.exclude(kind=Annotation.Kind.RETRACTION).values_list("item_id", "annotator_id"):
        given[item_id].add(person)
    return len(disputed), sum(labellers <= people for people in given.values())


def _answered_once(project: Project) -> set[int]:
    """Who labelled the newest images that one person alone labelled. One query."""
    newest = Item.objects.filter(project=project, state=Item.State.LABELLED).exclude(split=Split.TEST).order_by("-pk")
    current = Annotation.objects.filter(item__in=newest.values("pk")[:LOOKED_AT], superseded_by__isnull=True)
    by_item: dict[int, list[tuple[int, str]]] = {}
    rows = current.exclude(kind=Annotation.Kind.RETRACTION).values_list("item_id", "annotator_id", "source")
    for item_id, person, source in rows:
        by_item.setdefault(item_id, []).append((person, source))
    once = (given[0] for given in by_item.values() if len(given) == 1)
    return {person for person, source in once if source == Annotation.Source.PERSON}


def _lack_of_suspects(project: Project) -> str:
    waiting = Suspect.objects.filter(project=project, state=Suspect.State.OPEN, item__split=Split.POOL)
    return "" if waiting.exists() else _("Nothing to ask: no label is suspected.")


def _lack_of_automatic_labels(project: Project) -> str:
    going = round_checks.progress(project)
    if going is not None and going.missing:
        waits = _("Round %(number)s waits for %(n)s of these; a larger share has them sooner.")
        return waits % {"number": going.round.number, "n": thousands(going.missing)}
    if going is None and not certifying.accepted_unseen(project).exists():
        return _("Nothing to ask: no label is accepted unseen.")
    return ""
