"""Projects and their classes."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access
from annotator.access import OWN
from annotator.actions import classes
from annotator.actions import projects as actions
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.errors import NotFound
from annotator.models import LabelClass, Project


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


@extend_schema(tags=["projects"])
class Classes(Endpoint):
    @extend_schema(responses=shapes.ClassShape(many=True), operation_id="classes_list")
    def get(self, request: Request, project_id: int) -> Response:
        """All classes in their order, archived ones included."""
        project = access.get_project(person(request), project_id)
        return Response(shapes.ClassShape(project.classes.all(), many=True).data)

    @extend_schema(request=shapes.NewClass, responses={201: shapes.ClassShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Add a class at the end. Owners only."""
        project = access.get_project(person(request), project_id, OWN)
        label_class = classes.add_class(project=project, actor=person(request), **read(shapes.NewClass, request.data))
        return Response(shapes.ClassShape(label_class).data, status=201)


@extend_schema(tags=["projects"])
class OneClass(Endpoint):
    @extend_schema(request=shapes.ClassChange, responses=shapes.ClassShape)
    def patch(self, request: Request, project_id: int, class_id: int) -> Response:
        """Rename, recolour, describe, or give another key. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        wanted = read(shapes.ClassChange, request.data)
        label_class = classes.update_class(label_class=label_class, actor=person(request), **wanted)
        return Response(shapes.ClassShape(label_class).data)


@extend_schema(tags=["projects"])
class ClassArchive(Endpoint):
    @extend_schema(request=shapes.Archiving, responses=shapes.ClassShape)
    def post(self, request: Request, project_id: int, class_id: int) -> Response:
        """Take a class off the keyboard, or bring it back. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        wanted = read(shapes.Archiving, request.data)
        label_class = classes.archive_class(label_class=label_class, actor=person(request), **wanted)
        return Response(shapes.ClassShape(label_class).data)


def _owned_class(request: Request, project_id: int, class_id: int) -> LabelClass:
    project = access.get_project(person(request), project_id, OWN)
    label_class = project.classes.filter(pk=class_id).first()
    if label_class is None:
        raise NotFound(f"there is no class {class_id} in this project")
    return label_class
