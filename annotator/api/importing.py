"""Images come in."""

from typing import Any

from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import OWN
from annotator.actions import importing
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, person, read
from annotator.uploads import ClosingUploadHandler


@extend_schema(tags=["import"])
class Imports(Endpoint):
    parser_classes = (MultiPartParser,)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """Before anything reads the body: the session's CSRF check does so first."""
        request.upload_handlers = [ClosingUploadHandler(request)]
        answer: Request = super().initialize_request(request, *args, **kwargs)
        return answer

    @extend_schema(request=shapes.NewImport, responses={202: shapes.JobShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Send images and zip files. Answers the job that imports them; its result is the report."""
        project = access.get_project(person(request), project_id, OWN)
        wanted = read(shapes.NewImport, request.data)
        job = importing.start_upload_import(
            project=project,
            actor=person(request),
            uploads=wanted["files"],
            labels=wanted["labels"],
            label_table=wanted["label_table"],
        )
        return Response(shapes.JobShape(job).data, status=202)
