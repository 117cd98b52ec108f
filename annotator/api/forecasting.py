"""What the next answers are worth."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.actions import forecasting
from annotator.api.endpoint import Endpoint, person
from annotator.api.forecast_shapes import OutlookShape


@extend_schema(tags=["learn"])
class Forecast(Endpoint):
    @extend_schema(responses=OutlookShape)
    def get(self, request: Request, project_id: int) -> Response:
        """What more answers are expected to bring, whether to go on, the errors left, what choosing the questions
        gained, and how long the rest takes at your pace. Studied anew when the answers have grown by 15 %."""
        project = access.get_project(person(request), project_id)
        return Response(OutlookShape(forecasting.outlook(project, person(request))).data)
