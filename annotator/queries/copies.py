"""Answers that were moved with their class: one answer, several rows of the same time."""

from django.db.models import F, QuerySet

from annotator.models import Annotation


def once_each(answers: QuerySet[Annotation]) -> QuerySet[Annotation]:
    """Each answer once, as it counts now: without the rows behind which a merge of classes, or its undo, put a copy.

    For counting and comparing what was ever said; where only current answers are wanted there are no two.
    """
    return answers.exclude(superseded_by__created_at=F("created_at"))
