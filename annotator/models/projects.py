from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy

from annotator.models.project_settings import ProjectSettings


class Role(models.TextChoices):
    """What a member may do; each role includes those below it (see access.py)."""

    OWNER = "owner", gettext_lazy("Owner")
    REVIEWER = "reviewer", gettext_lazy("Reviewer")
    ANNOTATOR = "annotator", gettext_lazy("Annotator")
    VIEWER = "viewer", gettext_lazy("Viewer")


class Project(models.Model):
    """A pool of items, a task type, classes, instructions and settings."""

    name = models.CharField(max_length=120)
    instructions = models.TextField(blank=True)
    task_type = models.CharField(max_length=40, default="single_label")
    settings_json = models.JSONField(default=dict, blank=True, db_column="settings")
    is_demo = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(Lower("name"), name="project_names_differ"),
            models.UniqueConstraint(fields=["is_demo"], condition=Q(is_demo=True), name="at_most_one_demo_project"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def settings(self) -> ProjectSettings:
        """The checked settings. A stored value that no longer passes raises InvalidSettings, naming it."""
        return ProjectSettings.clean(self.settings_json)


class Membership(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "user"], name="one_role_per_person_and_project"),)

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class LabelClass(models.Model):
    """A class people may choose. Never deleted: archived, so that old answers keep their meaning."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="classes")
    name = models.CharField(max_length=120)
    colour = models.CharField(max_length=7, default="#888888", help_text="#rrggbb")
    shortcut = models.CharField(max_length=1, blank=True, help_text="the key that chooses it")
    description = models.TextField(blank=True)
    position = models.PositiveIntegerField(default=0)
    is_archived = models.BooleanField(default=False)
    merged_into = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.SET_NULL,
        related_name="merged",
        help_text="archived because it is the same as this one: what still arrives for it counts there",
    )

    class Meta:
        ordering = ("position", "id")
        constraints = (
            models.UniqueConstraint("project", Lower("name"), name="class_names_differ_within_project"),
            models.UniqueConstraint(
                fields=["project", "shortcut"],
                condition=~Q(shortcut="") & Q(is_archived=False),
                name="open_classes_have_different_shortcuts",
            ),
            models.CheckConstraint(
                condition=Q(merged_into__isnull=True) | Q(is_archived=True), name="a_merged_class_is_archived"
            ),
        )

    def __str__(self) -> str:
        return self.name
