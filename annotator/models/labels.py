from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy, pgettext_lazy

from annotator.models.certificates import Certificate
from annotator.models.items import Item
from annotator.models.projects import LabelClass, Project
from annotator.models.work import ModelVersion


class Proposal(models.Model):
    """A pseudo-label put before people. Never mixed with what people said: that is an Annotation.

    While pending it follows the newest model that still names the same value; once settled it is frozen, with the
    model version whose word was judged.
    """

    class State(models.TextChoices):
        PENDING = "pending", gettext_lazy("Pending")
        ACCEPTED = "accepted", gettext_lazy("Accepted")
        CORRECTED = "corrected", gettext_lazy("Corrected")
        REJECTED = "rejected", gettext_lazy("Rejected")
        AUTO_ACCEPTED = "auto_accepted", gettext_lazy("Accepted automatically")
        WITHDRAWN = "withdrawn", gettext_lazy("Withdrawn")

    # What no person has decided, and any person's answer to the image takes off the table.
    UNDECIDED = (State.PENDING, State.AUTO_ACCEPTED)

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="proposals")
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="proposals")
    model_version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="proposals")
    value = models.JSONField(help_text="owned by the task type")
    label_class = models.ForeignKey(
        LabelClass,
        null=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="the group it is reviewed in",
    )
    confidence = models.FloatField(help_text="0..1")
    is_calibrated = models.BooleanField(default=False)
    short_list = models.JSONField(default=list, help_text="[[class id, probability], ...], most likely first")
    certificate = models.ForeignKey(
        Certificate,
        null=True,
        on_delete=models.CASCADE,
        related_name="proposals",
        help_text="under which it was accepted unseen; pending with one: given back to people",
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    decided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["item"], condition=Q(state="pending"), name="one_pending_proposal_per_item"
            ),
            models.UniqueConstraint(
                fields=["item"], condition=Q(state="auto_accepted"), name="one_automatic_acceptance_per_item"
            ),
            models.CheckConstraint(
                condition=~Q(state="auto_accepted") | Q(certificate__isnull=False),
                name="nothing_is_accepted_unseen_without_a_certificate",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["accepted", "corrected", "rejected"]) | Q(decided_at__isnull=False),
                name="a_decided_proposal_says_when",
            ),
        )
        indexes = (
            models.Index(
                fields=["project", "label_class", "confidence", "id"],
                condition=Q(state="pending"),
                name="pending_proposals_by_doubt",
            ),
        )

    def __str__(self) -> str:
        return f"proposal {self.pk} for item {self.item_id}: {self.value} ({self.state})"


class Annotation(models.Model):
    """One person's answer to one item. Rows are only ever added.

    The answers of one person to one item form a chain by ``supersedes``; its last link is the current answer. The two
    constraints make a fork impossible, so two clicks at once cannot both win.
    """

    class Kind(models.TextChoices):
        LABEL = "label", pgettext_lazy("a kind of answer", "Label")
        SKIP = "skip", gettext_lazy("Skipped")
        NONE_OF_THESE = "none_of_these", gettext_lazy("None of these")
        REJECTION = "rejection", gettext_lazy("Not this")
        RETRACTION = "retraction", gettext_lazy("Taken back")

    class Source(models.TextChoices):
        PERSON = "person", gettext_lazy("Given in Winnow")
        IMPORTED = "imported", gettext_lazy("Came with the import")

    # The reason_code of what no queue asked for: a reviewer, who saw the other answers, settled what the image is.
    DECISION = "decision"

    uuid = models.UUIDField(unique=True, help_text="made by the client: sending it again changes nothing")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="annotations")
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="annotations")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="annotations")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    value = models.JSONField(null=True, help_text="owned by the task type; for a rejection: what it is not")
    source = models.CharField(max_length=12, choices=Source.choices, default=Source.PERSON)
    milliseconds = models.PositiveIntegerField(null=True, help_text="time spent, idle time left out")
    suggestion_shown = models.BooleanField(default=False)
    reason_code = models.CharField(
        max_length=16, blank=True, help_text="why the queue asked, kept for replay and undo"
    )
    reason_data = models.JSONField(default=dict, blank=True)
    moved_by = models.ForeignKey(
        "AuditEvent",
        null=True,
        on_delete=models.RESTRICT,
        related_name="+",
        help_text="the merge or split of classes that gave this answer its value; null: as it was given",
    )
    supersedes = models.OneToOneField("self", null=True, on_delete=models.CASCADE, related_name="superseded_by")
    settles = models.ForeignKey(Proposal, null=True, on_delete=models.SET_NULL, related_name="annotations")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(
                fields=["item", "annotator"],
                condition=Q(supersedes__isnull=True),
                name="one_chain_of_answers_per_person_and_item",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["label", "rejection"], value__isnull=False)
                | Q(kind__in=["skip", "none_of_these", "retraction"], value__isnull=True),
                name="labels_and_rejections_alone_have_a_value",
            ),
        )
        indexes = (
            models.Index(fields=["project", "id"], name="annotations_in_order"),
            models.Index(fields=["annotator", "project", "-id"], name="annotations_of_a_person"),
        )

    def __str__(self) -> str:
        return f"{self.annotator} on item {self.item_id}: {self.kind} {self.value or ''}"


class QueueEntry(models.Model):
    """An item waiting for an answer, and who holds it. Written by the ranking, closed by the answer."""

    class Reason(models.TextChoices):
        """Why this image; the sentence is made from ``reason_data`` by queries.reason_text."""

        AUDIT = "audit", gettext_lazy("Random check")
        TYPICAL = "typical", gettext_lazy("Typical of many")
        CLOSE_CALL = "close_call", gettext_lazy("Close call")
        UNSURE = "unsure", gettext_lazy("The model is unsure")
        DISPUTED = "disputed", gettext_lazy("Disputed")
        UNLIKE = "unlike", gettext_lazy("Unlike anything labelled")
        SCARCE = "scarce", gettext_lazy("More of a scarce class")
        RANDOM = "random", gettext_lazy("Picked at random")
        RETURNED = "returned", gettext_lazy("Back in the queue")
        BASELINE = "baseline", gettext_lazy("At random, to compare")
        SECOND_OPINION = "second_opinion", gettext_lazy("Second opinion")
        SUSPECT = "suspect", gettext_lazy("Perhaps labelled wrongly")
        AUTOMATIC = "automatic", gettext_lazy("Check of an automatic label")
        CHOSEN = "chosen", gettext_lazy("Chosen by a person")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="queue")
    item = models.OneToOneField(Item, on_delete=models.CASCADE, related_name="queue_entry")
    rank = models.IntegerField(help_text="smallest first")
    utility = models.FloatField(default=0.0)
    reason_code = models.CharField(max_length=16, choices=Reason.choices)
    reason_data = models.JSONField(default=dict)
    model_version = models.ForeignKey(ModelVersion, null=True, on_delete=models.SET_NULL, related_name="+")
    leased_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    leased_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ("rank", "id")
        constraints = (
            models.CheckConstraint(
                condition=Q(leased_by__isnull=True) | Q(leased_until__isnull=False),
                name="leased_by_needs_leased_until",
            ),
        )
        indexes = (models.Index(fields=["project", "rank", "id"], name="queue_in_order"),)

    def __str__(self) -> str:
        return f"#{self.rank} item {self.item_id} ({self.reason_code})"


class Flag(models.Model):
    """Somebody wants an image looked at again, and may say why. Taken down, it stays, with who did that and when."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="flags")
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="flags")
    raised_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    lowered_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    lowered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(
                fields=["item", "raised_by"],
                condition=Q(lowered_at__isnull=True),
                name="one_raised_flag_per_person_and_item",
            ),
        )
        indexes = (
            models.Index(fields=["project", "item"], condition=Q(lowered_at__isnull=True), name="raised_flags"),
        )

    def __str__(self) -> str:
        return f"flag of {self.raised_by} on item {self.item_id}"


class AuditEvent(models.Model):
    """Who did what, when. Only ever added."""

    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE, related_name="events")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    verb = models.CharField(max_length=60)
    detail = models.JSONField(default=dict)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=["project", "-id"], name="events_newest_first"),)

    def __str__(self) -> str:
        return f"{self.actor} {self.verb}"
