"""`manage.py import_items PROJECT SOURCE`: images into a project, done here and now, without waiting for a worker."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.urls import reverse

from annotator import jobs
from annotator.actions import importing, projects
from annotator.errors import Conflict, WinnowError
from annotator.management.commands.login_link import site_address
from annotator.models import Job, Project, Role


class Command(BaseCommand):
    help = "Import a folder, a zip, an image, or a CSV or JSON Lines list of files into a project."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="name or number; made if there is none of this name")
        parser.add_argument("source", type=Path, help="folder, zip, image, or .csv or .jsonl with a column file_name")
        parser.add_argument(
            "--labels", default="none", metavar="from-folders|none|CSV", help="where labels come from (default: none)"
        )
        parser.add_argument("--owner", help="who brings the images (default: the first owner)")
        parser.add_argument("--json", action="store_true", help="print the report as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = self._import(**{name: options[name] for name in ("project", "source", "labels", "owner", "json")})
        except WinnowError as error:
            raise CommandError(error.message) from None
        if job.state != Job.State.DONE:
            raise CommandError(job.error or f"the import was {job.get_state_display().lower()}")
        if options["json"]:
            self.stdout.write(json.dumps({"project": job.project_id, "job": job.pk, **job.result}, ensure_ascii=False))
            return
        self._tell(job.result)
        if not job.project.classes.exists():
            where = reverse("project-settings", args=[job.project_id])
            self.stdout.write(f"next: name the classes at {site_address()}{where}")

    def _import(self, project: str, source: Path, labels: str, owner: str | None, json: bool) -> Job:
        is_word = labels in (importing.NO_LABELS, importing.FROM_FOLDERS)
        found = find_project(project)
        actor = find_actor(owner, found)
        # Refused before a project is made for it.
        table = None if is_word else Path(labels)
        importing.check_path_import(source, table)
        if found is None:
            found = projects.create_project(owner=actor, name=project, class_names=[])
            if not json:
                where = reverse("dashboard", args=[found.pk])
                self.stdout.write(f"made project {found.name}, at {site_address()}{where}")
        job = importing.create_path_import(
            project=found,
            actor=actor,
            source=source,
            labels=labels if is_word else importing.FROM_TABLE,
            label_table=table,
        )
        self._run(job)
        job.refresh_from_db()
        return job

    def _run(self, job: Job) -> None:
        claimed = jobs.claim(job.pk)
        if claimed is None:  # a worker was faster; it can only be one on this machine
            raise Conflict(f"a worker took job {job.pk} over; look at it on the training page")
        try:
            with jobs.running(claimed) as run:
                importing.run_import(run)
        except KeyboardInterrupt:
            jobs.cancel(claimed)  # otherwise a worker would pick it up
            raise CommandError("stopped; what is in stays in, and the same command again brings the rest") from None

    def _tell(self, report: dict[str, Any]) -> None:
        for kind, title in (("refused", "refused"), ("unlabelled", "label not taken"), ("merged", "label")):
            for each in report[kind]:
                self.stderr.write(f"{title}: {each['name']}: {each['reason']}")
        self.stdout.write(
            f"{report['imported']:,} imported, {report['duplicates']:,} already there, {report['labels']:,} labels,"
            f" {report['refused_count']:,} refused, {report['ignored_count']:,} system files left out"
        )


def find_project(wanted: str) -> Project | None:
    """The project of this name, else of this number; None for an unknown name. Raises CommandError for a number."""
    found = Project.objects.filter(name__iexact=" ".join(wanted.split())).first()
    if found is None and wanted.isascii() and wanted.isdigit():
        found = Project.objects.filter(pk=int(wanted[:18])).first()
        if found is None:
            raise CommandError(f"there is no project number {wanted}")
    return found


def find_actor(name: str | None, project: Project | None) -> User:
    """The named person; else an owner of the project; else the first superuser. Raises CommandError."""
    people = get_user_model().objects.filter(is_active=True).order_by("pk")
    if name:
        found = people.filter(username=name).first()
    elif project is not None:
        found = people.filter(memberships__project=project, memberships__role=Role.OWNER).first()
    else:
        found = people.filter(is_superuser=True).first() or people.filter(memberships__role=Role.OWNER).first()
    if found is None:
        raise CommandError(
            f"there is no account called {name!r}; `manage.py login_link {name} --create` makes one"
            if name
            else "there is no account to own the images yet; start Winnow once, or name one with --owner"
        )
    if project is not None and not project.memberships.filter(user=found, role=Role.OWNER).exists():
        raise CommandError(f"{found} is not an owner of {project}")
    return found
