"""Images come in: stored, checked and recorded batch by batch, so that a run that dies goes on where it was.

What is in the project already is known by its sha256, so doing it twice changes nothing.
"""

import io
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import transaction

from annotator import jobs
from annotator.actions import projects, queueing, training
from annotator.errors import InvalidImport, JobCancelled
from annotator.formats import images, sources
from annotator.formats.class_folders import NOT_A_CLASS
from annotator.formats.images import Inspected, UnusableImage
from annotator.formats.label_tables import FILE_COLUMNS, LabelTable, column, read_rows
from annotator.formats.sources import SourceFile, UnreadableFile
from annotator.models import (
    Annotation,
    AuditEvent,
    Item,
    Job,
    Project,
    ProjectSettings,
    Proposal,
    QueueEntry,
    Role,
    Split,
)

NO_LABELS, FROM_FOLDERS, FROM_TABLE = "none", "from-folders", "table"
BATCH_FILES = 64
BATCH_BYTES = 32 * 2**20
THREADS = 2
TABLE_BYTES_AT_MOST = 256 * 2**20
LISTED_AT_MOST = 500
CLASSES_AT_MOST = 1000


# --- asking for it ----------------------------------------------------------------------------------------------


def start_upload_import(
    *,
    project: Project,
    actor: User,
    uploads: list[File],
    labels: str = NO_LABELS,
    label_table: File | None = None,
) -> Job:
    """A waiting import of uploaded zips and images, which now lie in storage. Raises InvalidImport.

    labels: ``none``, ``from-folders``, or ``table`` with ``label_table``, a CSV or JSON Lines file.
    """
    if not uploads:
        raise InvalidImport("choose at least one image or zip file", fields={"files": "nothing was chosen"})
    parameters: dict[str, Any] = {"labels": _clean_labels(labels, label_table)}
    folder = f"uploads/{project.pk}/{uuid.uuid4().hex}"
    if label_table is not None and labels == FROM_TABLE:
        parameters["table"] = _stored(label_table, f"{folder}/table")
    parameters["uploads"] = [_stored(each, f"{folder}/{number}") for number, each in enumerate(uploads)]
    with transaction.atomic():
        names = [each["name"] for each in parameters["uploads"]]
        AuditEvent.objects.create(
            project=project,
            actor_id=actor.pk,
            verb="started an import",
            detail={"files": len(names), "names": names[:10]},
        )
        return jobs.enqueue(project, Job.Kind.IMPORT, parameters=parameters, created_by=actor)


def _clean_labels(labels: str, label_table: Any) -> str:
    if labels not in (NO_LABELS, FROM_FOLDERS, FROM_TABLE):
        raise InvalidImport(f"labels {labels!r} is not one of {NO_LABELS}, {FROM_FOLDERS}, {FROM_TABLE}")
    why = ""
    if labels == FROM_TABLE and label_table is None:
        why = "choose the CSV or JSONL file that names the classes"
    elif isinstance(label_table, File) and label_table.size > TABLE_BYTES_AT_MOST:
        why = f"the table of labels is larger than {TABLE_BYTES_AT_MOST // 2**20} MB; split the import"
    if why:
        raise InvalidImport(why, fields={"label_table": why})
    return labels


def _stored(upload: File, key: str) -> dict[str, Any]:
    name = sources.clean_name(upload.name or "")
    with upload.open("rb"):
        is_zip = sources.is_zip(upload)
        key = default_storage.save(key, upload)
    return {"key": key, "name": name, "is_zip": is_zip}


def create_path_import(
    *, project: Project, actor: User, source: Path, labels: str = NO_LABELS, label_table: Path | None = None
) -> Job:
    """A waiting import of a folder, zip, image, or CSV or JSON Lines list on this machine; nobody is rung for.

    For commands only: a path from a request would read what the server can read. Raises InvalidImport.
    """
    check_path_import(source, label_table)
    _clean_labels(labels, label_table)
    parameters = {"labels": labels, "path": str(source.absolute())}
    if label_table is not None:
        parameters["table_path"] = str(label_table.absolute())
    return Job.objects.create(project=project, kind=Job.Kind.IMPORT, parameters=parameters, created_by=actor)


def check_path_import(source: Path, label_table: Path | None) -> None:
    """Raises InvalidImport when there is nothing there, or it is of a kind that cannot be read yet."""
    if not source.exists():
        raise InvalidImport(f"there is no file or folder {source}")
    if source.suffix.lower() in (".json", ".parquet"):
        raise InvalidImport(f"{source.name}: Label Studio and Hugging Face files cannot be read yet; bring a CSV list")
    if label_table is not None and not label_table.is_file():
        raise InvalidImport(f"labels: {str(label_table)!r} is neither {NO_LABELS} nor {FROM_FOLDERS} nor a file")


# --- doing it ---------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of the files: what a page and a command show, and ``Job.result`` keeps.

    labels: files whose label now stands, ``new_labels`` of them written by this attempt. refused: {name, reason} of
    files that did not go in. ignored: litter of operating systems. unlabelled: labels that were not taken, with the
    reason. Each lists LISTED_AT_MOST; the counts are of all.
    """

    files: int = 0
    imported: int = 0
    duplicates: int = 0
    labels: int = 0
    new_labels: int = 0
    refused_count: int = 0
    ignored_count: int = 0
    unlabelled_count: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    unlabelled: list[dict[str, str]] = field(default_factory=list)
    is_complete: bool = False

    def add(self, kind: str, name: str, reason: str) -> None:
        """Count it, and list it while there is room."""
        setattr(self, f"{kind}_count", getattr(self, f"{kind}_count") + 1)
        listed = getattr(self, kind)
        if len(listed) < LISTED_AT_MOST:
            listed.append({"name": name, "reason": reason})


@dataclass(frozen=True)
class Taken:
    """A file whose bytes were read. label: the class name it came with, or empty."""

    name: str
    content: bytes
    sha256: str
    label: str


def run_import(run: jobs.Run) -> None:
    """Import what the job names; the report goes to its result. Cancelled, it keeps and queues what is in already."""
    job = run.job
    if job.result.get("is_complete"):  # it was killed between its last write and its end
        _remove_uploads(job)
        return
    _remove_leftovers(job.project)
    report = Report()
    try:
        with ExitStack() as stack:
            files = _files(job, stack)
            _Import(run, files, report).take_all()
    except JobCancelled:
        _finish(job, report)
        raise
    except InvalidImport:
        _remove_uploads(job)
        raise
    report.is_complete = True
    run.log(f"{report.imported:,} imported, {report.duplicates:,} already there, {report.refused_count:,} refused")
    _finish(job, report)


def _files(job: Job, stack: ExitStack) -> list[SourceFile]:
    """Every file of the source, in an order drawn at random, the same for every attempt at this job.

    Random, because then whatever part is in is a fair sample: the audit items drawn batch by batch, and what is left
    of an import that was cancelled.
    """
    if "path" in job.parameters:
        files = list(_path_files(Path(job.parameters["path"]), stack))
    else:
        files = [file for upload in job.parameters["uploads"] for file in _upload_files(upload, stack)]
    if not files:
        raise InvalidImport("there is no file in it")
    random.Random(f"import {job.pk}").shuffle(files)
    return files


def _path_files(path: Path, stack: ExitStack) -> Iterator[SourceFile]:
    if path.is_dir():
        return sources.folder_files(path)
    try:
        file = stack.enter_context(sources.open_file(path))
    except UnreadableFile as error:
        raise InvalidImport(f"{path}: {error}") from None
    if sources.is_zip(file):
        return sources.zip_files(stack.enter_context(sources.open_zip(file, path.name)))
    if path.suffix.lower() in (".csv", ".jsonl", ".ndjson"):
        names = (column(row, FILE_COLUMNS, path.name) for row in read_rows(file, path.name))
        return sources.listed_files(path.parent, names)
    return iter([SourceFile(sources.clean_name(path.name), lambda: sources.open_file(path))])


def _upload_files(upload: dict[str, Any], stack: ExitStack) -> Iterator[SourceFile]:
    if not upload["is_zip"]:
        return iter([SourceFile(upload["name"], lambda: default_storage.open(upload["key"]))])
    try:
        file = stack.enter_context(default_storage.open(upload["key"]))
    except OSError:
        raise InvalidImport(f"the upload {upload['name']} is gone from storage; upload it again") from None
    return sources.zip_files(stack.enter_context(sources.open_zip(file, upload["name"])))


class _Import:
    """One run over the files."""

    def __init__(self, run: jobs.Run, files: list[SourceFile], report: Report) -> None:
        self.run, self.files, self.report = run, files, report
        self.job, self.project = run.job, run.job.project
        self.actor = run.job.created_by or _first_owner(run.job.project)
        self.settings = self.project.settings
        self.table = _label_table(run.job)
        self.seen: dict[str, str] = {}  # sha256 -> label of the first file with these bytes
        self.bad: dict[str, str] = {}  # sha256 -> why these bytes were refused
        others = Item.objects.filter(project=self.project).exclude(split=Split.TEST).exclude(import_job=self.job)
        self.before = others.count()
        self.audit_before = others.filter(split=Split.AUDIT).count()
        mine = Item.objects.filter(import_job=self.job)
        self.done = mine.count()
        self.audit_done = mine.filter(split=Split.AUDIT).count()

    def take_all(self) -> None:
        images.quietly_allow_large_images()
        self.run.report(0.0, "reading the list of files", force=True)
        self.classes = self._create_classes()
        with ThreadPoolExecutor(THREADS) as self.threads:
            for batch in self._batches():
                self._take(batch)
                self._progress()
        self._progress(force=True)

    def _progress(self, *, force: bool = False) -> None:
        report = self.report
        total = len(self.files)
        message = (
            f"{report.files:,} of {total:,} files: {report.imported:,} imported, {report.refused_count:,} refused"
        )
        self.run.report(report.files / total, message, force=force)

    def _label_of(self, file: SourceFile) -> str:
        if self.job.parameters["labels"] == FROM_FOLDERS:
            label = "" if file.folder in NOT_A_CLASS else file.folder
        else:
            label = self.table.label_of(file.name) if self.table else ""
        label = "".join(letter if letter.isprintable() else " " for letter in label)
        return " ".join(label.split())[: projects.NAME_AT_MOST].rstrip()

    def _create_classes(self) -> dict[str, int]:
        """Class ids by folded name, the missing ones made. Raises InvalidImport when there are absurdly many."""
        wanted = {
            label.casefold(): label for file in self.files if not file.is_ignored and (label := self._label_of(file))
        }
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
        return ids

    def _batches(self) -> Iterator[list[Taken]]:
        batch: list[Taken] = []
        for file in self.files:
            self.report.files += 1
            if file.is_ignored:
                self.report.add("ignored", file.name, "made by the operating system")
                continue
            try:
                content = sources.read(file, settings.MAX_IMAGE_BYTES)
            except UnreadableFile as error:
                self.report.add("refused", file.name, str(error))
                continue
            batch.append(Taken(file.name, content, sha256(content).hexdigest(), self._label_of(file)))
            if len(batch) == BATCH_FILES or sum(len(each.content) for each in batch) >= BATCH_BYTES:
                yield batch
                batch = []
        yield batch

    def _take(self, batch: list[Taken]) -> None:
        firsts, copies = self._first_of_each(batch)
        known: dict[str, tuple[int, int | None]] = {
            row[0]: (row[1], row[2])
            for row in Item.objects.filter(project=self.project, sha256__in=list(firsts)).values_list(
                "sha256", "pk", "import_job_id"
            )
        }
        new = self._check([taken for taken in firsts.values() if taken.sha256 not in known])
        known |= self._insert([_item(self.job, taken, image) for taken, image in new])
        labelled = {}
        for taken in firsts.values():
            if taken.sha256 not in known:
                continue  # refused
            item_id, import_job_id = known[taken.sha256]
            mine = import_job_id == self.job.pk
            self.report.imported += mine
            self.report.duplicates += not mine
            if taken.label:
                labelled[item_id] = taken
        self._label(labelled)
        for taken in copies:
            self._count_copy(taken)

    def _first_of_each(self, batch: list[Taken]) -> tuple[dict[str, Taken], list[Taken]]:
        """The first file with each content, by sha256, and the copies that came after one, here or before."""
        firsts, copies = {}, []
        for taken in batch:
            if taken.sha256 in self.seen:
                copies.append(taken)
            else:
                self.seen[taken.sha256] = taken.label
                firsts[taken.sha256] = taken
        return firsts, copies

    def _count_copy(self, taken: Taken) -> None:
        """A copy of a refused file is refused; one of an image counts, and a different label on it is reported."""
        if taken.sha256 in self.bad:
            self.report.add("refused", taken.name, self.bad[taken.sha256])
            return
        self.report.duplicates += 1
        if taken.label != self.seen[taken.sha256]:
            first = self.seen[taken.sha256] or "no label"
            self.report.add("unlabelled", taken.name, f"the same image came with {first}")

    def _check(self, batch: list[Taken]) -> list[tuple[Taken, Inspected]]:
        """Those that are images, written to storage."""
        good = []
        for taken, image in zip(batch, self.threads.map(_inspected, batch), strict=True):
            if isinstance(image, UnusableImage):
                self.bad[taken.sha256] = str(image)
                self.report.add("refused", taken.name, str(image))
            else:
                good.append((taken, image))
        list(self.threads.map(lambda each: _write_files(self.project, *each), good))
        return good

    @transaction.atomic
    def _insert(self, items: list[Item]) -> dict[str, tuple[int, int | None]]:
        """(item id, id of the job that brought it) by sha256. The audit items are drawn in the same transaction."""
        # In the order of the unique index: two imports of the same images then never wait for each other in a circle.
        items.sort(key=lambda item: item.sha256)
        Item.objects.bulk_create(items, ignore_conflicts=True)
        rows = Item.objects.filter(project=self.project, sha256__in=[item.sha256 for item in items])
        there: dict[str, tuple[int, int | None]] = {
            row[0]: (row[1], row[2]) for row in rows.values_list("sha256", "pk", "import_job_id")
        }
        mine = sorted(item_id for item_id, import_job_id in there.values() if import_job_id == self.job.pk)
        self.done += len(mine)
        wanted = audit_size(self.settings, new=self.done, before=self.before, audit_before=self.audit_before)
        drawn = random.SystemRandom().sample(mine, max(0, min(len(mine), wanted - self.audit_done)))
        self.audit_done += Item.objects.filter(pk__in=drawn).update(split=Split.AUDIT)
        return there

    @transaction.atomic
    def _label(self, labelled: dict[int, Taken]) -> None:
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
            value = {"class": self.classes[labelled[item.pk].label.casefold()]}
            end = ends.get(item.pk)
            if end is None or end.kind == Annotation.Kind.RETRACTION:
                new.append(self._annotation(item, value, end))
            elif end.value != value or end.kind != Annotation.Kind.LABEL:
                self.report.add("unlabelled", labelled[item.pk].name, f"{self.actor} answered otherwise before")
                continue
            self.report.labels += 1
        Annotation.objects.bulk_create(new)
        self.report.new_labels += len(new)
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


def _inspected(taken: Taken) -> Inspected | UnusableImage:
    try:
        return images.inspect(io.BytesIO(taken.content), settings.MAX_IMAGE_PIXELS)
    except UnusableImage as error:
        return error


def item_key(project: Project, sha256: str, extension: str, folder: str = "items") -> str:
    """Where the bytes of an item, or a picture made of it, lie in storage."""
    return f"{folder}/{project.pk}/{sha256[:2]}/{sha256}{extension}"


def _write_files(project: Project, taken: Taken, image: Inspected) -> None:
    _write(item_key(project, taken.sha256, image.extension), taken.content)
    for folder, picture in (("thumbnails", image.thumbnail), ("renditions", image.rendition)):
        if picture is not None:
            _write(item_key(project, taken.sha256, picture[1], folder), picture[0])


def _write(key: str, content: bytes) -> None:
    """Put it there, unless the same is there already; half a file of a run that was killed is replaced."""
    if default_storage.exists(key):
        if default_storage.size(key) == len(content):
            return
        default_storage.delete(key)
    stored = default_storage.save(key, ContentFile(content))
    if stored != key:  # another import wrote the same image in this instant
        default_storage.delete(stored)


def _item(job: Job, taken: Taken, image: Inspected) -> Item:
    key = item_key(job.project, taken.sha256, image.extension)
    thumbnail, rendition = image.thumbnail, image.rendition
    metadata = {}
    if rendition is not None:
        metadata["rendition_key"] = item_key(job.project, taken.sha256, rendition[1], "renditions")
    return Item(
        project=job.project,
        sha256=taken.sha256,
        storage_key=key,
        thumbnail_key=item_key(job.project, taken.sha256, thumbnail[1], "thumbnails") if thumbnail else key,
        width=image.width,
        height=image.height,
        size_bytes=len(taken.content),
        mime=image.mime,
        source_name=taken.name,
        uploader=job.created_by,
        import_job=job,
        metadata=metadata,
    )


def audit_size(chosen: ProjectSettings, *, new: int, before: int = 0, audit_before: int = 0) -> int:
    """How many of ``new`` pool items go to the audit sample, when ``audit_before`` of ``before`` are in it already.

    The chosen share, but at least the chosen minimum in all and at most half of the new ones. Items that come later
    get the chance the earlier ones had, so that the sample stays fair to both; only a small first import, half of
    which is audit, would cost a large second one too much: the sample stops at four times the minimum, or at the
    chosen share of everything.
    """
    fair = audit_before / before * new if before else 0.0
    wanted = max(fair, chosen.audit_fraction * new, chosen.audit_minimum - audit_before)
    room = max(4 * chosen.audit_minimum, chosen.audit_fraction * (before + new)) - audit_before
    return max(0, min(round(min(wanted, room)), new // 2))


def _finish(job: Job, report: Report) -> None:
    """Keep the report, let labelling begin, and have the new images embedded."""
    Job.objects.filter(pk=job.pk).update(result=asdict(report))
    queueing.start_queue(project=job.project)
    if report.imported:
        training.request_embedding(project=job.project)
    elif report.new_labels and job.created_by is not None:
        training.request_refit(project=job.project, actor=job.created_by)
    _remove_uploads(job)


def _remove_uploads(job: Job) -> None:
    """What was uploaded is in the items now, or could not be read."""
    table = job.parameters.get("table")
    for upload in [*job.parameters.get("uploads", []), *([table] if table else [])]:
        default_storage.delete(upload["key"])
    Job.objects.filter(pk=job.pk).update(parameters=job.parameters | {"is_tidy": True})


def _remove_leftovers(project: Project) -> None:
    """Uploads of imports that were cancelled before they began, or were given up."""
    over = Job.objects.filter(project=project, kind=Job.Kind.IMPORT, state__in=[Job.State.CANCELLED, Job.State.FAILED])
    for job in over.filter(parameters__has_key="uploads").exclude(parameters__has_key="is_tidy"):
        _remove_uploads(job)
