"""The queue and the answers."""

from collections.abc import Iterable
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access, queries
from annotator.access import LABEL, REVIEW
from annotator.actions import labeling, queueing
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Annotation, Project, QueueEntry


def _held(request: Request, project: Project, entries: Iterable[QueueEntry]) -> list[Any]:
    names = {each.pk: each.name for each in project.classes.all()}
    context = {"request": request, "project": project, "class_names": names}
    return list(shapes.EntryShape(list(entries), many=True, context=context).data)


@extend_schema(tags=["label"])
class Queue(Endpoint):
    @extend_schema(responses=shapes.QueueShape)
    def get(self, request: Request, project_id: int) -> Response:
        """What you hold now. Takes nothing."""
        project = access.get_project(person(request), project_id, LABEL)
        return Response({"queue": _held(request, project, queries.held_entries(project, person(request)))})


@extend_schema(tags=["label"])
class QueueReserve(Endpoint):
    @extend_schema(request=shapes.Reservation, responses=shapes.QueueShape)
    def post(self, request: Request, project_id: int) -> Response:
        """Hold the next items, up to ``count`` in all. A hold lasts five minutes unless renewed."""
        project = access.get_project(person(request), project_id, LABEL)
        wanted = read(shapes.Reservation, request.data)
        entries = queueing.reserve_items(project=project, annotator=person(request), **wanted)
        return Response({"queue": _held(request, project, entries)})


@extend_schema(tags=["label"])
class QueueRenew(Endpoint):
    @extend_schema(request=None, responses=shapes.Counted)
    def post(self, request: Request, project_id: int) -> Response:
        """Keep what you hold for five more minutes."""
        project = access.get_project(person(request), project_id, LABEL)
        return Response({"count": queueing.renew_leases(project=project, annotator=person(request))})


@extend_schema(tags=["label"])
class QueueRelease(Endpoint):
    @extend_schema(request=None, responses=shapes.Counted)
    def post(self, request: Request, project_id: int) -> Response:
        """Let others have what you hold."""
        project = access.get_project(person(request), project_id, LABEL)
        return Response({"count": queueing.release_items(project=project, annotator=person(request))})


@extend_schema(tags=["label"])
class Annotations(Listing):
    @extend_schema(
        parameters=[shapes.AnnotationFilter],
        responses=shapes.AnnotationShape(many=True),
        operation_id="annotations_list",
    )
    def get(self, request: Request, project_id: int) -> Response:
        """The answers, oldest first: everybody's for reviewers and owners, your own for annotators."""
        membership = access.get_membership(person(request), project_id, LABEL)
        wanted = read(shapes.AnnotationFilter, request.query_params)
        rows = Annotation.objects.select_related("annotator").filter(project=membership.project)
        if not access.allows(membership.role, REVIEW):
            rows = rows.filter(annotator=person(request))
        if "item" in wanted:
            rows = rows.filter(item_id=wanted["item"])
        if wanted["current"]:
            rows = rows.filter(superseded_by__isnull=True)
        return self.page_of(request, rows, shapes.AnnotationShape)

    @extend_schema(request=shapes.NewAnnotation, responses=shapes.Submitted)
    def post(self, request: Request, project_id: int) -> Response:
        """Answer an item and hold the next ones, in one transaction. The same ``uuid`` again changes nothing."""
        project = access.get_project(person(request), project_id, LABEL)
        wanted = read(shapes.NewAnnotation, request.data)
        entry = QueueEntry.objects.select_related("item").filter(project=project, item_id=wanted["item"]).first()
        annotation, entries = labeling.submit_and_reserve(
            project=project,
            annotator=person(request),
            item_id=wanted["item"],
            uuid=wanted["uuid"],
            kind=wanted["kind"],
            raw_value=wanted["value"],
            milliseconds=wanted["milliseconds"],
            # What the queue showed with the item, not what the client says of it.
            suggestion_shown=entry is not None and queries.shows_hint(entry, project),
            count=wanted["reserve"],
        )
        shown = shapes.AnnotationShape(annotation).data
        return Response({"annotation": shown, "queue": _held(request, project, entries)})


@extend_schema(tags=["label"])
class AnnotationsUndo(Endpoint):
    @extend_schema(request=shapes.Undo, responses=shapes.Undone)
    def post(self, request: Request, project_id: int) -> Response:
        """Take back your newest answer and hold its item again."""
        project = access.get_project(person(request), project_id, LABEL)
        wanted = read(shapes.Undo, request.data)
        undone = labeling.undo_last(project=project, annotator=person(request), uuid=wanted["uuid"])
        held = _held(request, project, queries.held_entries(project, person(request)))
        return Response({"item": undone.item_id if undone else None, "queue": held})
