"""Labels leave, one row for each image, each with where it came from. Read in one snapshot, a thousand at a time.

What a row says, in this order of precedence: what people answered (superseded and retracted answers never count), then
what was accepted automatically. A skip is no answer, nor is "not this": such an image counts as unlabelled until
somebody names its class. Where people disagree there is no label; how many such images there are is always told.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.core.files.storage import default_storage
from django.db import connection, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from annotator import queries, task_types
from annotator.errors import InvalidExport
from annotator.formats import class_folders, csv_rows, jsonl_rows
from annotator.formats.rows import Row
from annotator.models import Annotation, Certificate, Item, Project, Proposal
from annotator.wording import in_english, promised

HUMAN, CONSENSUS, CORRECTED, ACCEPTED, IMPORTED = "human", "consensus", "corrected", "accepted", "imported"
AUTO = "auto-accepted"
NONE_OF_THESE, UNLABELLED, DISPUTED = "none_of_these", "unlabelled", "disputed"

# What can be asked for, and the origins that it brings.
INCLUDE = {
    "human": (HUMAN, CONSENSUS, CORRECTED),
    "accepted": (ACCEPTED,),
    "imported": (IMPORTED,),
    "auto": (AUTO,),
    "none_of_these": (NONE_OF_THESE,),
    "unlabelled": (UNLABELLED, DISPUTED),
}
DEFAULT_INCLUDE = ("human", "accepted", "imported")
# Several people may stand behind one label; the row names the strongest origin among them.
_STRENGTH = (HUMAN, CORRECTED, ACCEPTED, IMPORTED)
_LATER = ("huggingface", "labelstudio")
CHUNK = 1000


@dataclass(frozen=True)
class Format:
    """A way to write rows. ``title`` is translated where it is shown; ``suffix`` belongs to the file it makes."""

    title: str
    suffix: str
    content_type: str


FORMATS = {
    "csv": Format(gettext_noop("CSV table"), ".csv", "text/csv; charset=utf-8"),
    "jsonl": Format("JSON Lines", ".jsonl", "application/jsonl; charset=utf-8"),
    "folder": Format(gettext_noop("Zip with a folder for each class"), ".zip", "application/zip"),
}


def clean_format(name: str) -> str:
    """The name of a format that can be written. Raises InvalidExport."""
    if name in _LATER:
        why = _("the format %(found)s cannot be written yet; choose %(known)s")
        raise InvalidExport(why % {"found": name, "known": ", ".join(FORMATS)})
    if name not in FORMATS:
        why = _("format %(found)s is not one of %(known)s")
        raise InvalidExport(why % {"found": repr(name), "known": ", ".join(FORMATS)})
    return name


def clean_include(names: Iterable[str]) -> tuple[str, ...]:
    """What to include, each once, in the order of INCLUDE. Raises InvalidExport."""
    wanted = {name.strip() for name in names if name.strip()}
    if unknown := sorted(wanted - set(INCLUDE)):
        why = _("%(found)s cannot be included; choose from %(known)s")
        raise InvalidExport(why % {"found": repr(unknown[0]), "known": ", ".join(INCLUDE)})
    if not wanted:
        raise InvalidExport(_("nothing was chosen; include one or more of %(known)s") % {"known": ", ".join(INCLUDE)})
    return tuple(name for name in INCLUDE if name in wanted)


def export(
    *,
    project: Project,
    format_name: str,
    include: Iterable[str],
    counts: Counter[str] | None = None,
    problems: list[str] | None = None,
) -> Iterator[bytes]:
    """The file in pieces, made while it is read. ``counts`` receives the number of rows by origin.

    problems: receives a sentence for each image that a folder export had to leave out; its row is there all the same.
    Checked at once, written later: raises InvalidExport before the first piece is asked for.
    """
    format_name, include = clean_format(format_name), clean_include(include)
    counted = _counted(_kept(project, include), Counter() if counts is None else counts)
    if format_name == "folder":
        return _in_one_snapshot(_write_folder(project, counted, [] if problems is None else problems))
    return _in_one_snapshot(_ROW_WRITERS[format_name](row for _, row in counted))


def row_counts(project: Project) -> Counter[str]:
    """How many rows of each origin there are to export: the same rows, without writing them. Reads every item."""
    return Counter(row.origin for _, row in _rows(project))


def included(counts: Counter[str], include: Iterable[str]) -> int:
    """How many of these rows an export with ``include`` has."""
    return sum(counts[origin] for name in include for origin in INCLUDE[name])


def file_name(project: Project, format_name: str) -> str:
    """A name for the download."""
    return safe_stem(project) + FORMATS[format_name].suffix


def safe_stem(project: Project) -> str:
    """The project's name as the beginning of a file's, on any operating system."""
    return class_folders.safe_name(project.name).replace(" ", "-").lower()


_ROW_WRITERS: dict[str, Callable[[Iterable[Row]], Iterator[bytes]]] = {
    "csv": csv_rows.write,
    "jsonl": jsonl_rows.write,
}


def _write_folder(project: Project, rows: Iterator[tuple[Item, Row]], problems: list[str]) -> Iterator[bytes]:
    # A generator, so that the names are read in the snapshot of the rows: a class may be renamed before that.
    classes = [label_class.name for label_class in project.classes.all()]
    images = (
        class_folders.ImageRow(row, item.mime, partial(default_storage.open, item.storage_key)) for item, row in rows
    )
    yield from class_folders.write(images, classes, problems)


def _in_one_snapshot(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, read from the database as it was at the first one: answers given meanwhile are left out."""
    with _snapshot():
        yield from pieces


@contextmanager
def _snapshot() -> Iterator[None]:
    if connection.in_atomic_block:  # a test, or a caller with a snapshot of its own
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _kept(project: Project, include: tuple[str, ...]) -> Iterator[tuple[Item, Row]]:
    origins = {origin for name in include for origin in INCLUDE[name]}
    return ((item, row) for item, row in _rows(project) if row.origin in origins)


def _counted(rows: Iterator[tuple[Item, Row]], counts: Counter[str]) -> Iterator[tuple[Item, Row]]:
    for item, row in rows:
        counts[row.origin] += 1
        yield item, row


def _rows(project: Project) -> Iterator[tuple[Item, Row]]:
    """Every item of the project with its row, in the order of the ids. Three queries for each CHUNK items."""
    class_names = dict(project.classes.values_list("pk", "name"))
    last = 0
    while True:
        items = list(Item.objects.filter(project=project, pk__gt=last).order_by("pk")[:CHUNK])
        if not items:
            return
        last = items[-1].pk
        yield from _rows_of(project, items, class_names)


def _rows_of(project: Project, items: list[Item], class_names: dict[int, str]) -> Iterator[tuple[Item, Row]]:
    answers: dict[int, list[Annotation]] = defaultdict(list)
    current = (
        Annotation.objects.filter(item__in=items, superseded_by__isnull=True)
        .exclude(kind=Annotation.Kind.RETRACTION)
        .select_related("annotator", "settles__model_version")
    )
    for annotation in current.order_by("pk"):
        answers[annotation.item_id].append(annotation)
    automatic: dict[int, Proposal] = {}
    accepted = Proposal.objects.filter(item__in=items, state=Proposal.State.AUTO_ACCEPTED)
    for proposal in accepted.select_related("model_version", "certificate__round").order_by("pk"):
        automatic[proposal.item_id] = proposal
    for item in items:
        columns = _columns(project, answers[item.pk], automatic.get(item.pk), class_names)
        yield (
            item,
            Row(
                **{
                    "item_id": item.pk,
                    "file_name": item.source_name,
                    "label": "",
                    "split": item.split,
                    "sha256": item.sha256,
                    "confidence": None,
                    "model_version": None,
                    "annotators": [],
                    "labelled_at": None,
                    "seconds": None,
                    **columns,
                }
            ),
        )


def _columns(
    project: Project, given: list[Annotation], automatic: Proposal | None, class_names: dict[int, str]
) -> dict[str, Any]:
    """What the answers to one item, or else its automatic acceptance, make of the row."""
    task_type = task_types.get(project.task_type)
    given = _not_overruled(given)
    value = queries.settled_value(task_type, given)
    if value is not None:
        return _labelled(task_type.to_row(value, class_names), [each for each in given if each.value == value])
    if queries.is_disputed(task_type, given):
        return {"origin": DISPUTED}
    none = [each for each in queries.counted_answers(given) if each.kind == Annotation.Kind.NONE_OF_THESE]
    if none:
        return {"origin": NONE_OF_THESE, **_people(none)}
    rejected = [each.value for each in given if each.kind == Annotation.Kind.REJECTION]
    if automatic is not None and automatic.value not in rejected:
        return {
            **task_type.to_row(automatic.value, class_names),
            "origin": AUTO,
            "labelled_at": automatic.decided_at or automatic.created_at,
            **_model(automatic),
            "certificate": _promise(automatic.certificate),
        }
    return {"origin": UNLABELLED}


def _not_overruled(given: list[Annotation]) -> list[Annotation]:
    """The answers without the imported labels that a person's none-of-these or not-this speaks against."""
    people = [each for each in given if each.source == Annotation.Source.PERSON]
    is_none = any(each.kind == Annotation.Kind.NONE_OF_THESE for each in people)
    rejected = [each.value for each in people if each.kind == Annotation.Kind.REJECTION]
    return [each for each in given if each in people or not (is_none or each.value in rejected)]


def _labelled(named: dict[str, Any], behind: list[Annotation]) -> dict[str, Any]:
    """``behind``: the labels with the settled value, a rejection of it never among them.

    Two people who named it without a proposal before them are a consensus; one of them is human, whoever accepted the
    same from a proposal. What a reviewer decided is human as well: that settled it, not that two agree.
    """
    behind = [each for each in behind if each.kind == Annotation.Kind.LABEL]
    strongest = min(behind, key=lambda each: _STRENGTH.index(_origin(each)))
    model = _model(strongest.settles) if strongest.settles else {}
    named_freely = {each.annotator_id for each in behind if _origin(each) == HUMAN}
    is_decided = any(each.reason_code == Annotation.DECISION for each in behind)
    origin = CONSENSUS if len(named_freely) > 1 and not is_decided else _origin(strongest)
    return {**named, "origin": origin, **_people(behind), **model}


def _origin(annotation: Annotation) -> str:
    if annotation.source == Annotation.Source.IMPORTED:
        return IMPORTED
    if annotation.settles is None:
        return HUMAN
    return ACCEPTED if annotation.settles.value == annotation.value else CORRECTED


def _people(behind: list[Annotation]) -> dict[str, Any]:
    times = [each.milliseconds for each in behind if each.milliseconds is not None]
    return {
        "annotators": list(dict.fromkeys(each.annotator.get_username() for each in behind)),
        "labelled_at": max(each.created_at for each in behind),
        "seconds": round(sum(times) / 1000, 3) if times else None,
    }


def _promise(certificate: Certificate | None) -> str:
    if certificate is None:
        return ""
    with in_english():
        right, certainty = (
            promised(rate).replace("\xa0", " ") for rate in (certificate.target, certificate.confidence)
        )
    wrong = f"{certificate.errors} of {certificate.n} random checks wrong"
    where = f" in round {certificate.round.number}" if certificate.round else ""
    return f"{certificate.pk}: at least {right} right with {certainty} certainty; {wrong}{where}"


def _model(proposal: Proposal) -> dict[str, Any]:
    return {"confidence": proposal.confidence, "model_version": proposal.model_version.number}
