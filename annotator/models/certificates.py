"""Looks at the random checks, and what they promise of images that nobody looked at."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from annotator.models.projects import LabelClass, Project
from annotator.models.work import ModelVersion


class Look(models.Model):
    """A planned look at the answered random checks, taken: the error it spent is gone whatever it showed."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="looks")
    number = models.PositiveIntegerField(help_text="1, 2, 3... within the project")
    planned = models.PositiveIntegerField(help_text="its number among the looks in a row with this target")
    model_version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="looks")
    answers = models.PositiveIntegerField(help_text="answered random checks it saw")
    target = models.FloatField(help_text="0..1")
    confidence = models.FloatField(help_text="0..1, of all looks together")
    spent = models.FloatField(help_text="its part of the error")
    delta = models.FloatField(help_text="what its certificates may err by: spent, less what choosing models cost")
    strata = models.JSONField(default=dict, help_text="import job (0: none) -> images of it in the pool then")
    preview = models.JSONField(default=dict, help_text="what a lower target would have let through: target, count")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-number",)
        constraints = (models.UniqueConstraint(fields=["project", "number"], name="look_numbers_differ"),)

    def __str__(self) -> str:
        return f"look {self.number} at {self.answers:,} random checks"


class Certificate(models.Model):
    """With the look's confidence at least ``target`` of the ``rest`` images in a region are right.

    The region: what the look's model predicts, as ``label_class`` or as any, with at least ``threshold`` of raw
    confidence. ``checks`` freezes what that model says of every random check in it, answered or not, so that answers
    yet to come are held against the same predictions.
    """

    look = models.ForeignKey(Look, on_delete=models.CASCADE, related_name="certificates")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="certificates")
    label_class = models.ForeignKey(
        LabelClass, null=True, on_delete=models.CASCADE, related_name="+", help_text="null: any class"
    )
    threshold = models.FloatField(help_text="0..1, of the model's own confidence, before a temperature")
    n = models.PositiveIntegerField(help_text="random checks in the region")
    k = models.PositiveIntegerField(help_text="of those, right")
    rest = models.PositiveIntegerField(help_text="images nobody had answered")
    answered = models.PositiveIntegerField(help_text="images people had answered otherwise than as random checks")
    bound = models.FloatField(help_text="at least so much is right, 0..1; follows the answers")
    target = models.FloatField(help_text="0..1")
    confidence = models.FloatField(help_text="0..1")
    delta = models.FloatField(help_text="its part of the look's")
    checks = models.JSONField(default=dict, help_text="item id of a random check -> class id predicted")
    created_at = models.DateTimeField(auto_now_add=True)
    accepted_at = models.DateTimeField(null=True, help_text="when its labels were accepted; null: they are not")
    ended_at = models.DateTimeField(null=True)
    ended_why = models.CharField(max_length=300, blank=True)
    ended_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | ~Q(ended_why=""), name="a_certificate_that_ended_says_why"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(accepted_at__isnull=True),
                name="nothing_is_accepted_under_a_certificate_that_ended",
            ),
        )
        indexes = (
            models.Index(fields=["project", "-id"], condition=Q(ended_at__isnull=True), name="standing_certificates"),
        )

    def __str__(self) -> str:
        return f"certificate {self.pk}: at least {self.target:.1%} of {self.rest:,} right"

    @property
    def errors(self) -> int:
        return self.n - self.k
