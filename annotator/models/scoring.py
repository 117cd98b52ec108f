from django.db import models
from django.db.models import F, Q

from annotator.models.work import Job


class ScoringShard(models.Model):
    """Some of the images that a job scores, for whichever worker takes them first.

    A worker holds a shard while ``attempt`` is the number it took it with and ``heartbeat_at`` is fresh; nobody does
    while that is null. A shard that was held and went silent may be taken again.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="scoring_shards")
    folder = models.CharField(max_length=300, help_text="what is to be computed, and the scores; in ARTIFACT_ROOT")
    number = models.PositiveIntegerField()
    first = models.PositiveIntegerField()
    end = models.PositiveIntegerField(help_text="one past the last image")
    is_done = models.BooleanField(default=False, help_text="its scores lie in the folder")
    attempt = models.PositiveSmallIntegerField(default=0)
    held_by = models.CharField(max_length=100, blank=True, help_text="the process that took it last")
    heartbeat_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True, help_text="why the last attempt failed")

    class Meta:
        ordering = ("job", "number")
        constraints = (
            models.UniqueConstraint(fields=["job", "number"], name="shard_numbers_differ_within_a_job"),
            models.CheckConstraint(condition=Q(end__gt=F("first")), name="a_shard_holds_images"),
            models.CheckConstraint(
                condition=Q(is_done=False) | Q(heartbeat_at__isnull=True), name="nobody_holds_a_shard_that_is_done"
            ),
        )

    def __str__(self) -> str:
        return f"images {self.first:,} to {self.end - 1:,} of job {self.job_id}"
