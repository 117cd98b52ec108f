from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy

from annotator.models.projects import LabelClass, Project
from annotator.models.work import Job


class Split(models.TextChoices):
    """What an item is for. Drawn once, at import, before any model has seen it."""

    POOL = "pool", gettext_lazy("Pool")
    AUDIT = "audit", gettext_lazy("Audit")
    TEST = "test", gettext_lazy("Test")


class Item(models.Model):
    """One image. The bytes live in storage under ``storage_key``; the database keeps what people act on."""

    class State(models.TextChoices):
        """Where the item stands: a projection of its current answers, written with them in one transaction."""

        OPEN = "open", gettext_lazy("Not labelled")
        LABELLED = "labelled", gettext_lazy("Labelled")
        NONE_OF_THESE = "none_of_these", gettext_lazy("None of these")
        SKIPPED = "skipped", gettext_lazy("Skipped")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="items")
    sha256 = models.CharField(max_length=64)
    storage_key = models.CharField(max_length=300)
    thumbnail_key = models.CharField(max_length=300)
    width = models.PositiveIntegerField(help_text="pixels, after the EXIF orientation was applied")
    height = models.PositiveIntegerField(help_text="pixels, after the EXIF orientation was applied")
    size_bytes = models.PositiveBigIntegerField()
    mime = models.CharField(max_length=40)
    source_name = models.CharField(max_length=500, help_text="the path it had where it came from")
    uploader = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    import_job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="items")
    split = models.CharField(max_length=8, choices=Split.choices, default=Split.POOL)
    state = models.CharField(max_length=16, choices=State.choices, default=State.OPEN)
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=["project", "sha256"], name="an_image_is_in_a_project_once"),)
        indexes = (models.Index(fields=["project", "split", "state", "id"], name="items_by_split_and_state"),)

    def __str__(self) -> str:
        return f"{self.source_name} ({self.sha256[:8]})"


class ClassExample(models.Model):
    """An image that shows people what a class means. No random check, no test image: it is seen with its class."""

    label_class = models.ForeignKey(LabelClass, on_delete=models.CASCADE, related_name="examples")
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="+")
    added_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=["label_class", "item"], name="an_example_shows_a_class_once"),)

    def __str__(self) -> str:
        return f"item {self.item_id} shows {self.label_class}"
