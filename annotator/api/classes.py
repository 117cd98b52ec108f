"""Classes: their list, every change of them, and images that get one in groups."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access, queries
from annotator.access import LABEL, OWN, REVIEW
from annotator.actions import assigning, classes, grouping, merging
from annotator.api import classes_shapes as shapes
from annotator.api.endpoint import Endpoint, person, read
from annotator.errors import InvalidSettings, NotAllowed, NotFound
from annotator.models import AuditEvent, Job, LabelClass, Project
from annotator.queries.class_history import MERGED, class_history

HISTORY_AT_MOST = 200


@extend_schema(tags=["classes"])
class Classes(Endpoint):
    @extend_schema(responses=shapes.ClassShape(many=True), operation_id="classes_list")
    def get(self, request: Request, project_id: int) -> Response:
        """All classes in their order, archived ones included."""
        project = access.get_project(person(request), project_id)
        return Response(shapes.ClassShape(project.classes.all(), many=True).data)

    @extend_schema(request=shapes.NewClass, responses={201: shapes.ClassShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Add a class at the end, or several by names: then the answer is a list. Owners only."""
        project = access.get_project(person(request), project_id, OWN)
        wanted = read(shapes.NewClass, request.data)
        if names := wanted.pop("names", None):
            made = classes.add_classes(project=project, actor=person(request), names=names)
            return Response(shapes.ClassShape(made, many=True).data, status=201)
        label_class = classes.add_class(project=project, actor=person(request), **wanted)
        return Response(shapes.ClassShape(label_class).data, status=201)


@extend_schema(tags=["classes"])
class OneClass(Endpoint):
    @extend_schema(request=shapes.ClassChange, responses=shapes.ClassShape)
    def patch(self, request: Request, project_id: int, class_id: int) -> Response:
        """Rename, recolour, describe, or give another key. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        wanted = read(shapes.ClassChange, request.data)
        label_class = classes.update_class(label_class=label_class, actor=person(request), **wanted)
        return Response(shapes.ClassShape(label_class).data)


@extend_schema(tags=["classes"])
class ClassArchive(Endpoint):
    @extend_schema(request=shapes.Archiving, responses=shapes.ClassShape)
    def post(self, request: Request, project_id: int, class_id: int) -> Response:
        """Take a class off the keyboard, or bring it back. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        wanted = read(shapes.Archiving, request.data)
        label_class = classes.archive_class(label_class=label_class, actor=person(request), **wanted)
        return Response(shapes.ClassShape(label_class).data)


@extend_schema(tags=["classes"])
class ClassMove(Endpoint):
    @extend_schema(request=shapes.Placing, responses=shapes.ClassShape(many=True), operation_id="classes_move")
    def post(self, request: Request, project_id: int, class_id: int) -> Response:
        """Put a class in front of another one, or at the end. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        before = read(shapes.Placing, request.data)["before"]
        place = None if before is None else _owned_class(request, project_id, before)
        classes.place_class(label_class=label_class, actor=person(request), before=place)
        return Response(shapes.ClassShape(label_class.project.classes.all(), many=True).data)


@extend_schema(tags=["classes"])
class ClassMerge(Endpoint):
    @extend_schema(request=shapes.Merging, responses=shapes.Merged)
    def post(self, request: Request, project_id: int, class_id: int) -> Response:
        """Make a class part of another one, with every answer that names it. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        into = read(shapes.Merging, request.data)["into"]
        event = merging.merge_classes(
            project=label_class.project, actor=person(request), source_id=label_class.pk, target_id=into
        )
        return Response({"event": event.pk, "answers": event.detail["answers"]})


@extend_schema(tags=["classes"])
class ClassExamples(Endpoint):
    @extend_schema(responses=shapes.Examples)
    def get(self, request: Request, project_id: int, class_id: int) -> Response:
        """The images that show people what a class means."""
        return Response(_examples(_class(access.get_project(person(request), project_id), class_id)))

    @extend_schema(request=shapes.ExampleChange, responses=shapes.Examples)
    def post(self, request: Request, project_id: int, class_id: int) -> Response:
        """Nominate examples, take others away. Never random checks or test images. Owners only."""
        label_class = _owned_class(request, project_id, class_id)
        wanted = read(shapes.ExampleChange, request.data)
        classes.change_examples(
            label_class=label_class, actor=person(request), add=wanted["add"], remove=wanted["remove"]
        )
        return Response(_examples(label_class))


@extend_schema(tags=["classes"])
class ClassHistory(Endpoint):
    @extend_schema(responses=shapes.ClassEventShape(many=True), operation_id="classes_history")
    def get(self, request: Request, project_id: int) -> Response:
        """Who did what to the classes, the newest 200 changes first."""
        project = access.get_project(person(request), project_id)
        return Response(shapes.ClassEventShape(class_history(project, HISTORY_AT_MOST), many=True).data)


@extend_schema(tags=["classes"])
class ClassUndo(Endpoint):
    @extend_schema(request=shapes.ClassesUndoing, responses=shapes.ClassesUndone)
    def post(self, request: Request, project_id: int) -> Response:
        """Take back a merge (owners), or images that got a class (who gave it, and owners)."""
        membership = access.get_membership(person(request), project_id, LABEL)
        event_id = read(shapes.ClassesUndoing, request.data)["event"]
        project, is_owner = membership.project, access.allows(membership.role, OWN)
        if not AuditEvent.objects.filter(project=project, pk=event_id, verb=MERGED).exists():
            n = assigning.take_assignment_back(
                project=project, actor=person(request), event_id=event_id, is_owner=is_owner
            )
            return Response({"told": f"{n} images are what they were"})
        if not is_owner:
            raise NotAllowed("this needs the role owner; only owners merge classes and take that back")
        taken = merging.take_merge_back(project=project, actor=person(request), event_id=event_id)
        return Response({"told": f"{taken.detail['name']} is a class of its own again"})


@extend_schema(tags=["classes"])
class ClassAssign(Endpoint):
    @extend_schema(request=shapes.Assigning, responses=shapes.AssignedShape)
    def post(self, request: Request, project_id: int) -> Response:
        """Give images a class at once: open ones as your answers, others as your decision. Reviewers, for open images
        annotators too; owners alone add a class by it."""
        membership = access.get_membership(person(request), project_id, LABEL)
        wanted = read(shapes.Assigning, request.data)
        if wanted["of"] != queries.OPEN_IMAGES:
            access.get_membership(person(request), project_id, REVIEW)
        done = assigning.assign_images(
            project=membership.project,
            actor=person(request),
            of=wanted["of"],
            item_ids=wanted["items"],
            class_id=wanted.get("class"),
            name=wanted.get("name", ""),
            may_add=access.allows(membership.role, OWN),
            ask_checks_again=wanted["ask_checks_again"],
        )
        return Response(shapes.AssignedShape(done).data)


@extend_schema(tags=["classes"])
class Groupings(Endpoint):
    @extend_schema(request=shapes.GroupingRequest, responses={202: shapes.GroupingShape})
    def post(self, request: Request, project_id: int) -> Response:
        """Ask for groups of look-alikes. Reviewers, for open images annotators too."""
        project = access.get_project(person(request), project_id, LABEL)
        of = read(shapes.GroupingRequest, request.data)["of"]
        if of != queries.OPEN_IMAGES:
            access.get_membership(person(request), project_id, REVIEW)
        job = grouping.request_grouping(project=project, actor=person(request), of=of)
        return Response(shapes.GroupingShape(job).data, status=202)


@extend_schema(tags=["classes"])
class OneGrouping(Endpoint):
    @extend_schema(responses=shapes.GroupShape(many=True), operation_id="groupings_list")
    def get(self, request: Request, project_id: int, job_id: int) -> Response:
        """The groups of look-alikes that a job found, the most alike first. Reviewers, for open images annotators
        too."""
        job = access.get_job(person(request), project_id, job_id, LABEL)
        if job.parameters.get("of") != queries.OPEN_IMAGES:
            access.get_membership(person(request), project_id, REVIEW)
        if job.kind != Job.Kind.GROUP:
            raise InvalidSettings(f"job {job_id} groups nothing; it is to {job.get_kind_display().lower()}")
        return Response(shapes.GroupShape(queries.groups_of(job.project, job.pk), many=True).data)


def _examples(label_class: LabelClass) -> dict[str, list[int]]:
    shown = label_class.examples.filter(item__split="pool").exclude(item__queue_entry__reason_code__in=queries.BLIND)
    return {"items": list(shown.values_list("item_id", flat=True))}


def _class(project: Project, class_id: int) -> LabelClass:
    label_class = project.classes.filter(pk=class_id).first()
    if label_class is None:
        raise NotFound(f"there is no class {class_id} in this project")
    return label_class


def _owned_class(request: Request, project_id: int, class_id: int) -> LabelClass:
    return _class(access.get_project(person(request), project_id, OWN), class_id)
