"""Labels leave."""

from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from annotator import access
from annotator.actions import exporting
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, person, read

FILES = {(200, kind.content_type.partition(";")[0]): OpenApiTypes.BINARY for kind in exporting.FORMATS.values()}


@extend_schema(tags=["export"])
class Export(Endpoint):
    @extend_schema(parameters=[shapes.ExportQuery], responses=FILES)
    def get(self, request: Request, project_id: int) -> StreamingHttpResponse:
        """The labels as a file, one row for each image with where its label came from."""
        project = access.get_project(person(request), project_id)
        wanted = read(shapes.ExportQuery, request.query_params)
        pieces = exporting.export(project=project, format_name=wanted["format"], include=wanted["include"].split(","))
        name = exporting.file_name(project, wanted["format"])
        return StreamingHttpResponse(
            pieces,
            content_type=exporting.FORMATS[wanted["format"]].content_type,
            headers={
                "Content-Disposition": content_disposition_header(True, name) or "",
                "Cache-Control": "private, no-store",
            },
        )
