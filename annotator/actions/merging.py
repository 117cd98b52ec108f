"""Two classes that turn out to be one: every answer that names the one counts as the other, until that is taken back.

Nothing is rewritten: behind each current answer comes a copy of another value, as old as the answer is and of the same
person, which says by which merge it came about. What still arrives for the merged class goes the same way
(class_changes.py). What is no answer (proposals, labels accepted unseen, predictions that checks are held against)
gets the other class in its place: nobody said it, and a check that was wrong can only become right by it.

Locks: the classes, the project's row, the items, proposals, the queue. Whoever answers waits for the classes alone.
"""

import json
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from annotator import jobs
from annotator.actions import certifying, labeling, rounds, suspecting
from annotator.actions.class_changes import MERGED, naming, seize_classes
from annotator.actions.classes import EXAMPLES_AT_MOST, lock_project, note
from annotator.actions.proposing import lock_proposals
from annotator.errors import Conflict, NotFound
from annotator.models import (
    AuditEvent,
    Certificate,
    ClassExample,
    Item,
    Job,
    LabelClass,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Split,
    Suspect,
)

TAKEN_BACK = "took a merge back"

# A copy of current answers behind each, in one statement; which answers, and the event of the copy, as SQL.
_COPY = """
    INSERT INTO annotator_annotation (uuid, project_id, item_id, annotator_id, kind, value, source, milliseconds,
        suggestion_shown, reason_code, reason_data, moved_by_id, supersedes_id, settles_id, created_at)
    SELECT gen_random_uuid(), a.project_id, a.item_id, a.annotator_id, a.kind, %(value)s::jsonb, a.source,
        a.milliseconds, a.suggestion_shown, a.reason_code, a.reason_data, {moved_by}, a.id, a.settles_id, a.created_at
    FROM annotator_annotation a
    WHERE a.project_id = %(project)s AND {which}
        AND NOT EXISTS (SELECT FROM annotator_annotation s WHERE s.supersedes_id = a.id)
    ORDER BY a.id
"""


@transaction.atomic
def merge_classes(*, project: Project, actor: User, source_id: int, target_id: int) -> AuditEvent:
    """Make the one class part of the other; the event takes it back. The source is archived, its examples go along.

    Raises NotFound for a class that is not there; Conflict for a class and itself, a source that was merged already
    and a target that is archived. 100,000 answers take some seconds, in which nobody's answer is written.
    """
    seize_classes(project.pk)
    lock_project(project.pk)
    source, target = _class(project, source_id), _class(project, target_id)
    _refuse(source, target)
    was_archived = source.is_archived
    source.is_archived, source.merged_into = True, target
    source.save(update_fields=["is_archived", "merged_into"])
    event = note(
        project.pk, actor, MERGED, **{"class": source.pk, "name": source.name, "into": target.pk,
        "into_name": target.name, "was_archived": was_archived},
    )  # fmt: skip
    old, new = naming(project, source.pk), naming(project, target.pk)
    # Not the rejections: who said that it is not the one may have meant that it is the other.
    named = "a.value = %(old)s::jsonb AND a.kind = 'label'"
    values = {"project": project.pk, "old": json.dumps(old), "value": json.dumps(new), "event": event.pk}
    _lock_items(named, values)
    contested = _contested(named, values)
    event.detail["answers"] = _run(_COPY.format(moved_by="%(event)s", which=named), values)
    doubted = _carry_suspects_over(project)
    _doubt_no_more(project, source, target)
    lock_proposals(project)
    event.detail |= _move_unsaid(project, source.pk, target.pk)
    event.detail["examples"] = _hand_examples_on(source, target)
    _close_again(contested | doubted)
    _move_queue(project, source.pk, target.pk)
    event.save(update_fields=["detail"])
    jobs.enqueue(project, Job.Kind.REFIT)
    return event


def _class(project: Project, class_id: int) -> LabelClass:
    found = project.classes.filter(pk=class_id).first()
    if found is None:
        raise NotFound(_("there is no class %(id)s in this project; reload the page") % {"id": class_id})
    return found


def _refuse(source: LabelClass, target: LabelClass) -> None:
    """Raises Conflict. A target is open, so classes never go round in a circle."""
    names = {"name": source.name, "into": target.name}
    if source == target:
        raise Conflict(_("%(name)s cannot be merged into itself; choose another class") % names)
    if source.merged_into is not None:
        raise Conflict(
            _("%(name)s was merged into %(into)s already") % {"name": source.name, "into": source.merged_into.name}
        )
    if target.is_archived:
        raise Conflict(_("%(into)s is archived, so nothing can be merged into it; bring it back first") % names)


def _run(sql: str, values: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.rowcount


def _ids(sql: str, values: dict[str, Any]) -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return {pk for (pk,) in cursor.fetchall()}


def _lock_items(which: str, values: dict[str, Any]) -> None:
    _run(
        f"""
        SELECT FROM annotator_item WHERE id IN (
            SELECT a.item_id FROM annotator_annotation a WHERE a.project_id = %(project)s AND {which}
                AND NOT EXISTS (SELECT FROM annotator_annotation s WHERE s.supersedes_id = a.id)
        ) ORDER BY id FOR NO KEY UPDATE
        """,
        values,
    )


def _contested(which: str, values: dict[str, Any]) -> set[int]:
    """Items of these current answers about which somebody says something else at present."""
    return _ids(
        f"""
        SELECT DISTINCT a.item_id FROM annotator_annotation a JOIN annotator_annotation o ON o.item_id = a.item_id
        WHERE a.project_id = %(project)s AND {which}
            AND o.kind IN ('label', 'none_of_these') AND o.value IS DISTINCT FROM a.value
            AND NOT EXISTS (SELECT FROM annotator_annotation s WHERE s.supersedes_id = a.id)
            AND NOT EXISTS (SELECT FROM annotator_annotation s WHERE s.supersedes_id = o.id)
        """,
        values,
    )


def _carry_suspects_over(project: Project) -> set[int]:
    """What was suspected, and what settled it, is the copy of it now; the items of those. Before `_close_again`."""
    items: set[int] = set()
    for column in ("annotation_id", "settled_by_id"):
        items |= _ids(
            f"""
            UPDATE annotator_suspect s SET {column} = c.id
            FROM annotator_annotation c JOIN annotator_annotation o ON o.id = c.supersedes_id
            WHERE s.project_id = %(project)s AND o.id = s.{column} AND c.created_at = o.created_at
            RETURNING s.item_id
            """,
            {"project": project.pk},
        )
    return items


def _doubt_no_more(project: Project, source: LabelClass, target: LabelClass) -> None:
    """Labels of one of the two that were suspected to be of the other."""
    waiting = Suspect.objects.filter(project=project, state=Suspect.State.OPEN)
    waiting.filter(label_class=source).update(label_class=target)
    suspecting.drop_suspects(list(waiting.filter(label_class=target, annotation__value=naming(project, target.pk))))


def _move_unsaid(project: Project, source_id: int, target_id: int) -> dict[str, list[int]]:
    """Whatever nobody said: proposals, what was accepted unseen, what promises and rounds hold answers against. The
    ids of all three, for `take_merge_back`. The caller holds the proposals."""
    certificates = []
    for each in Certificate.objects.filter(project=project, ended_at__isnull=True):
        if each.label_class_id == source_id or source_id in each.checks.values():
            each.label_class_id = target_id if each.label_class_id == source_id else each.label_class_id
            each.checks = {pk: target_id if said == source_id else said for pk, said in each.checks.items()}
            each.save(update_fields=["label_class", "checks"])
            certificates.append(each.pk)
    going = Round.objects.filter(project=project, state=Round.State.RUNNING)
    checks = RoundCheck.objects.filter(round__in=going, predicted=source_id)
    about = going.filter(Q(label_class=source_id) | Q(pk__in=checks.values("round")))
    running = list(about.values_list("pk", flat=True))
    checks.update(predicted=target_id)
    going.filter(label_class=source_id).update(label_class=target_id)
    values = {"project": project.pk, "source": source_id, "target": target_id}
    _run(
        """
        UPDATE annotator_proposal p SET short_list = (
            SELECT jsonb_agg(jsonb_build_array(id, prob) ORDER BY prob DESC, id) FROM (
                SELECT CASE WHEN (e->>0)::bigint = %(source)s THEN %(target)s ELSE (e->>0)::bigint END AS id,
                    round(sum((e->>1)::numeric), 4) AS prob
                FROM jsonb_array_elements(p.short_list) e GROUP BY 1
            ) listed
        )
        WHERE project_id = %(project)s AND state IN ('pending', 'auto_accepted')
            AND EXISTS (SELECT FROM jsonb_array_elements(p.short_list) e WHERE (e->>0)::bigint = %(source)s)
        """,
        values,
    )
    # A withdrawn one may still be decided in a grid that is open.
    undecided = Proposal.objects.filter(
        project=project, label_class=source_id, state__in=[*Proposal.UNDECIDED, Proposal.State.WITHDRAWN]
    )
    proposals = list(undecided.values_list("pk", flat=True))
    undecided.update(label_class=target_id, value=naming(project, target_id))
    # An accepted label counts unseen under the promise of a look or round even where its own checks name others.
    held = set(certificates) | set(
        Proposal.objects.filter(pk__in=proposals, certificate__ended_at__isnull=True).values_list(
            "certificate_id", flat=True
        )
    )
    return {"proposals": proposals, "certificates": sorted(held), "rounds": running}


def _hand_examples_on(source: LabelClass, target: LabelClass) -> list[int]:
    """Show the target by the source's examples, too, as far as there is room; the ids of the new ones."""
    there = set(target.examples.values_list("item_id", flat=True))
    room = max(0, EXAMPLES_AT_MOST - len(there))
    more = source.examples.filter(item__split=Split.POOL).exclude(item_id__in=there)[:room]
    made = ClassExample.objects.bulk_create(
        ClassExample(label_class=target, item_id=each.item_id, added_by_id=each.added_by_id) for each in more
    )
    return [each.pk for each in made]


def _close_again(item_ids: Iterable[int]) -> None:
    """Bring states, disputes and suspicions of these items in line with what their answers say now."""
    for item in Item.objects.filter(pk__in=list(item_ids)).order_by("pk"):
        labeling.close_item(item, after_undo=True)


def _move_queue(project: Project, source_id: int, target_id: int) -> None:
    """What people are told of an image: no close call between a class and itself."""
    entries = QueueEntry.objects.select_for_update().filter(project=project)
    changed = []
    for entry in entries.filter(Q(reason_data__has_key="class") | Q(reason_data__has_key="classes")).order_by("pk"):
        told = entry.reason_data
        if told.get("class") == source_id:
            entry.reason_data = {**told, "class": target_id}
            changed.append(entry)
        elif any(class_id == source_id for class_id, _prob in told.get("classes", [])):
            probs: dict[int, float] = {}
            for class_id, prob in told["classes"]:
                end = target_id if class_id == source_id else class_id
                probs[end] = round(probs.get(end, 0.0) + prob, 4)
            entry.reason_data = {**told, "classes": sorted(map(list, probs.items()), key=lambda each: -each[1])}
            if len(probs) < 2 and entry.reason_code == QueueEntry.Reason.CLOSE_CALL:
                entry.reason_code = QueueEntry.Reason.UNSURE
            changed.append(entry)
    QueueEntry.objects.bulk_update(changed, ["reason_code", "reason_data"], batch_size=500)


# --- taking it back -------------------------------------------------------------------------------------------------


@transaction.atomic
def take_merge_back(*, project: Project, actor: User, event_id: int) -> AuditEvent:
    """Undo a merge as one act: the class is there again, and every answer that the merge moved, unless it was changed
    since, names it again. What was answered since in words of the other class stays with that.

    What was accepted unseen or promised of the two as one is given back to people. Raises NotFound; Conflict for one
    that was taken back already, or whose target was merged on since: that one first.
    """
    seize_classes(project.pk)
    lock_project(project.pk)
    event = AuditEvent.objects.filter(project=project, verb=MERGED, pk=event_id).first()
    if event is None:
        raise NotFound(_("there is no merge %(id)s in this project") % {"id": event_id})
    source, target = _class(project, event.detail["class"]), _class(project, event.detail["into"])
    newest = AuditEvent.objects.filter(project=project, verb=MERGED, detail__class=source.pk).order_by("-pk").first()
    if source.merged_into_id != target.pk or newest != event:
        raise Conflict(_("this merge was taken back already; nothing was changed"))
    if target.merged_into is not None:
        raise Conflict(
            _("%(name)s was merged into %(into)s since; take that back first")
            % {"name": target.name, "into": target.merged_into.name}
        )
    _open_again(source, event)
    values = {"project": project.pk, "event": event.pk, "value": json.dumps(naming(project, source.pk))}
    which = "a.moved_by_id = %(event)s"
    _lock_items(which, values)
    # As it was given, or by the merge before this one: what the newest row of that value says of itself.
    earlier = """(
        SELECT p.moved_by_id FROM annotator_annotation p
        WHERE p.item_id = a.item_id AND p.annotator_id = a.annotator_id AND p.created_at = a.created_at
            AND p.value = %(value)s::jsonb AND p.id < a.id
        ORDER BY p.id DESC LIMIT 1
    )"""
    moved = _ids(
        "SELECT item_id FROM annotator_annotation a WHERE project_id = %(project)s AND moved_by_id = %(event)s"
        " AND NOT EXISTS (SELECT FROM annotator_annotation s WHERE s.supersedes_id = a.id)",
        values,
    )
    answers = _run(_COPY.format(moved_by=earlier, which=which), values)
    doubted = _carry_suspects_over(project)
    lock_proposals(project)
    _split_unsaid(project, event, source, target, actor)
    ClassExample.objects.filter(pk__in=event.detail.get("examples", []), label_class=target).delete()
    _close_again(_answered_differently(moved) | doubted)
    taken = note(
        project.pk, actor, TAKEN_BACK, **{"event": event.pk, "class": source.pk, "name": source.name,
        "into": target.pk, "into_name": target.name, "answers": answers},
    )  # fmt: skip
    jobs.enqueue(project, Job.Kind.REFIT)
    return taken


def _open_again(source: LabelClass, event: AuditEvent) -> None:
    source.is_archived, source.merged_into = bool(event.detail["was_archived"]), None
    others = LabelClass.objects.filter(project=source.project_id, is_archived=False).exclude(pk=source.pk)
    if source.shortcut and not source.is_archived and others.filter(shortcut=source.shortcut).exists():
        source.shortcut = ""
    source.save(update_fields=["is_archived", "merged_into", "shortcut"])


def _answered_differently(item_ids: set[int]) -> set[int]:
    """Those of these items about which the current answers do not all say the same."""
    return _ids(
        """
        SELECT a.item_id FROM annotator_annotation a
        WHERE a.item_id = ANY(%(items)s) AND a.kind IN ('label', 'none_of_these')
            AND NOT EXISTS (SELECT FROM annotator_annotation s WHERE s.supersedes_id = a.id)
        GROUP BY a.item_id HAVING count(DISTINCT coalesce(a.value::text, '')) > 1
        """,
        {"items": list(item_ids)},
    )


def _split_unsaid(project: Project, event: AuditEvent, source: LabelClass, target: LabelClass, actor: User) -> None:
    """What the merge put together and nobody decided since. A promise made of the two as one is none of each."""
    why = f"{source.name} and {target.name} are two classes again"
    undecided = Proposal.objects.filter(
        pk__in=event.detail.get("proposals", []), label_class=target, decided_at__isnull=True
    )
    undecided.update(label_class=source, value=naming(project, source.pk))
    about = Q(label_class=None) | Q(label_class=target)
    certificates = Q(pk__in=event.detail.get("certificates", [])) | Q(about, created_at__gte=event.at)
    touched = certifying.standing_certificates(project).filter(certificates)
    certifying.give_back(list(touched), why=why, actor=actor)
    begun = Q(pk__in=event.detail.get("rounds", [])) | Q(about, created_at__gte=event.at)
    for drawn in Round.objects.filter(begun, project=project, state=Round.State.RUNNING):
        rounds.fail_round(drawn=drawn, why=why)
