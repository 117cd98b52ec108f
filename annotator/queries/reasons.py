"""Why an image is asked about, in words, and what the page may tell of it."""

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator.models import Project, QueueEntry, Split
from annotator.wording import percent

# An answer to these is worth something because whoever gives it was told nothing.
BLIND = (
    QueueEntry.Reason.AUDIT,
    QueueEntry.Reason.SECOND_OPINION,
    QueueEntry.Reason.SUSPECT,
    QueueEntry.Reason.AUTOMATIC,
)
# These ask about an image that has an answer, of somebody else or of the same person.
ASKED_AGAIN = (QueueEntry.Reason.SECOND_OPINION, QueueEntry.Reason.SUSPECT)
# The sentences of these name a class.
NAMING = (QueueEntry.Reason.CLOSE_CALL, QueueEntry.Reason.UNSURE, QueueEntry.Reason.SCARCE)


def is_blind(entry: QueueEntry) -> bool:
    """Whether the answer counts only if nobody was told anything: no guess, no class, no labelled neighbour."""
    return entry.reason_code in BLIND or entry.item.split == Split.AUDIT


def asked_blind(project: Project) -> QuerySet[QueueEntry, int]:
    """The ids of the items that somebody is asked about blind, held or still waiting."""
    return QueueEntry.objects.filter(project=project, reason_code__in=BLIND).values_list("item_id", flat=True)


def reason_text(entry: QueueEntry, class_names: dict[int, str]) -> str:
    """Why this image, in words a person understands."""
    told = entry.reason_data
    if entry.reason_code == QueueEntry.Reason.CLOSE_CALL:
        one, other = (_named(class_names, class_id) for class_id, _prob in told["classes"][:2])
        return _("Close call: %(one)s or %(other)s") % {"one": one, "other": other}
    if entry.reason_code == QueueEntry.Reason.UNSURE:
        class_id, prob = told["classes"][0]
        said = {"name": _named(class_names, class_id), "percent": percent(prob)}
        return _("Unsure: %(name)s is likeliest, at %(percent)s") % said
    if entry.reason_code == QueueEntry.Reason.SCARCE:
        name = _named(class_names, told["class"])
        return _("Looking for more of %(name)s, which has the fewest answers") % {"name": name}
    if entry.reason_code == QueueEntry.Reason.SECOND_OPINION and told.get("people", 0):
        return _disagreed(told["people"])
    return _sentences()[QueueEntry.Reason(entry.reason_code)]


def _named(class_names: dict[int, str], class_id: int) -> str:
    return class_names.get(class_id) or _("an archived class")


def _disagreed(people: int) -> str:
    """And not a word of what they said."""
    if people == 2:
        return _("Two people disagreed about this image; you decide afresh")
    said = ngettext(
        "%(people)s person disagreed about this image; you decide afresh",
        "%(people)s people disagreed about this image; you decide afresh",
        people,
    )
    return said % {"people": people}


def _sentences() -> dict[QueueEntry.Reason, str]:
    # Said of both: who learns that a label is suspected looks at the image with other eyes.
    second_look = _("A second look at an image that was answered before; you answer it afresh")
    return {
        QueueEntry.Reason.AUDIT: _("Random check: measures how good the model is, so no hints"),
        QueueEntry.Reason.BASELINE: _("Picked at random, to compare the order of the questions with"),
        QueueEntry.Reason.SECOND_OPINION: second_look,
        QueueEntry.Reason.SUSPECT: second_look,
        QueueEntry.Reason.AUTOMATIC: _("Check of automatic labels: measures how often they are right, so no hints"),
        QueueEntry.Reason.TYPICAL: _("Typical of many images like it, none of them labelled yet"),
        QueueEntry.Reason.DISPUTED: _("Disputed: the answers so far can be read in different ways"),
        QueueEntry.Reason.UNLIKE: _("Unlike anything labelled so far"),
        QueueEntry.Reason.RANDOM: _("Picked at random"),
        QueueEntry.Reason.RETURNED: _("You took your answer back"),
        QueueEntry.Reason.CHOSEN: _("Chosen by a person, who wants to know what it is"),
    }


def shows_hint(entry: QueueEntry, project: Project) -> bool:
    """Whether the sentence or a guess tells the person what the model thinks of this item. Never where it is blind.

    The examples beside the sentence are a hint of their own: see queries.shows_examples.
    """
    if entry.reason_code in BLIND:
        return False
    return entry.reason_code in NAMING or suggestion(entry, project) is not None


def suggestion(entry: QueueEntry, project: Project) -> tuple[int, float] | None:
    """The model's best guess (class id, probability) where the project shows it; never where it is blind."""
    if is_blind(entry) or not project.settings.show_suggestions:
        return None
    classes = entry.reason_data.get("classes")
    return (classes[0][0], classes[0][1]) if classes else None
