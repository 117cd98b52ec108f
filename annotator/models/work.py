from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy

from annotator.models.projects import Project

# Of these a project needs no more than one waiting and one running.
COALESCED = ["embed", "refit", "train", "compare", "study", "back_test", "map"]


class Job(models.Model):
    """Anything long. This row is the truth; a broker message only says "look".

    A run owns the row while ``attempt`` is the number it started with and ``heartbeat_at`` is fresh. A run that went
    silent is overtaken: its attempt no longer matches, and its next report raises JobLost.
    """

    class Kind(models.TextChoices):
        IMPORT = "import", gettext_lazy("Import")
        EMBED = "embed", gettext_lazy("Embed the pool")
        REFIT = "refit", gettext_lazy("Learn and rank")
        TRAIN = "train", gettext_lazy("Train a network")
        COMPARE = "compare", gettext_lazy("Compare encoders")
        STUDY = "study", gettext_lazy("Study the answers")
        BACK_TEST = "back_test", gettext_lazy("Back-test")
        EXPORT = "export", gettext_lazy("Export")
        GROUP = "group", gettext_lazy("Group look-alikes")
        MAP = "map", gettext_lazy("Draw the map")

    class State(models.TextChoices):
        QUEUED = "queued", gettext_lazy("Waiting")
        RUNNING = "running", gettext_lazy("Running")
        DONE = "done", gettext_lazy("Done")
        FAILED = "failed", gettext_lazy("Failed")
        CANCELLED = "cancelled", gettext_lazy("Cancelled")

    # A later request for one of these kinds finds the job that waits already.
    COALESCED = COALESCED

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="jobs")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    parameters = models.JSONField(default=dict, blank=True)
    seed = models.PositiveIntegerField(default=0)
    progress = models.FloatField(default=0.0, help_text="0..1")
    message = models.CharField(max_length=300, blank=True, help_text="what it is doing now")
    log_tail = models.TextField(blank=True)
    error = models.TextField(blank=True)
    result = models.JSONField(default=dict, blank=True)
    cancel_requested = models.BooleanField(default=False)
    attempt = models.PositiveSmallIntegerField(default=0)
    heartbeat_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["project", "kind"],
                condition=Q(state="queued", kind__in=COALESCED),
                name="one_waiting_job_per_project_and_coalesced_kind",
            ),
            models.UniqueConstraint(
                fields=["project", "kind"],
                condition=Q(state="running", kind__in=COALESCED),
                name="one_running_job_per_project_and_coalesced_kind",
            ),
            models.CheckConstraint(
                condition=~Q(state="running") | Q(heartbeat_at__isnull=False),
                name="a_running_job_has_a_heartbeat",
            ),
        )
        indexes = (
            models.Index(fields=["state", "heartbeat_at"], name="jobs_by_state"),
            models.Index(fields=["project", "kind", "-id"], name="jobs_newest_first"),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()} #{self.pk} ({self.state})"

    @property
    def is_over(self) -> bool:
        return self.state in (self.State.DONE, self.State.FAILED, self.State.CANCELLED)


class ModelVersion(models.Model):
    """What a refit or a training run produced. ``class_ids`` freezes the column order of its probabilities."""

    # In the place of a head's name: nobody taught this model, it compared each image with the names of the classes.
    ZERO_SHOT = "zero_shot"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="model_versions")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="model_versions")
    number = models.PositiveIntegerField(help_text="1, 2, 3... within the project")
    encoder = models.CharField(max_length=40)
    algorithm = models.CharField(max_length=40, help_text="the head or trainer, or zero_shot")
    class_ids = models.JSONField(help_text="column order of the probabilities")
    label_watermark = models.BigIntegerField(help_text="the last annotation it may have learnt from")
    label_count = models.PositiveIntegerField(help_text="answers it was trained on")
    answer_count = models.PositiveIntegerField(help_text="answers given when it was made, audit included")
    temperature = models.FloatField(null=True, help_text="null: confidence is not calibrated yet")
    metrics = models.JSONField(default=dict)
    artifact_folder = models.CharField(max_length=300, help_text="relative to ARTIFACT_ROOT; empty once pruned")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-number",)
        constraints = (models.UniqueConstraint(fields=["project", "number"], name="model_numbers_differ"),)

    def __str__(self) -> str:
        return f"model {self.number} ({self.algorithm})"

    @property
    def is_calibrated(self) -> bool:
        return self.temperature is not None

    @property
    def is_zero_shot(self) -> bool:
        return self.algorithm == self.ZERO_SHOT
