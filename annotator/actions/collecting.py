"""Files that arrive in many small requests and are imported together.

A collection is a folder below the project's uploads, named by the browser that fills it. Each request leaves its files
there and, last, a list of them; a request that is sent again replaces what it left, so nothing comes in twice. No
table keeps this: what nobody imports is removed after a day.
"""

import json
import uuid as uuids
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import jobs
from annotator.actions.importing import FROM_TABLE, NO_LABELS, clean_labels, delete_uploads, empty, no_room, stored
from annotator.errors import InvalidImport
from annotator.models import AuditEvent, Job, Project

BATCHES_AT_MOST = 20_000
ABANDONED = timedelta(days=1)


def folder_of(project: Project, collection: uuids.UUID) -> str:
    return f"uploads/{project.pk}/collected-{collection.hex}"


def collect(
    *, project: Project, collection: uuids.UUID, batch: int, uploads: list[File], paths: list[str] | None = None
) -> int:
    """Keep the files of one request of a collection; how many they are. The same batch again replaces the first.

    paths: the path of each file below the folder it came from, where the browser knows it. Raises InvalidImport.
    """
    if not uploads:
        raise InvalidImport(_("no file arrived; send them again"))
    if not 0 <= batch < BATCHES_AT_MOST:
        said = {"batch": batch, "most": BATCHES_AT_MOST}
        raise InvalidImport(_("batch %(batch)s is not one of 0 to %(most)s; bring a zip instead") % said)
    if paths is not None and len(paths) != len(uploads):
        said = {"paths": len(paths), "files": len(uploads)}
        raise InvalidImport(_("%(paths)s paths came with %(files)s files; reload the page") % said)
    folder = folder_of(project, collection)
    listed = f"{folder}/{batch:06}.json"
    discard_batch(listed)
    kept: dict[str, Any] = {"uploads": []}
    try:
        for number, upload in enumerate(uploads):
            kept["uploads"].append(stored(upload, f"{folder}/{batch:06}-{number}", paths[number] if paths else None))
        default_storage.save(listed, ContentFile(json.dumps(kept["uploads"]).encode()))
    except OSError as error:
        delete_uploads(kept)
        raise no_room(error) from None
    return len(uploads)


def discard_batch(listed: str) -> None:
    """Remove what an earlier sending of a batch left."""
    if default_storage.exists(listed):
        delete_uploads({"uploads": list(read_list(listed))})
        default_storage.delete(listed)


def read_list(listed: str) -> Iterator[dict[str, Any]]:
    """The files of one batch as the import knows them."""
    with default_storage.open(listed) as file:
        yield from json.loads(file.read())


def start_collected_import(
    *,
    project: Project,
    actor: User,
    collection: uuids.UUID,
    labels: str = NO_LABELS,
    label_table: File | None = None,
) -> Job:
    """A waiting import of all that was collected; asked for again, the one there is. Raises InvalidImport."""
    parameters: dict[str, Any] = {"labels": clean_labels(labels, label_table), "collection": collection.hex}
    folder = folder_of(project, collection)
    lists = _lists(folder)
    asked = Job.objects.filter(project=project, parameters__collection=collection.hex)
    if (again := asked.first()) is not None:
        return again
    if not lists:
        raise InvalidImport(_("none of the files is here any more; choose them again"))
    firsts = list(read_list(lists[0]))
    # Not the names themselves: every page that shows a job reads its parameters, and there may be 100,000.
    tops = Counter(file["name"].partition("/")[0] for each in lists for file in read_list(each))
    parameters |= {"folder": folder, "lists": lists, "first": firsts[0]["name"], "count": tops.total()}
    if len(tops) == 1 and "/" in firsts[0]["name"]:
        parameters["from_folder"] = next(iter(tops))
    if label_table is not None and labels == FROM_TABLE:
        try:
            parameters["table"] = stored(label_table, f"{folder}/table")
        except OSError as error:
            raise no_room(error) from None
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        again = Job.objects.filter(
            project=project, kind=Job.Kind.IMPORT, parameters__collection=collection.hex
        ).first()
        if again is not None:
            return again
        detail = {"files": parameters["count"], "names": [each["name"] for each in firsts[:10]]}
        AuditEvent.objects.create(project=project, actor_id=actor.pk, verb="started an import", detail=detail)
        return jobs.enqueue(project, Job.Kind.IMPORT, parameters=parameters, created_by=actor)


def discard(*, project: Project, collection: uuids.UUID) -> None:
    """Remove what was collected, unless it is being imported. Twice does no harm."""
    if not Job.objects.filter(project=project, parameters__collection=collection.hex).exists():
        empty(folder_of(project, collection))


def discard_abandoned(project: Project) -> None:
    """Remove the collections that nobody added to for a day and nobody imports."""
    below = f"uploads/{project.pk}"
    for name in _listed(below)[0]:
        if not name.startswith("collected-"):
            continue
        files = [f"{below}/{name}/{each}" for each in _listed(f"{below}/{name}")[1]]
        is_old = all(timezone.now() - default_storage.get_modified_time(each) > ABANDONED for each in files)
        collection = name.removeprefix("collected-")
        if is_old and not Job.objects.filter(project=project, parameters__collection=collection).exists():
            empty(f"{below}/{name}")


def _lists(folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in sorted(_listed(folder)[1]) if name.endswith(".json")]


def _listed(folder: str) -> tuple[list[str], list[str]]:
    try:
        folders, files = default_storage.listdir(folder)
    except FileNotFoundError:
        return [], []
    return folders, files
