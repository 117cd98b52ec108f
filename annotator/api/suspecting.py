"""Labels that may be wrong."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import REVIEW
from annotator.api.endpoint import Listing, person, read
from annotator.api.suspecting_shapes import SuspectFilter, SuspectShape
from annotator.models import Suspect


@extend_schema(tags=["review"])
class Suspects(Listing):
    @extend_schema(parameters=[SuspectFilter], responses=SuspectShape(many=True), operation_id="suspects_list")
    def get(self, request: Request, project_id: int) -> Response:
        """Labels the others speak against, the open ones unless another state is asked for. Reviewers only: an
        annotator who knows them no longer checks blind. Settled by the next answer to the image from the queue."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(SuspectFilter, request.query_params)
        rows = Suspect.objects.filter(project=project, state=wanted["state"]).select_related("item", "annotation")
        return self.page_of(request, rows, SuspectShape)
