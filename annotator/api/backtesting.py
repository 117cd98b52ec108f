"""Back-tests: how many answers would it have taken?"""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import REVIEW
from annotator.actions import backtesting
from annotator.api import backtesting_shapes as shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Job


@extend_schema(tags=["back-test"])
class BackTests(Listing):
    @extend_schema(responses=shapes.BackTestShape(many=True), operation_id="back_tests_list")
    def get(self, request: Request, project_id: int) -> Response:
        """The back-tests of the project, oldest first, with what they found."""
        project = access.get_project(person(request), project_id)
        rows = Job.objects.select_related("created_by").filter(project=project, kind=Job.Kind.BACK_TEST)
        return self.page_of(request, rows, shapes.BackTestShape)

    @extend_schema(request=shapes.BackTestRequest, responses={202: shapes.BackTestShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Run the loop again where the answers are known, and compare acquisition functions, heads and gates on paired
        seeds. Answers the job that does it. 409 while answers are missing for it, or when another back-test waits."""
        project = access.get_project(person(request), project_id, REVIEW)
        usual = project.settings
        chosen: dict[str, Any] = {
            "head": [usual.head],
            "target_precision": [usual.target_precision],
            "confidence": usual.certificate_confidence,
            "threshold_per_class": usual.threshold_per_class,
        }
        wish = backtesting.Wish(**chosen | read(shapes.BackTestRequest, request.data))
        job = backtesting.request_back_test(project=project, actor=person(request), wish=wish)
        return Response(shapes.BackTestShape(job).data, status=202)


@extend_schema(tags=["back-test"])
class BackTestPoints(Endpoint):
    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, project_id: int, job_id: int) -> Response:
        """Every point of a back-test that is done, as `simulate --json` writes it: `source`, `n_pool`, `n_test`,
        `classes`, `runs`, `summary`."""
        return Response(backtesting.points(access.get_job(person(request), project_id, job_id)))
