"""What is accepted unseen: the certificates, where the gate stands, more random checks, and rounds of them."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import OWN
from annotator.actions import certifying, rounds
from annotator.actions.gate import gate_of
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Certificate, Round


@extend_schema(tags=["certify"])
class Gate(Endpoint):
    @extend_schema(responses=shapes.GateShape)
    def get(self, request: Request, project_id: int) -> Response:
        """The three bands of the open pool, and how many random checks the next look waits for. Set by the project's
        settings `auto_accept`, `target_precision`, `certificate_confidence` and `threshold_per_class`."""
        project = access.get_project(person(request), project_id)
        return Response(shapes.GateShape(gate_of(project)).data)


@extend_schema(tags=["certify"])
class Certificates(Listing):
    @extend_schema(responses=shapes.CertificateShape(many=True), operation_id="certificates_list")
    def get(self, request: Request, project_id: int) -> Response:
        """Every certificate given, oldest first, with what became of it. The labels accepted under it are proposals in
        the state `auto_accepted`."""
        project = access.get_project(person(request), project_id)
        rows = Certificate.objects.filter(project=project).select_related(
            "look__model_version", "round__model_version"
        )
        return self.page_of(request, rows, shapes.CertificateShape)


@extend_schema(tags=["certify"])
class Checks(Endpoint):
    @extend_schema(request=shapes.NewChecks, responses={201: shapes.Counted})
    def post(self, request: Request, project_id: int) -> Response:
        """Draw images of the pool at random to become random checks. Owners only. 409 for more than half of what is
        open."""
        project = access.get_project(person(request), project_id, OWN)
        wanted = read(shapes.NewChecks, request.data)
        drawn = certifying.draw_checks(project=project, actor=person(request), count=wanted["count"])
        return Response({"count": drawn}, status=201)


@extend_schema(tags=["certify"])
class Rounds(Listing):
    @extend_schema(responses=shapes.RoundShape(many=True), operation_id="rounds_list")
    def get(self, request: Request, project_id: int) -> Response:
        """Every certification round, oldest first. How far the running one is, and what the next could be about, is at
        `gate/`."""
        project = access.get_project(person(request), project_id)
        return self.page_of(
            request, Round.objects.filter(project=project).select_related("model_version"), shapes.RoundShape
        )

    @extend_schema(request=shapes.NewRound, responses={201: shapes.RoundShape}, operation_id="rounds_start")
    def post(self, request: Request, project_id: int) -> Response:
        """Start a round over the region proposed. Owners only. 409 while one runs and where no model proposes a
        region, 422 for too few or too many checks. It spends a part of the error, however it ends."""
        project = access.get_project(person(request), project_id, OWN)
        wanted = read(shapes.NewRound, request.data)
        drawn = rounds.start_round(project=project, actor=person(request), count=wanted.get("count"))
        return Response(shapes.RoundShape(drawn).data, status=201)


@extend_schema(tags=["certify"])
class CancelRound(Endpoint):
    @extend_schema(request=None, responses=shapes.RoundShape)
    def post(self, request: Request, project_id: int, round_id: int) -> Response:
        """End a running round before its time. Owners only. What it spent of the error stays spent."""
        project = access.get_project(person(request), project_id, OWN)
        drawn = rounds.cancel_round(project=project, actor=person(request), round_id=round_id)
        return Response(shapes.RoundShape(drawn).data)
