"""Labels that come with images: from the names of folders, or from a table."""

import io
import uuid
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import transaction

from annotator.actions import projects
from annotator.actions.import_report import Report
from annotator.actions.item_files import Taken
from annotator.errors import InvalidImport
from annotator.formats import sources
from annotator.formats.class_folders import NOT_A_CLASS
from annotator.formats.label_tables import LabelTable, read_rows
from annotator.formats.sources import SourceFile
from annotator.models import Annotation, Item, Job, Project, Proposal, QueueEntry, Role

NO_LABELS, FROM_FOLDERS, FROM_TABLE = "none", "from-folders", "table"
CLASSES_AT_MOST = 1000


class ImportedLabels:
    """The labels of one import job."""

    def __init__(self, job: Job) -> None:
        self.job, self.project = job, job.project
        self.actor = job.created_by or _first_owner(job.project)
        self.table = _label_table(job)
        self.class_ids: dict[str, int] = {}  # by folded name

    def of(self, file: SourceFile) -> str:
        """The class name the file comes with, tidied; empty for none."""
        if self.job.parameters["labels"] == FROM_FOLDERS:
            label = "" if file.folder in NOT_A_CLASS else file.folder
        else:
            label = self.table.label_of(file.name) if self.table else ""
        label = "".join(letter if letter.isprintable() else " " for letter in label)
        return " ".join(label.split())[: projects.NAME_AT_MOST].rstrip()

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
    def create_classes(self, files: list[SourceFile]) -> None:
        """Make the classes that are missing. Raises InvalidImport when there are absurdly many. Locks the project."""
        wanted = {label.casefold(): label for file in files if not file.is_ignored and (label := self.of(file))}
        if wanted:  # another import may be making the same classes
            Project.objects.select_for_update(no_key=True).get(pk=self.project.pk)
        ids = {each.name.casefold(): each.pk for each in self.project.classes.all()}
        missing = sorted(set(wanted) - set(ids))
        if len(ids) + len(missing) > CLASSES_AT_MOST:
            raise InvalidImport(
                f"{len(missing):,} new classes, as in {wanted[missing[0]]!r}: at most {CLASSES_AT_MOST:,} are taken;"
                " are these really classes?"
            )
        for folded in missing:
            label_class = projects.add_class(project=self.project, actor=self.actor, name=wanted[folded])
            ids[folded] = label_class.pk
        self.class_ids = ids

    @transaction.atomic
    def store(self, labelled: dict[int, Taken], report: Report) -> None:
        """Store the labels the files came with. What the same person answered before stays; locks the items."""
        if not labelled:
            return
        # Read before the answers: whoever labels the same items at this moment has then written them.
        items = list(Item.objects.select_for_update(no_key=True).filter(pk__in=labelled).order_by("pk"))
        ends = {
            each.item_id: each
            for each in Annotation.objects.filter(
                item_id__in=labelled, annotator_id=self.actor.pk, superseded_by__isnull=True
            )
        }
        new = []
        for item in items:
            value = {"class": self.class_ids[labelled[item.pk].label.casefold()]}
            end = ends.get(item.pk)
            if end is None or end.kind == Annotation.Kind.RETRACTION:
                new.append(self._annotation(item, value, end))
            elif end.value != value or end.kind != Annotation.Kind.LABEL:
                report.add("unlabelled", labelled[item.pk].name, f"{self.actor} answered otherwise before")
                continue
            report.labels += 1
        Annotation.objects.bulk_create(new)
        report.new_labels += len(new)
        settled = [each.item_id for each in new]
        Item.objects.filter(pk__in=settled).update(state=Item.State.LABELLED)
        QueueEntry.objects.filter(item_id__in=settled).delete()
        pending = Proposal.objects.filter(item_id__in=settled, state=Proposal.State.PENDING)
        pending.update(state=Proposal.State.WITHDRAWN)

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


def _first_owner(project: Project) -> User:
    """Who answers for labels whose importer's account is gone."""
    membership = project.memberships.filter(role=Role.OWNER).select_related("user").order_by("pk").first()
    if membership is None:
        raise InvalidImport("this project has no owner any more")
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
