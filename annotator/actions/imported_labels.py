"""Labels that come with images: from the names of folders, or from a table."""

import io
import uuid
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import connection, transaction
from django.utils.translation import gettext as _

from annotator.actions import class_changes, classes
from annotator.actions.import_report import Report
from annotator.actions.item_files import Taken
from annotator.errors import InvalidImport
from annotator.formats import sources
from annotator.formats.class_folders import NOT_A_CLASS
from annotator.formats.label_tables import LabelTable, read_rows
from annotator.formats.sources import SourceFile
from annotator.models import Annotation, Item, Job, Project, Proposal, QueueEntry, Role
from annotator.wording import thousands

NO_LABELS, FROM_FOLDERS, FROM_TABLE = "none", "from-folders", "table"
CLASSES_AT_MOST = 1000


class ImportedLabels:
    """The labels of one import job."""

    def __init__(self, job: Job) -> None:
        self.job, self.project = job, job.project
        self.actor = job.created_by or _first_owner(job.project)
        self.table = _label_table(job)
        self.class_ids: dict[str, int] = {}  # by the label as it came

    def of(self, file: SourceFile) -> str:
        """The class name the file comes with, tidied; empty for none."""
        if self.job.parameters["labels"] == FROM_FOLDERS:
            label = "" if file.folder in NOT_A_CLASS else file.folder
        else:
            label = self.table.label_of(file.name) if self.table else ""
        label = "".join(letter if letter.isprintable() else " " for letter in label)
        return " ".join(label.split())[: classes.NAME_AT_MOST].rstrip()

    def match(self, files: list[SourceFile], report: Report) -> None:
        """Find the files that the table means; rows that mean none, or several, are reported. Call it first."""
        if self.table is None:
            return
        self.table.match(file.name for file in files)
        for row in self.table.unmatched:
            report.add("unlabelled", row, "the table names it; no file is called so")
        for row in self.table.ambiguous:
            report.add("unlabelled", row, "several files are called so; name the folder in the table too")

    @transaction.atomic
    def create_classes(self, files: list[SourceFile], report: Report) -> None:
        """Make the classes that are missing, report the labels that go into a class of a slightly different name.

        Raises InvalidImport when there are absurdly many. Locks the project.
        """
        wanted = sorted({label for file in files if not file.is_ignored and (label := self.of(file))})
        if not wanted:
            return
        Project.objects.select_for_update(no_key=True).get(pk=self.project.pk)  # another import may make the same
        ids = {each.name: each.pk for each in self.project.classes.all()}
        named = _named_as(wanted, ids)
        missing = [label for label in wanted if named[label] == label and label not in ids]
        if len(ids) + len(missing) > CLASSES_AT_MOST:
            raise InvalidImport(
                _(
                    "%(n)s new classes, as in %(missing)s: at most %(classes_at_most)s are taken; are these really"
                    " classes?"
                )
                % {
                    "n": thousands(len(missing)),
                    "missing": repr(missing[0]),
                    "classes_at_most": thousands(CLASSES_AT_MOST),
                }
            )
        for label in missing:
            ids[label] = classes.add_class(project=self.project, actor=self.actor, name=label).pk
        for label in wanted:
            if named[label] != label:
                report.add("merged", label, f"taken as the class {named[label]}; capital letters alone make no other")
        self.class_ids = {label: ids[named[label]] for label in wanted}

    @transaction.atomic
    def store(self, labelled: dict[int, Taken], report: Report) -> None:
        """Store the labels the files came with, wherever nobody has answered yet. Locks the items.

        A label that came with another import stands in the way as an answer does: the first stays.
        """
        if not labelled:
            return
        class_changes.hold_classes(self.project)
        merged = class_changes.merged_into(self.project)  # a label of that name counts as the other class, too
        # Read before the answers: whoever labels the same items at this moment has then written them.
        items = list(Item.objects.select_for_update(no_key=True).filter(pk__in=labelled).order_by("pk"))
        chain_ends: dict[int, list[Annotation]] = defaultdict(list)
        for end in Annotation.objects.filter(item__in=items, superseded_by__isnull=True).select_related("annotator"):
            chain_ends[end.item_id].append(end)
        new = []
        for item in items:
            class_id = self.class_ids[labelled[item.pk].label]
            value = {"class": merged.get(class_id, class_id)}
            reasons = [why for end in chain_ends[item.pk] if (why := _contradiction(end, value))]
            if reasons:
                report.add("unlabelled", labelled[item.pk].name, "; ".join(reasons))
                continue
            report.labels += 1
            if not any(end.kind == Annotation.Kind.LABEL for end in chain_ends[item.pk]):
                own = [end for end in chain_ends[item.pk] if end.annotator_id == self.actor.pk]
                new.append(self._annotation(item, value, own[0] if own else None))
        Annotation.objects.bulk_create(new)
        report.new_labels += len(new)
        settled = [each.item_id for each in new]
        # What labeling.state_of makes of any answers with a label among them.
        Item.objects.filter(pk__in=settled).update(state=Item.State.LABELLED)
        QueueEntry.objects.filter(item_id__in=settled).delete()
        undecided = Proposal.objects.filter(item_id__in=settled, state__in=Proposal.UNDECIDED)
        undecided.update(state=Proposal.State.WITHDRAWN)

    def _annotation(self, item: Item, value: dict[str, Any], end: Annotation | None) -> Annotation:
        return Annotation(
            uuid=uuid.uuid4(),
            project=self.project,
            item=item,
            annotator_id=self.actor.pk,
            kind=Annotation.Kind.LABEL,
            value=value,
            source=Annotation.Source.IMPORTED,
            supersedes=end,
        )


def _named_as(labels: list[str], classes: Iterable[str]) -> dict[str, str]:
    """The name of the class each label goes to: its own, an equal one among ``classes``, or an earlier label's.

    Equal as the database compares: its constraint by lower case, classes.add_class by upper case. Python's own
    folding calls more names equal than either, Masse and Maße for one, and would mix up two classes. One query.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, lower(name), upper(name) FROM unnest(%s::text[]) AS name", [[*labels, *classes]])
        cases = {name: (("lower", lower), ("upper", upper)) for name, lower, upper in cursor.fetchall()}
    known: dict[tuple[str, str], str] = {}
    named = {}
    for name in [*classes, *labels]:
        equal = [known[case] for case in cases[name] if case in known]
        named[name] = name if name in classes or not equal else equal[0]
        for case in cases[name]:
            known.setdefault(case, named[name])
    return {label: named[label] for label in labels}


def _contradiction(end: Annotation, value: dict[str, Any]) -> str:
    """Why this label must not go beside this current answer, in words; empty when it may. A skip is no answer."""
    if end.kind == Annotation.Kind.NONE_OF_THESE:
        return f"{end.annotator} answered none of these"
    if end.kind == Annotation.Kind.REJECTION and end.value == value:
        return f"{end.annotator} said that it is not this"
    if end.kind == Annotation.Kind.LABEL and end.value != value:
        is_imported = end.source == Annotation.Source.IMPORTED
        return "it came with another label before" if is_imported else f"{end.annotator} answered otherwise before"
    return ""


def _first_owner(project: Project) -> User:
    """Who answers for labels whose importer's account is gone."""
    membership = project.memberships.filter(role=Role.OWNER).select_related("user").order_by("pk").first()
    if membership is None:
        raise InvalidImport(_("this project has no owner any more"))
    return membership.user


def _label_table(job: Job) -> LabelTable | None:
    if job.parameters["labels"] != FROM_TABLE:
        return None
    if path := job.parameters.get("table_path"):
        with sources.open_file(Path(path)) as file:
            return LabelTable(read_rows(file, Path(path).name), Path(path).name)
    table = job.parameters["table"]
    with default_storage.open(table["key"]) as file:
        return LabelTable(read_rows(io.BytesIO(file.read()), table["name"]), table["name"])
