"""A project's model leaves, to run without Winnow: asking for a package, and fetching it once a worker made it.

Packages lie beside the other artifacts, so web server and workers share that folder. The job says what is in one;
where it lies follows from the job's number alone.
"""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from annotator import jobs, queries
from annotator.actions.exporting import safe_stem
from annotator.errors import Conflict, InvalidExport, NotFound
from annotator.models import AuditEvent, Job, Project

# How long a small network learns what the model says.
MINUTES, MINUTES_AT_MOST = 5.0, 1440
# Packages that are kept of a project; the oldest goes when another is made.
KEPT = 3


@dataclass(frozen=True)
class Package:
    """A finished package. ``job.result`` says what is in it: the number of the ``model``, whether it is ``distilled``,
    its ``audit`` report, its ``bytes``."""

    job: Job
    file_name: str


def lack_for_package(project: Project, *, distil: bool) -> str:
    """Why the project's model cannot be packaged now, as a sentence; empty if it can. At most three queries."""
    model = queries.current_model(project)
    if model is None:
        return _("there is no model yet; answer images of two classes first")
    if distil:
        if not (_artifacts() / model.metrics.get("embedding", "nowhere")).is_dir():
            why = _("the images of model %(number)s were embedded anew since; wait for the next model")
            return why % {"number": model.number}
    elif queries.network_in_use(project) is None:
        return _(
            "no trained network is in use here, and a head only runs on its encoder; distil a small network instead"
        )
    return ""


def request_package(*, project: Project, actor: User, distil: bool = False, minutes: float | None = None) -> Job:
    """Package the trained network as it is, or a small one that learns for so long what the newest model says.

    The same wish twice is one job. Raises InvalidExport for 0 minutes; Conflict while something is missing for it, or
    when another package is being made. Locks the project's row, so that two who press at once ask for one.
    """
    asked = MINUTES if minutes is None else minutes
    if not 0 < asked <= MINUTES_AT_MOST:
        ends = {"found": f"{asked:g}", "most": MINUTES_AT_MOST}
        why = _("%(found)s minutes is not between 0 and %(most)s") % ends
        raise InvalidExport(why, fields={"minutes": why})
    if lack := lack_for_package(project, distil=distil):
        raise Conflict(lack)
    parameters = {"distil": True, "minutes": asked} if distil else {"distil": False}
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        active = [Job.State.QUEUED, Job.State.RUNNING]
        job = Job.objects.filter(project=project, kind=Job.Kind.EXPORT, state__in=active).first()
        if job is None:
            AuditEvent.objects.create(project=project, actor=actor, verb="model export requested", detail=parameters)
            return jobs.enqueue(project, Job.Kind.EXPORT, parameters=parameters, created_by=actor)
    if {**job.parameters, **parameters} != job.parameters:
        why = _("another package is being made already, by job %(job)s; cancel it first, or let it be")
        raise Conflict(why % {"job": job.pk})
    return job


def newest_request(project: Project) -> Job | None:
    """The packaging that runs or waits, else the one that ended last. One query."""
    return Job.objects.filter(project=project, kind=Job.Kind.EXPORT).order_by("-id").first()


def packages(project: Project) -> list[Package]:
    """What can be fetched, the newest first. One query, and a look at the disk for each of them."""
    return [Package(job, file_name(job)) for job in _made(project)[:KEPT] if package_path(job).is_file()]


def open_package(job: Job) -> IO[bytes]:
    """The zip this job made. Raises Conflict while it is being made, NotFound where there is none (any more)."""
    if job.kind == Job.Kind.EXPORT and not job.is_over:
        raise Conflict(_("job %(job)s has not made its package yet; ask again when it is done") % {"job": job.pk})
    if job.kind == Job.Kind.EXPORT and job.state == Job.State.DONE:
        try:
            return package_path(job).open("rb")
        except OSError:
            pass  # as much as if it never was: newer ones took its place, or the disk was tidied
    why = _("there is no package of job %(job)s, or newer ones took its place; make another")
    raise NotFound(why % {"job": job.pk})


def file_name(job: Job) -> str:
    """A name for the download."""
    return f"{safe_stem(job.project)}-model-{job.result['model']}.zip"


def package_path(job: Job) -> Path:
    """Where the package of this job lies, or will."""
    return _artifacts() / str(job.project_id) / f"package-{job.pk}.zip"


def zip_folder(folder: Path, out: Path, name: str) -> None:
    """The files of a folder as a zip, in a folder of this name: unpacking litters nothing."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{name}/{path.name}")


def prune(project: Project, but: Job) -> None:
    """Remove packages that newer ones replaced, and what runs that were killed left behind. but: the job that runs."""
    home = _artifacts() / str(project.pk)
    kept = {package_path(job) for job in [but, *_made(project).exclude(pk=but.pk)[: KEPT - 1]]}
    for path in set(home.glob("package-*.zip")) - kept:
        path.unlink(missing_ok=True)
    for folder in home.glob("packaging-*"):
        if folder.name != work_folder(but).name:
            shutil.rmtree(folder, ignore_errors=True)


def work_folder(job: Job) -> Path:
    """Where this attempt at the job puts things together."""
    return _artifacts() / str(job.project_id) / f"packaging-{job.pk}-{job.attempt}"


def _made(project: Project) -> QuerySet[Job]:
    done = Job.objects.filter(project=project, kind=Job.Kind.EXPORT, state=Job.State.DONE, result__has_key="model")
    return done.select_related("project").order_by("-id")


def _artifacts() -> Path:
    return Path(settings.ARTIFACT_ROOT)
