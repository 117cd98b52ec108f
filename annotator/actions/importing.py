"""Images come in: stored, checked and recorded batch by batch, so that a run that dies goes on where it was.

What is in the project already is known by its sha256, so doing it twice changes nothing.
"""

import contextlib
import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.files import File
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils.translation import gettext as _

from annotator import jobs
from annotator.actions import queueing, training
from annotator.actions.import_report import Report
from annotator.actions.imported_labels import FROM_FOLDERS, FROM_TABLE, NO_LABELS, ImportedLabels
from annotator.actions.item_files import Taken, inspected, make_item, write_files
from annotator.errors import InvalidImport, JobCancelled
from annotator.formats import images, sources
from annotator.formats.images import Inspected, UnusableImage
from annotator.formats.label_tables import FILE_COLUMNS, column, read_rows
from annotator.formats.sources import SourceFile, UnreadableFile
from annotator.models import (
    AuditEvent,
    Item,
    Job,
    Project,
    ProjectSettings,
    Split,
)

BATCH_FILES = 64
BATCH_BYTES = 32 * 2**20
THREADS = 2
TABLE_BYTES_AT_MOST = 256 * 2**20


# --- asking for it ----------------------------------------------------------------------------------------------


def start_upload_import(
    *,
    project: Project,
    actor: User,
    uploads: list[File],
    labels: str = NO_LABELS,
    label_table: File | None = None,
) -> Job:
    """A waiting import of uploaded zips and images, which now lie in storage. Raises InvalidImport, keeping nothing.

    labels: ``none``, ``from-folders``, or ``table`` with ``label_table``, a CSV or JSON Lines file.
    """
    if not uploads:
        raise InvalidImport(_("choose at least one image or zip file"), fields={"files": _("nothing was chosen")})
    parameters: dict[str, Any] = {"labels": clean_labels(labels, label_table)}
    folder = f"uploads/{project.pk}/{uuid.uuid4().hex}"
    parameters["uploads"] = []
    try:
        if label_table is not None and labels == FROM_TABLE:
            parameters["table"] = stored(label_table, f"{folder}/table")
        for number, each in enumerate(uploads):
            parameters["uploads"].append(stored(each, f"{folder}/{number}"))
    except OSError as error:
        delete_uploads(parameters)
        raise no_room(error) from None
    with transaction.atomic():
        names = [each["name"] for each in parameters["uploads"]]
        AuditEvent.objects.create(
            project=project,
            actor_id=actor.pk,
            verb="started an import",
            detail={"files": len(names), "names": names[:10]},
        )
        return jobs.enqueue(project, Job.Kind.IMPORT, parameters=parameters, created_by=actor)


def no_room(error: OSError) -> InvalidImport:
    """The refusal of files that could not be written down."""
    why = _("the files could not be stored (%(error)s); is the disk full?")
    return InvalidImport(why % {"error": error.strerror or error})


def clean_labels(labels: str, label_table: Any) -> str:
    """What an import is told about labels. Raises InvalidImport where it cannot be done."""
    if labels not in (NO_LABELS, FROM_FOLDERS, FROM_TABLE):
        raise InvalidImport(
            _("labels %(labels)s is not one of %(no_labels)s, %(from_folders)s, %(from_table)s")
            % {"labels": repr(labels), "no_labels": NO_LABELS, "from_folders": FROM_FOLDERS, "from_table": FROM_TABLE}
        )
    why = ""
    if labels == FROM_TABLE and label_table is None:
        why = _("choose the CSV or JSONL file that names the classes")
    elif isinstance(label_table, File) and label_table.size > TABLE_BYTES_AT_MOST:
        why = _("the table of labels is larger than %(mb)s MB; split the import")
        why %= {"mb": TABLE_BYTES_AT_MOST // 2**20}
    if why:
        raise InvalidImport(why, fields={"label_table": why})
    return labels


def stored(upload: File, key: str, path: str | None = None) -> dict[str, Any]:
    """The upload, now in storage, as a job's parameters know it. path: its name with folders, where it is known."""
    name = sources.clean_name(path or upload.name or "")
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
    clean_labels(labels, label_table)
    parameters = {"labels": labels, "path": str(source.absolute())}
    if label_table is not None:
        parameters["table_path"] = str(label_table.absolute())
    return Job.objects.create(project=project, kind=Job.Kind.IMPORT, parameters=parameters, created_by=actor)


def check_path_import(source: Path, label_table: Path | None) -> None:
    """Raises InvalidImport when there is nothing there, or it is of a kind that cannot be read yet."""
    if not source.exists():
        raise InvalidImport(_("there is no file or folder %(source)s") % {"source": source})
    if source.suffix.lower() in (".json", ".parquet"):
        raise InvalidImport(
            _("%(name)s: Label Studio and Hugging Face files cannot be read yet; bring a CSV list")
            % {"name": source.name}
        )
    if label_table is not None and not label_table.is_file():
        raise InvalidImport(
            _("labels: %(found)s is neither %(no_labels)s nor %(from_folders)s nor a file")
            % {"found": repr(str(label_table)), "no_labels": NO_LABELS, "from_folders": FROM_FOLDERS}
        )


# --- doing it ---------------------------------------------------------------------------------------------------


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
        uploads = list(_uploads(job.parameters))
        files = [file for each in uploads for file in _upload_files(each, stack, is_alone=len(uploads) == 1)]
        files = sources.without_wrapper(files) if "lists" in job.parameters else files
    if not files:
        raise InvalidImport(_("there is no file in it"))
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


def _upload_files(upload: dict[str, Any], stack: ExitStack, *, is_alone: bool) -> Iterator[SourceFile]:
    """The files of one upload. A broken zip is itself a file that cannot be read, so that what came with it goes in;
    alone it raises InvalidImport."""
    if not upload["is_zip"]:
        return iter([SourceFile(upload["name"], lambda: default_storage.open(upload["key"]))])
    try:
        file = stack.enter_context(default_storage.open(upload["key"]))
    except OSError:
        raise InvalidImport(
            _("the upload %(upload)s is gone from storage; upload it again") % {"upload": upload["name"]}
        ) from None
    try:
        archive = sources.open_zip(file, upload["name"])
    except InvalidImport as error:
        if is_alone:
            raise
        return iter([SourceFile(upload["name"], partial(_refuse, error.message))])
    return sources.zip_files(stack.enter_context(archive))


def _refuse(why: str) -> IO[bytes]:
    raise UnreadableFile(why)


class _Import:
    """One run over the files."""

    def __init__(self, run: jobs.Run, files: list[SourceFile], report: Report) -> None:
        self.run, self.files, self.report = run, files, report
        self.job, self.project = run.job, run.job.project
        self.settings = self.project.settings
        self.labels = ImportedLabels(run.job)
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
        self.labels.match(self.files, self.report)
        self.labels.create_classes(self.files, self.report)
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
            batch.append(Taken(file.name, content, sha256(content).hexdigest(), self.labels.of(file)))
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
        known |= self._insert([make_item(self.job, taken, image) for taken, image in new])
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
        self.labels.store(labelled, self.report)
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
        first = self.seen[taken.sha256]
        if self.labels.class_ids.get(taken.label) != self.labels.class_ids.get(first):
            self.report.add("unlabelled", taken.name, f"the same image came with {first or 'no label'}")

    def _check(self, batch: list[Taken]) -> list[tuple[Taken, Inspected]]:
        """Those that are images, written to storage."""
        good = []
        for taken, image in zip(batch, self.threads.map(inspected, batch), strict=True):
            if isinstance(image, UnusableImage):
                self.bad[taken.sha256] = str(image)
                self.report.add("refused", taken.name, str(image))
            else:
                good.append((taken, image))
        list(self.threads.map(lambda each: write_files(self.project, *each), good))
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
    delete_uploads(job.parameters)
    Job.objects.filter(pk=job.pk).update(parameters=job.parameters | {"is_tidy": True})


def delete_uploads(parameters: dict[str, Any]) -> None:
    """Remove from storage what these parameters of an import name."""
    table = parameters.get("table")
    for upload in [*_uploads(parameters), *([table] if table else [])]:
        default_storage.delete(upload["key"])
    if folder := parameters.get("folder"):  # with what a request left that was cut off
        empty(folder)


def empty(folder: str) -> None:
    """Remove a folder of storage and the files in it; none is not an error."""
    with contextlib.suppress(FileNotFoundError):
        for name in default_storage.listdir(folder)[1]:
            default_storage.delete(f"{folder}/{name}")
    default_storage.delete(folder)  # where storage knows folders


def _uploads(parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The uploads of an import: those of one request, or those that were collected, list by list."""
    yield from parameters.get("uploads", [])
    for listed in parameters.get("lists", []):
        if default_storage.exists(listed):  # removed already where the import was interrupted at its end
            with default_storage.open(listed) as file:
                yield from json.loads(file.read())


def _remove_leftovers(project: Project) -> None:
    """Uploads of imports that were cancelled before they began, or were given up."""
    over = Job.objects.filter(project=project, kind=Job.Kind.IMPORT, state__in=[Job.State.CANCELLED, Job.State.FAILED])
    for job in over.filter(parameters__has_any_keys=["uploads", "lists"]).exclude(parameters__has_key="is_tidy"):
        _remove_uploads(job)
