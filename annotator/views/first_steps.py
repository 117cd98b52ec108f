"""The way from an empty project to its first answer: images, classes, labelling."""

from dataclasses import dataclass

from django.urls import Resolver404, resolve, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator import queries
from annotator.access import LABEL, OWN, allows
from annotator.models import Annotation, Job, Membership, Project, Split
from annotator.wording import thousands

DONE, NOW, LATER = "done", "now", "later"


@dataclass(frozen=True)
class Step:
    """One of the three. url: where it is done, empty where this person's role does not include it or it comes later;
    posts: the link is a button that takes the first images. also: another way to the same end, (text, address)."""

    title: str
    text: str
    state: str
    url: str = ""
    link: str = ""
    posts: bool = False
    also: tuple[str, str] | None = None


def steps(membership: Membership) -> list[Step]:
    """The three steps, or none once somebody answered an image or proposals wait. Five queries at most.

    For templates/first_steps.html, which shows nothing where there are none.
    """
    project = membership.project
    if Annotation.objects.filter(project=project, source=Annotation.Source.PERSON).exists():
        return []
    if queries.proposed_by_names(project):
        return []
    n_images = project.items.exclude(split=Split.TEST).count()
    n_classes = len(queries.open_classes(project))
    return [
        _images(membership, n_images),
        _classes(membership, n_images, n_classes),
        _labelling(membership, ready=bool(n_images and n_classes)),
    ]


def _images(membership: Membership, n_images: int) -> Step:
    project = membership.project
    if n_images:
        said = ngettext("%(n)s image is here.", "%(n)s images are here.", n_images) % {"n": thousands(n_images)}
        return Step(_("Bring images"), said, DONE)
    importing = Job.objects.filter(project=project, kind=Job.Kind.IMPORT).exclude(state__in=_OVER).first()
    if importing is not None:
        watch = reverse("import", args=[project.pk]) if allows(membership.role, OWN) else ""
        return Step(_("Bring images"), _("They are on their way in."), NOW, watch, _("Watch the import"))
    text = _("A folder, some images or a zip.")
    if not allows(membership.role, OWN):
        return Step(_("Bring images"), _("An owner of this project can import some."), NOW)
    return Step(_("Bring images"), text, NOW, reverse("import", args=[project.pk]), _("Import images"))


_OVER = [Job.State.DONE, Job.State.FAILED, Job.State.CANCELLED]


def _classes(membership: Membership, n_images: int, n_classes: int) -> Step:
    title, project = _("Name the classes"), membership.project
    if n_classes:
        said = ngettext(
            "%(n)s class is named; more can follow.", "%(n)s classes are named; more can follow.", n_classes
        )
        return Step(title, said % {"n": thousands(n_classes)}, DONE)
    if not allows(membership.role, OWN):
        return Step(title, _("An owner of this project names them."), NOW if n_images else LATER)
    discover = _discover(project) if n_images else None
    return Step(
        title,
        _("What can an image be? Two are enough to begin with."),
        NOW if n_images else LATER,
        reverse("project-classes", args=[project.pk]),
        _("Name the classes"),
        also=(_("Or look at groups of images first"), discover) if discover else None,
    )


def _discover(project: Project) -> str | None:
    """Where groups of look-alikes are shown that may become classes; None where there is no such page."""
    address = reverse("project-classes", args=[project.pk]) + "discover/"
    try:
        resolve(address)
    except Resolver404:
        return None
    return address


def _labelling(membership: Membership, *, ready: bool) -> Step:
    title = _("Label the first image")
    text = _("One key for each image; the model learns while you go on.")
    if not ready or not allows(membership.role, LABEL):
        return Step(title, text, NOW if ready else LATER)
    return Step(
        title, text, NOW, reverse("label-next", args=[membership.project_id]), _("Start labelling"), posts=True
    )
