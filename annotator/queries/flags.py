"""Images that somebody wants looked at again."""

from django.db.models import Case, Exists, OuterRef, Q, QuerySet, Value, When

from annotator.models import Flag, Item, Project, Split
from annotator.queries.reasons import asked_blind


def raised_flags(project: Project) -> QuerySet[Flag]:
    """The flags nobody has lowered yet, the oldest first, with their images and who raised them.

    hides_note: its image is asked about blind, now or yet to come; whoever may be asked must not read what it is.
    """
    raised = Flag.objects.filter(project=project, lowered_at__isnull=True).select_related("item", "raised_by")
    is_open_check = Q(item__split=Split.AUDIT, item__state=Item.State.OPEN)
    is_asked = Exists(asked_blind(project).filter(item_id=OuterRef("item_id")))
    return raised.annotate(hides_note=Case(When(is_open_check | is_asked, then=Value(True)), default=Value(False)))


def flagged_by(project: Project, user_id: int, item_ids: list[int]) -> set[int]:
    """Those of these images on which this person's flag is up. One query."""
    raised = Flag.objects.filter(project=project, lowered_at__isnull=True, item_id__in=item_ids)
    return set(raised.filter(raised_by_id=user_id).values_list("item_id", flat=True))


def flagged_items(project: Project) -> QuerySet[Item]:
    """The images with a raised flag of anybody, each once."""
    return Item.objects.filter(
        pk__in=Flag.objects.filter(project=project, lowered_at__isnull=True).values("item_id"), project=project
    )
