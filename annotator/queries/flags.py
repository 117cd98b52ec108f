"""Images that somebody wants looked at again."""

from django.db.models import QuerySet

from annotator.models import Flag, Item, Project


def raised_flags(project: Project) -> QuerySet[Flag]:
    """The flags nobody has lowered yet, the oldest first, with their images and who raised them."""
    return Flag.objects.filter(project=project, lowered_at__isnull=True).select_related("item", "raised_by")


def flagged_by(project: Project, user_id: int, item_ids: list[int]) -> set[int]:
    """Those of these images on which this person's flag is up. One query."""
    raised = Flag.objects.filter(project=project, lowered_at__isnull=True, item_id__in=item_ids)
    return set(raised.filter(raised_by_id=user_id).values_list("item_id", flat=True))


def flagged_items(project: Project) -> QuerySet[Item]:
    """The images with a raised flag of anybody, each once."""
    return Item.objects.filter(
        pk__in=Flag.objects.filter(project=project, lowered_at__isnull=True).values("item_id"), project=project
    )
