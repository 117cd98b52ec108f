"""What a merge of classes means for the answers beside it: none slips through, and what comes later counts there too.

An answer that names a merged class is stored as it was given, and behind it a copy that names the class it was merged
into, with the same time: who said what stays true, and taking the merge back finds all that it moved.
"""

import uuid as uuids
from typing import Any

from django.db import connection

from annotator import task_types
from annotator.models import Annotation, AuditEvent, LabelClass, Project

# The first lock of all: before the project's row, uuids, items, proposals and the queue.
CLASS_LOCK = 1012
MERGED = "merged a class"


def hold_classes(project: Project) -> None:
    """Until this transaction ends no class of the project is merged; whoever writes answers takes it, all at once.

    Before any other lock: a merge that waits for it holds nothing that an answer waits for.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [CLASS_LOCK, project.pk])


def seize_classes(project_id: int) -> None:
    """Wait until nobody writes an answer, and let nobody until this transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [CLASS_LOCK, project_id])


def merged_into(project: Project) -> dict[int, int]:
    """Each merged class with the one its answers count as now, at the end of the chain. One query."""
    merged = project.classes.filter(merged_into__isnull=False)
    next_ids: dict[int, int] = {each.pk: each.merged_into_id or 0 for each in merged}
    ends = {}
    for class_id in next_ids:
        end = class_id
        while end in next_ids:
            end = next_ids[end]
        ends[class_id] = end
    return ends


def naming(project: Project, class_id: int) -> dict[str, Any]:
    """The value that names this class, open or not."""
    return dict(task_types.get(project.task_type).clean(class_id, [class_id]))


def follow(answer: Annotation) -> Annotation:
    """The answer as it counts now: itself, or the last of the copies that are written behind it, one for each merge of
    the class it names. One query where it names none that was merged. The caller holds the classes and the item.

    A rejection stays what it is: who said that it is not the one may have meant the other."""
    if answer.value is None or answer.kind == Annotation.Kind.REJECTION:
        return answer
    task_type = task_types.get(answer.project.task_type)
    while True:
        (class_id,) = task_type.class_ids(answer.value)
        named = LabelClass.objects.filter(pk=class_id, merged_into__isnull=False).first()
        if named is None or named.merged_into_id is None:
            return answer
        merges = AuditEvent.objects.filter(project=answer.project_id, verb=MERGED, detail__class=class_id)
        answer = moved(answer, named.merged_into_id, merges.order_by("-pk").first())


def moved(answer: Annotation, class_id: int, by: AuditEvent | None) -> Annotation:
    """A copy behind this current answer that names another class, as old as the answer is."""
    return copied(answer, behind=answer, value=naming(answer.project, class_id), moved_by=by)


def copied(answer: Annotation, *, behind: Annotation, **columns: Any) -> Annotation:
    """A copy of an answer at the end of its chain, with the time it was given at and these columns changed."""
    copy = Annotation.objects.get(pk=answer.pk)
    copy.pk, copy.uuid, copy.supersedes = None, uuids.uuid4(), behind
    for name, value in columns.items():
        setattr(copy, name, value)
    copy._state.adding = True
    copy.save()
    # It was given then; auto_now_add cannot be told so.
    Annotation.objects.filter(pk=copy.pk).update(created_at=answer.created_at)
    copy.created_at = answer.created_at
    return copy
