"""The list of projects, making one, and an owner's two forms: settings and members."""

from dataclasses import dataclass, fields
from typing import Any

from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop
from django.views.decorators.http import require_http_methods, require_safe

from annotator import algorithms, queries
from annotator.access import OWN, get_membership
from annotator.actions import projects
from annotator.errors import InvalidClass, InvalidSettings, NotFound, WinnowError
from annotator.models import Item, Membership, Project, ProjectSettings, Role, Split
from annotator.views import PageRequest, page
from annotator.views.reading import is_number
from annotator.wording import written

SETTINGS_TEMPLATE = "project_settings.html"
# How the settings are grouped on the page; a setting that is in none of these lands in the last group.
GROUPS = (
    (gettext_lazy("Learning"), ("encoder", "image_px", "head", "answers_per_refit")),
    (
        gettext_lazy("Training"),
        ("trainer", "training_minutes", "augment_mirror", "augment_rotate", "augment_tone", "augment_colour"),
    ),
    (gettext_lazy("Questions"), ("acquisition", "cold_start", "queue_length", "show_suggestions")),
    (gettext_lazy("Proposals"), ("propose_above", "proposals_at_most")),
    (
        gettext_lazy("Accepting unseen"),
        ("auto_accept", "target_precision", "certificate_confidence", "threshold_per_class"),
    ),
    (
        gettext_lazy("What questions are for"),
        ("audit_share", "baseline_share", "second_opinion_share", "suspect_share", "automatic_share"),
    ),
    (gettext_lazy("Random checks"), ("audit_fraction", "audit_minimum")),
)


@require_safe
@page
def index(request: PageRequest) -> HttpResponse:
    asked = Q(project__items__split__in=[Split.POOL, Split.AUDIT])
    memberships = (
        Membership.objects.filter(user_id=request.user.pk)
        .select_related("project")
        .annotate(
            items=Count("project__items", filter=asked),
            answered=Count("project__items", filter=asked & ~Q(project__items__state=Item.State.OPEN)),
        )
        .order_by("-project_id")
    )
    return render(request, "projects.html", {"memberships": memberships})


@require_http_methods(["GET", "HEAD", "POST"])
@page
def create(request: PageRequest) -> HttpResponse:
    if request.method != "POST":
        return render(request, "project_form.html", {"posted": {}, "wrong": {}})
    posted = {name: request.POST.get(name, "") for name in ("name", "classes", "instructions")}
    try:
        made = projects.create_project(
            owner=request.user,
            name=posted["name"],
            class_names=_lines(posted["classes"]),
            instructions=posted["instructions"],
        )
    except WinnowError as error:
        wrong = error.fields or {"classes" if isinstance(error, InvalidClass) else "name": error.message}
        return render(request, "project_form.html", {"posted": posted, "wrong": wrong}, status=error.status)
    return _see_other(reverse("import", args=[made.pk]))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@require_http_methods(["GET", "HEAD", "POST"])
@page
def settings(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, OWN)
    if request.method != "POST":
        return _settings_page(request, membership)
    project = membership.project
    raw: dict[str, Any] = {each.name: request.POST.get(each.name, "") for each in fields(ProjectSettings)}
    raw = {
        name: value for name, value in raw.items() if name in request.POST or isinstance(_default(name), bool)
    }  # a box that is not ticked is not sent
    raw["parameters"] = {name: value for name, value in request.POST.items() if "." in name}
    stored = project.settings_json
    try:
        cleaned = projects.save_settings(
            project=project,
            actor=request.user,
            raw=raw,
            name=request.POST.get("name"),
            instructions=request.POST.get("instructions"),
            seen=request.POST.get("seen", ""),
        )
    except WinnowError as error:
        refused = error
    else:
        messages.success(request, " ".join([_("Settings saved."), *_consequences(project, stored, cleaned)]))
        return _see_other(reverse("project-settings", args=[project.pk]))
    fresh = get_membership(request.user, project_id, OWN)  # the refused action may have changed the object at hand
    return _settings_page(request, fresh, error=refused, form="settings")


def _consequences(project: Project, stored: dict[str, Any], saved: ProjectSettings) -> list[str]:
    """What happens now, and what only later, because these settings replaced the stored ones."""
    sentences = []
    if not saved.embeds_like(stored) and project.items.exists():
        sentences.append(
            _("The images are being embedded anew by this encoder; the present model goes on until that is done.")
        )
    elif queries.lacks_views(project):
        sentences.append(
            _("Views of the images are being embedded for this head; until that is done it goes by noise.")
        )
    if not saved.learns_like(stored):
        sentences.append(_("The head is used from the next model on."))
    return sentences


def _default(name: str) -> Any:
    return next(each.default for each in fields(ProjectSettings) if each.name == name)


@require_http_methods(["GET", "HEAD", "POST"])
@page
def members(request: PageRequest, project_id: int) -> HttpResponse:
    """Give somebody a role or take somebody out. Opened by address, it leads to the settings page."""
    membership = get_membership(request.user, project_id, OWN)
    here = reverse("project-settings", args=[project_id])
    if request.method != "POST":
        return redirect(f"{here}#members")
    try:
        _change_members(request, membership.project)
    except WinnowError as error:
        return _settings_page(request, membership, error=error, form="members")
    try:
        get_membership(request.user, project_id, OWN)
    except NotFound:  # left the project
        return _see_other(reverse("projects"))
    except WinnowError:  # is no owner any more
        return _see_other(reverse("dashboard", args=[project_id]))
    return _see_other(f"{here}#members")


def _change_members(request: PageRequest, project: Project) -> None:
    do, who = request.POST.get("do", ""), request.POST.get("user", "")
    if do == "set":
        username, role = request.POST.get("username", ""), request.POST.get("role", "")
        projects.set_member(project=project, actor=request.user, username=username, role=role)
    elif do == "remove" and is_number(who):
        projects.remove_member(project=project, actor=request.user, user_id=int(who))
    else:
        why = _("%(found)s is not something to do with a member; reload the page")
        raise InvalidSettings(why % {"found": repr(do[:40])})


@dataclass(frozen=True)
class ParameterField:
    """One parameter of an algorithm as a form field; its name is the flat one of ProjectSettings."""

    name: str
    parameter: algorithms.Parameter
    value: Any
    wrong: str

    @property
    def title(self) -> str:
        return _(self.parameter.name.replace("_", " ").capitalize())

    @property
    def help(self) -> str:
        """What it does, its default and its limits."""
        each = self.parameter
        said: dict[str, Any] = {"help": _(each.help) if each.help else "", "default": each.default}
        if not self.is_number:
            return _("%(help)s Default: %(default)s.") % said
        numbers = {"default": each.default, "least": each.minimum, "most": each.maximum}
        said |= {name: written(f"{number:g}") for name, number in numbers.items()}
        if not each.unit:
            return _("%(help)s Default: %(default)s; from %(least)s to %(most)s.") % said
        said["unit"] = _(each.unit)
        return _("%(help)s Default: %(default)s; from %(least)s to %(most)s %(unit)s.") % said

    @property
    def is_whole(self) -> bool:
        return self.parameter.type is int

    @property
    def is_number(self) -> bool:
        return self.parameter.type is not str


@dataclass(frozen=True)
class Told:
    """An algorithm and the fields of its parameters."""

    algorithm: algorithms.Algorithm
    is_chosen: bool
    fields: tuple[ParameterField, ...]

    @property
    def is_wrong(self) -> bool:
        return any(each.wrong for each in self.fields)

    @property
    def n_changed(self) -> int:
        """How many parameters are not at their default."""
        return sum(str(each.value) != str(each.parameter.default) for each in self.fields)


@dataclass(frozen=True)
class Field:
    """One setting as a form field, built from the metadata of ProjectSettings and the catalogue."""

    name: str
    title: str
    help: str
    kind: str
    value: Any
    options: tuple[algorithms.Algorithm, ...] = ()
    minimum: Any = None
    maximum: Any = None
    automatic: Any = None
    wrong: str = ""
    told: tuple[Told, ...] = ()

    @property
    def others(self) -> tuple[Told, ...]:
        """The algorithms that were not chosen and can be told something."""
        return tuple(each for each in self.told if not each.is_chosen)

    @property
    def others_wrong(self) -> bool:
        return any(each.is_wrong for each in self.others)


def form_fields(values: dict[str, Any], wrong: dict[str, str]) -> list[tuple[str, list[Field]]]:
    """The settings form by group: ``values`` as stored or as posted, ``wrong`` a sentence by field.

    Parameters stand under the choice of their algorithm, in ``values`` and ``wrong`` by their flat name.
    """
    every = [each for each in fields(ProjectSettings) if each.name != "parameters"]
    made = {each.name: _field(each, values.get(each.name, each.default), values, wrong) for each in every}
    groups = [(str(title), [made.pop(name) for name in names if name in made]) for title, names in GROUPS]
    groups[-1][1].extend(made.values())
    return groups


def _field(each: Any, value: Any, values: dict[str, Any], wrong: dict[str, str]) -> Field:
    limits = each.metadata
    options: tuple[algorithms.Algorithm, ...] = ()
    told: tuple[Told, ...] = ()
    if each.type is bool:
        kind, value = "check", str(value).lower() in ("true", "on", "1", "yes")
    elif "catalogue" in limits:
        kind, options = "choice", algorithms.catalogue(limits["catalogue"], limits.get("starts", False))
        if "auto" in limits:
            # Titles and sentences of the catalogue are translated where they are shown; so are these.
            title, chosen = gettext_noop("Automatic"), _(limits["auto"]) + "."
            automatic = algorithms.Algorithm(limits["catalogue"], "auto", title, chosen, "")
            options = (automatic, *options)
        if each.name == limits["catalogue"]:  # two choices of one kind share its parameters, shown once
            told = tuple(_told(option, value, values, wrong) for option in options if option.parameters)
    else:
        kind = "whole" if each.type is int else "rate"
    return Field(
        name=each.name,
        title=_(limits["title"]),
        help=_(limits["help"]),
        kind=kind,
        value=value,
        options=options,
        minimum=limits.get("minimum"),
        maximum=limits.get("maximum"),
        automatic=limits.get("automatic"),
        wrong=wrong.get(each.name, ""),
        told=told,
    )


def _told(algorithm: algorithms.Algorithm, chosen: Any, values: dict[str, Any], wrong: dict[str, str]) -> Told:
    prefix = f"{algorithm.kind}.{algorithm.name}."
    return Told(
        algorithm,
        algorithm.name == chosen,
        tuple(
            ParameterField(name, each, values.get(name, each.default), wrong.get(name, ""))
            for each in algorithm.parameters
            for name in [prefix + each.name]
        ),
    )


def _settings_page(
    request: HttpRequest, membership: Membership, *, error: WinnowError | None = None, form: str = ""
) -> HttpResponse:
    """The page with both forms; after a refusal, the refused one (``form``) as it was sent."""
    project = membership.project
    is_mine = form == "settings"
    wrong = error.fields if error and is_mine else {}
    posted = request.POST if form else {}
    stored = {"name": project.name, "instructions": project.instructions} | project.settings_json
    stored |= stored.get("parameters", {})
    values = stored | {name: request.POST.get(name, "") for name in request.POST} if is_mine else stored
    if is_mine:  # a box that was not ticked was not sent
        ticked = {each.name: each.name in request.POST for each in fields(ProjectSettings) if each.type is bool}
        values |= ticked
    context = {
        "project": project,
        "membership": membership,
        "seen": projects.fingerprint(project),
        "values": values,
        "groups": form_fields(values, wrong),
        "wrong": wrong,
        "error": error,
        "form": form,
        "posted": posted,
        "n_classes": project.classes.filter(is_archived=False).count(),
        "memberships": project.memberships.select_related("user").order_by("user__username"),
        "roles": Role,
    }
    return render(request, SETTINGS_TEMPLATE, context, status=error.status if error else 200)


def _see_other(url: str) -> HttpResponse:
    response = redirect(url)
    response.status_code = 303
    return response
