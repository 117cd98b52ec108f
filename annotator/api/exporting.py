"""Labels leave, and the model."""

from django.http import FileResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import REVIEW
from annotator.actions import exporting, packaging
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


@extend_schema(tags=["export"])
class ModelPackage(Endpoint):
    @extend_schema(request=shapes.PackageRequest, responses={202: shapes.JobShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Package the model to run without Winnow. Answers the job that does it; fetch the zip under the job's number
        once that is done. 409 while something is missing for it, or when another package is being made."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(shapes.PackageRequest, request.data)
        job = packaging.request_package(project=project, actor=person(request), **wanted)
        return Response(shapes.JobShape(job).data, status=202)


@extend_schema(tags=["export"])
class ModelFile(Endpoint):
    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, project_id: int, job_id: int) -> FileResponse:
        """The zip this job made: weights, ONNX graph, classes, calibration and a script. 409 until it is done."""
        job = access.get_job(person(request), project_id, job_id)
        zipped = packaging.open_package(job)
        return FileResponse(
            zipped,
            as_attachment=True,
            filename=packaging.file_name(job),
            content_type="application/zip",
            headers={"Cache-Control": "private, no-store"},
        )
