from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy

from annotator.models.items import Item
from annotator.models.labels import Annotation
from annotator.models.projects import LabelClass, Project


class Suspect(models.Model):
    """A label that the other answers speak against. The next answer to its image, given blind, settles it.

    Belongs to the answer it doubts, not to the image: whoever labels the image anew is not suspected for it.
    """

    class Doubt(models.TextChoices):
        MISLABELLED = "mislabelled", gettext_lazy("Perhaps of another class")
        FOREIGN = "foreign", gettext_lazy("Perhaps of no class")

    class State(models.TextChoices):
        OPEN = "open", gettext_lazy("Not asked again yet")
        CONFIRMED = "confirmed", gettext_lazy("The label was right")
        REPAIRED = "repaired", gettext_lazy("The label was changed")
        DROPPED = "dropped", gettext_lazy("No longer suspected")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="suspects")
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="suspects")
    annotation = models.OneToOneField(Annotation, on_delete=models.CASCADE, related_name="suspect")
    doubt = models.CharField(max_length=12, choices=Doubt.choices)
    label_class = models.ForeignKey(
        LabelClass, null=True, on_delete=models.CASCADE, related_name="+", help_text="what it may be instead"
    )
    score = models.FloatField(help_text="0..1, 1: surest to be wrong")
    state = models.CharField(max_length=12, choices=State.choices, default=State.OPEN)
    settled_by = models.ForeignKey(Annotation, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-score", "id")
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["open", "dropped"]) | Q(settled_at__isnull=False),
                name="a_settled_suspect_says_when",
            ),
        )
        indexes = (models.Index(fields=["project", "state", "-score", "id"], name="suspects_worst_first"),)

    def __str__(self) -> str:
        return f"suspect {self.pk}: item {self.item_id} ({self.state})"
