"""What the review grid can be narrowed to: the choices of the form, and the words for those in force."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from annotator import queries
from annotator.models import Annotation, Job, LabelClass, ModelVersion, Project
from annotator.queries.selecting import (
    CONFIDENCE,
    DOUBT,
    LABELS,
    LISTED,
    NARROWING,
    NEIGHBOURS,
    SIMILAR,
    STUDY,
    Selection,
)

IMPORTS_AT_MOST = 20


@dataclass(frozen=True)
class Option:
    value: str
    text: str
    is_chosen: bool


@dataclass(frozen=True)
class InForce:
    """A part of the filter in words, and the address without it. item_id: the image it is about, for a glance."""

    text: str
    without: str
    item_id: int | None = None


def form_of(project: Project, sent: dict[str, str]) -> dict[str, Any]:
    """The choices of the filter form, with what was sent chosen. Four queries more than the page."""
    is_labels = sent.get("show") == LABELS

    def options(name: str, choices: list[tuple[str, str]], first: str = "") -> list[Option]:
        now = sent.get(name, "")
        every = [("", first), *choices] if first else choices
        return [Option(value, text, value == now or (not now and value == "")) for value, text in every]

    disagreements = [(NEIGHBOURS, _("Most labelled look-alikes are of another class"))]
    if is_labels:
        disagreements.append((STUDY, _("The study of the answers doubts it")))
    else:
        disagreements.append((LISTED, _("The list of likely classes names others")))
    sorts = [(SIMILAR, _("Look-alikes side by side"))]
    if not is_labels:
        sorts = [(CONFIDENCE, _("Surest first")), *sorts]
    return {
        "shows": options("show", [(LABELS, _("Labels that people gave"))], _("Proposals")),
        "sorts": options("sort", sorts, _("Newest first") if is_labels else _("Most doubtful first")),
        "disagreements": options("disagree", disagreements, _("Anything")),
        "pairs": [] if is_labels else options("pair", _pairs(project), _("Any classes")),
        "sources": [] if is_labels else options("source", _sources(project), _("Any model")),
        "imports": options("import", _imports(project), _("Any import")),
        "people": options("by", _people(project), _("Anybody")) if is_labels else [],
        "kept": [(name, sent[name]) for name in ("class", "like", "group", "inside") if sent.get(name)],
        "sent": sent,
        "is_labels": is_labels,
    }


def in_force(project: Project, chosen: Selection) -> list[InForce]:
    """The parts of the filter in force, in words. No query, or one where a class or a person is named."""
    words: list[InForce] = []
    for name, value in chosen.sent:
        if name in NARROWING:
            item_id = chosen.like if name == "like" else None
            words.append(InForce(_words(project, name, value), chosen.first_screen(**{name: ""}), item_id))
    return words


def _words(project: Project, name: str, value: str) -> str:
    if name == "pair":
        one, other = value.split("-")
        names = {str(each.pk): each.name for each in project.classes.filter(pk__in=(one, other))}
        return _("%(one)s or %(other)s") % {"one": names.get(one, one), "other": names.get(other, other)}
    if name == "by":
        who = User.objects.filter(pk=int(value)).first()
        return _("labelled by %(who)s") % {"who": who.get_username() if who else value}
    plain = {
        "low": _("confidence from %(value)s\xa0%%"),
        "high": _("confidence up to %(value)s\xa0%%"),
        "source": _("proposed by %(value)s"),
        "import": _("import %(value)s"),
        "folder": _("in “%(value)s”"),
        "near": _("near copies"),
        "flagged": _("flagged"),
        "like": _("like this image"),
        "group": _("group %(value)s"),
        "inside": _("inside a part of the map"),
    }
    if name == "disagree":
        return {
            NEIGHBOURS: _("labelled look-alikes disagree"),
            LISTED: _("the list names other classes"),
            STUDY: _("doubted by the study"),
        }[value]
    return plain[name] % {"value": value}


def _pairs(project: Project) -> list[tuple[str, str]]:
    names = {each.pk: each.name for each in project.classes.all()}
    return [
        (f"{one}-{other}", _("%(one)s or %(other)s") % {"one": names[one], "other": names[other]})
        for one, other in queries.hesitant_pairs(project)
        if one in names and other in names
    ]


def _sources(project: Project) -> list[tuple[str, str]]:
    used = ModelVersion.objects.filter(project=project).order_by().values_list("algorithm", flat=True).distinct()
    zero_shot = ModelVersion.ZERO_SHOT
    return [(name, _("class names alone") if name == zero_shot else name) for name in sorted(used)]


def _imports(project: Project) -> list[tuple[str, str]]:
    jobs = Job.objects.filter(project=project, kind=Job.Kind.IMPORT).order_by("-id")[:IMPORTS_AT_MOST]
    return [
        (str(job.pk), _("import %(number)s, %(day)s") % {"number": job.pk, "day": f"{job.created_at:%d %b %Y}"})
        for job in jobs
    ]


def _people(project: Project) -> list[tuple[str, str]]:
    given = Annotation.objects.filter(project=project, source=Annotation.Source.PERSON).order_by()
    people = User.objects.filter(pk__in=given.values("annotator_id").distinct()).order_by("username")
    return [(str(each.pk), each.get_username()) for each in people]


def question(chosen: Selection, label_class: LabelClass | None) -> str:
    """What is asked of the screen, in one sentence."""
    if chosen.show == LABELS:
        return _("Are these labels right? Mark those that are not.")
    if label_class is None:
        return _("Is each of these what it says? Mark those that are not.")
    return ""


def order_told(chosen: Selection, label_class: LabelClass | None) -> str:
    """In which order the screen is, in few words."""
    if chosen.like is not None:
        return _("Most similar first.")
    if chosen.sort == SIMILAR:
        return _("Look-alikes side by side.")
    if chosen.show == LABELS:
        return _("Newest first.")
    if label_class is None and chosen.sort == DOUBT:
        return _("Class by class, the most doubtful first.")
    return {DOUBT: _("Most doubtful first."), CONFIDENCE: _("Surest first.")}[chosen.sort]
