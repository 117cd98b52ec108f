"""Proposals and decisions."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import REVIEW
from annotator.actions import reviewing
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Proposal


@extend_schema(tags=["review"])
class Proposals(Listing):
    @extend_schema(
        parameters=[shapes.ProposalFilter],
        responses=shapes.ProposalShape(many=True),
        operation_id="proposals_list",
    )
    def get(self, request: Request, project_id: int) -> Response:
        """Pseudo-labels, the pending ones unless another state is asked for."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(shapes.ProposalFilter, request.query_params)
        rows = Proposal.objects.select_related("item", "model_version", "decided_by")
        rows = rows.filter(project=project, state=wanted["state"])
        if "class" in wanted:
            rows = rows.filter(label_class_id=wanted["class"])
        return self.page_of(request, rows, shapes.ProposalShape)


@extend_schema(tags=["review"])
class ProposalsDecide(Endpoint):
    @extend_schema(request=shapes.NewDecision, responses=shapes.DecisionShape)
    def post(self, request: Request, project_id: int) -> Response:
        """Accept, reject and correct proposals in one transaction. What conflicts is left alone and named."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(shapes.NewDecision, request.data)
        decision = reviewing.decide(project=project, reviewer=person(request), **wanted)
        return Response(shapes.DecisionShape(decision).data)


@extend_schema(tags=["review"])
class ProposalsUndo(Endpoint):
    @extend_schema(request=shapes.DecisionUndo, responses=shapes.Counted)
    def post(self, request: Request, project_id: int) -> Response:
        """Take back a decision of yours."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(shapes.DecisionUndo, request.data)
        undone = reviewing.undo_decision(project=project, reviewer=person(request), event_id=wanted["event"])
        return Response({"count": undone})
