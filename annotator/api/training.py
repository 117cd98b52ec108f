"""Jobs, models and how far the work is."""

from dataclasses import asdict

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access, jobs, queries
from annotator.access import REVIEW
from annotator.actions import comparing, training
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Job, ModelVersion


@extend_schema(tags=["learn"])
class Jobs(Listing):
    @extend_schema(parameters=[shapes.JobFilter], responses=shapes.JobShape(many=True), operation_id="jobs_list")
    def get(self, request: Request, project_id: int) -> Response:
        """Everything long, oldest first."""
        project = access.get_project(person(request), project_id)
        wanted = read(shapes.JobFilter, request.query_params)
        rows = Job.objects.select_related("created_by").filter(project=project, **wanted)
        return self.page_of(request, rows, shapes.JobShape)


@extend_schema(tags=["learn"])
class OneJob(Endpoint):
    @extend_schema(responses=shapes.JobShape)
    def get(self, request: Request, project_id: int, job_id: int) -> Response:
        """A job: its state, its progress 0..1, and how it ended."""
        return Response(shapes.JobShape(access.get_job(person(request), project_id, job_id)).data)


@extend_schema(tags=["learn"])
class JobCancel(Endpoint):
    @extend_schema(request=None, responses={202: shapes.JobShape})
    def post(self, request: Request, project_id: int, job_id: int) -> Response:
        """Ask a job to stop; a running one does so at its next step."""
        job = access.get_job(person(request), project_id, job_id, REVIEW)
        jobs.cancel(job)
        job.refresh_from_db()
        return Response(shapes.JobShape(job).data, status=202)


@extend_schema(tags=["learn"])
class Refit(Endpoint):
    @extend_schema(request=None, responses={202: shapes.JobShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Learn and rank now. Answers the job that does it."""
        project = access.get_project(person(request), project_id, REVIEW)
        job = training.request_refit(project=project, actor=person(request))
        return Response(shapes.JobShape(job).data, status=202)


@extend_schema(tags=["learn"])
class Train(Endpoint):
    @extend_schema(request=shapes.TrainingRequest, responses={202: shapes.JobShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Train a network on the pool. Answers the job that does it; the network takes over if it is no worse on the
        random checks. 409 while something is missing for it, or when another training waits."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(shapes.TrainingRequest, request.data)
        job = training.request_training(project=project, actor=person(request), **wanted)
        return Response(shapes.JobShape(job).data, status=202)


@extend_schema(tags=["learn"])
class Compare(Endpoint):
    @extend_schema(request=shapes.ComparisonRequest, responses={202: shapes.JobShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Compare the encoders on the answers there are. Answers the job that does it; its result says as `encoders`
        how well each does, with intervals, and which is recommended. 409 while something is missing for it, or when
        another comparison waits. To go by it, change the setting `encoder` of the project."""
        project = access.get_project(person(request), project_id, REVIEW)
        wanted = read(shapes.ComparisonRequest, request.data)
        job = comparing.request_comparison(project=project, actor=person(request), **wanted)
        return Response(shapes.JobShape(job).data, status=202)


@extend_schema(tags=["learn"])
class Models(Listing):
    @extend_schema(responses=shapes.ModelShape(many=True), operation_id="models_list")
    def get(self, request: Request, project_id: int) -> Response:
        """The model versions, oldest first, with what was measured of each."""
        project = access.get_project(person(request), project_id)
        return self.page_of(request, ModelVersion.objects.filter(project=project), shapes.ModelShape)


@extend_schema(tags=["learn"])
class Progress(Endpoint):
    @extend_schema(responses=shapes.ProgressShape)
    def get(self, request: Request, project_id: int) -> Response:
        """How far the work is and how good the model."""
        project = access.get_project(person(request), project_id)
        shown = asdict(queries.label_progress(project, person(request))) | {
            "items": queries.pool_counts(project),
            "classes": [
                {"id": each.pk, "name": each.name, "labels": labels} for each, labels in queries.class_balance(project)
            ],
            "curve": [asdict(point) for point in queries.accuracy_curve(project)],
            "proposals": queries.proposal_precision(project),
        }
        return Response(shapes.ProgressShape(shown).data)
