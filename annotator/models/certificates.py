"""Looks at the random checks, rounds of checks in one region, and what they promise of images nobody looked at."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy

from annotator.models.items import Item
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


class Round(models.Model):
    """Random checks inside the very region that is to be accepted unseen (ml_worker/rounds.py).

    The region: ``size`` images that one model predicted, as ``label_class`` or as any, with at least ``threshold`` of
    raw confidence; which ones and as what is frozen in a file. Its error is gone however it ends.
    """

    class State(models.TextChoices):
        RUNNING = "running", gettext_lazy("Running")
        CERTIFIED = "certified", gettext_lazy("Certified")
        FAILED = "failed", gettext_lazy("Failed")
        CANCELLED = "cancelled", gettext_lazy("Cancelled")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField(help_text="1, 2, 3... within the project")
    model_version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="rounds")
    label_class = models.ForeignKey(
        LabelClass, null=True, on_delete=models.CASCADE, related_name="+", help_text="null: any class"
    )
    threshold = models.FloatField(help_text="0..1, of the model's own confidence, before a temperature")
    share = models.FloatField(help_text="of the pool, 0..1: how far down the confidences reach")
    size = models.PositiveIntegerField(help_text="images of the region, checks included")
    target = models.FloatField(help_text="0..1, when it began")
    confidence = models.FloatField(help_text="0..1, of all looks and rounds together")
    spent = models.FloatField(help_text="its part of the error")
    stages = models.JSONField(help_text="[[checks, errors allowed, part of the error], ...]")
    state = models.CharField(max_length=12, choices=State.choices, default=State.RUNNING)
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)
    ended_why = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("-number",)
        constraints = (
            models.UniqueConstraint(fields=["project", "number"], name="round_numbers_differ"),
            models.UniqueConstraint(
                fields=["project"], condition=Q(state="running"), name="one_running_round_per_project"
            ),
            models.CheckConstraint(
                condition=Q(state="running", ended_at__isnull=True)
                | (~Q(state="running") & Q(ended_at__isnull=False) & ~Q(ended_why="")),
                name="a_round_that_ended_says_when_and_why",
            ),
        )

    def __str__(self) -> str:
        return f"round {self.number} over {self.size:,} images"


class RoundCheck(models.Model):
    """An image drawn for a round, and what the round's model says of it."""

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="checks")
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="round_checks")
    position = models.PositiveIntegerField(help_text="0, 1, 2... in the order drawn")
    predicted = models.ForeignKey(LabelClass, on_delete=models.CASCADE, related_name="+")
    place = models.FloatField(help_text="share of the pool the model was at least as sure of, 0..1")

    class Meta:
        ordering = ("round", "position")
        constraints = (
            models.UniqueConstraint(fields=["round", "position"], name="one_check_at_each_position_of_a_round"),
            models.UniqueConstraint(fields=["round", "item"], name="an_image_is_drawn_once_in_a_round"),
        )

    def __str__(self) -> str:
        return f"check {self.position} of round {self.round_id}: item {self.item_id}"


class Certificate(models.Model):
    """With the confidence of all looks and rounds at least ``target`` of the ``rest`` images in a region are right.

    The region: what the model of the look or round predicts, as ``label_class`` or as any, with at least ``threshold``
    of raw confidence. ``checks`` freezes what that model says of every random check in it, answered or not, so that
    answers yet to come are held against the same predictions.
    """

    look = models.ForeignKey(Look, null=True, on_delete=models.CASCADE, related_name="certificates")
    round = models.OneToOneField(Round, null=True, on_delete=models.CASCADE, related_name="certificate")
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
    delta = models.FloatField(help_text="its part of the look's or the round's")
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
            models.CheckConstraint(
                condition=Q(look__isnull=True, round__isnull=False) | Q(look__isnull=False, round__isnull=True),
                name="a_certificate_comes_of_a_look_or_of_a_round",
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

    @property
    def model_version(self) -> ModelVersion:
        """Whose predictions it speaks of."""
        source = self.look or self.round
        assert source is not None  # a_certificate_comes_of_a_look_or_of_a_round
        return source.model_version
