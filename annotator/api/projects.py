"""Projects."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import OWN
from annotator.actions import projects as actions
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Project


def _shown(request: Request, project: Project) -> dict[str, object]:
    return dict(shapes.ProjectShape(project, context={"request": request}).data)


@extend_schema(tags=["projects"])
class Projects(Listing):
    @extend_schema(responses=shapes.ProjectShape(many=True), operation_id="projects_list")
    def get(self, request: Request) -> Response:
        """The projects you are a member of."""
        rows = access.visible_projects(person(request)).prefetch_related("classes")
        return self.page_of(request, rows, shapes.ProjectShape)

    @extend_schema(request=shapes.NewProject, responses={201: shapes.ProjectShape})
    def post(self, request: Request) -> Response:
        """Create a project; you become its owner."""
        wanted = read(shapes.NewProject, request.data)
        project = actions.create_project(
            owner=person(request),
            name=wanted["name"],
            class_names=wanted["classes"],
            instructions=wanted["instructions"],
        )
        return Response(_shown(request, project), status=201)


@extend_schema(tags=["projects"])
class OneProject(Endpoint):
    @extend_schema(responses=shapes.ProjectShape)
    def get(self, request: Request, project_id: int) -> Response:
        """A project with its classes and settings."""
        return Response(_shown(request, access.get_project(person(request), project_id)))

    @extend_schema(request=shapes.ProjectChange, responses=shapes.ProjectShape)
    def patch(self, request: Request, project_id: int) -> Response:
        """Change name, instructions or some of the settings. Owners only."""
        project = access.get_project(person(request), project_id, OWN)
        wanted = read(shapes.ProjectChange, request.data)
        actions.save_settings(project=project, actor=person(request), raw=wanted.pop("settings", {}), **wanted)
        return Response(_shown(request, project))
