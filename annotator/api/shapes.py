"""What the API reads and writes. Shapes check types and lengths; whether a request makes sense, the actions say.

Shapes over a table are for reading alone: no row is ever written by one.
"""

from typing import Any

from django.urls import reverse
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotator import access, queries
from annotator.actions import certifying, exporting, importing, labeling
from annotator.api.classes_shapes import ClassShape
from annotator.models import (
    Annotation,
    ApiToken,
    Certificate,
    Item,
    Job,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Role,
    Round,
    Split,
)

# The largest id PostgreSQL's bigint holds.
ID_AT_MOST = 2**63 - 1

SETTINGS_HELP = (
    "every setting; see the settings page. `parameters` holds what algorithms are told beside their defaults, as "
    '{"encoder.pretrained.model": "facebook/dinov2-small"}; each keeps its value until it is given another, and null '
    "brings its default back"
)


class IdField(serializers.IntegerField):
    """The id of a row."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=1, max_value=ID_AT_MOST, **options)


@extend_schema_field({"description": 'owned by the task type; for single_label: {"class": id}'})
class ValueField(serializers.JSONField):
    """What an answer says."""


# --- projects and classes -----------------------------------------------------------------------------------


class ProjectShape(serializers.ModelSerializer[Project]):
    role = serializers.SerializerMethodField()
    settings = serializers.DictField(source="settings.to_json", help_text=SETTINGS_HELP)
    classes = ClassShape(many=True)

    class Meta:
        model = Project
        fields = ("id", "name", "instructions", "task_type", "is_demo", "role", "settings", "classes", "created_at")
        read_only_fields = fields

    @extend_schema_field(serializers.ChoiceField(choices=Role.choices))
    def get_role(self, project: Project) -> str:
        return access.get_membership(self.context["request"].user, project.pk).role


class NewProject(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=1000)
    classes = serializers.ListField(child=serializers.CharField(max_length=1000), default=list, max_length=1000)
    instructions = serializers.CharField(default="", allow_blank=True)


class ProjectChange(serializers.Serializer[Any]):
    """What is left out stays as it is."""

    name = serializers.CharField(required=False, max_length=1000)
    instructions = serializers.CharField(required=False, allow_blank=True)
    settings = serializers.DictField(required=False, child=serializers.JSONField(), help_text=SETTINGS_HELP)


# --- items --------------------------------------------------------------------------------------------------


class ItemShape(serializers.ModelSerializer[Item]):
    image = serializers.SerializerMethodField(help_text="address of the image")
    thumbnail = serializers.SerializerMethodField(help_text="address of the thumbnail")

    class Meta:
        model = Item
        fields = (
            "id", "source_name", "sha256", "width", "height", "size_bytes", "mime", "split", "state", "metadata",
            "created_at", "image", "thumbnail",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(serializers.URLField())
    def get_image(self, item: Item) -> str:
        return self._address("api-item-image", item)

    @extend_schema_field(serializers.URLField())
    def get_thumbnail(self, item: Item) -> str:
        return self._address("api-item-thumbnail", item)

    def _address(self, name: str, item: Item) -> str:
        address: str = self.context["request"].build_absolute_uri(reverse(name, args=[item.project_id, item.pk]))
        return address


class ItemFilter(serializers.Serializer[Any]):
    split = serializers.ChoiceField(choices=Split.choices, required=False)
    state = serializers.ChoiceField(choices=Item.State.choices, required=False)


class NewImport(serializers.Serializer[Any]):
    files = serializers.ListField(
        child=serializers.FileField(allow_empty_file=True), default=list, help_text="images and zip files of images"
    )
    labels = serializers.CharField(default=importing.NO_LABELS, help_text="none, from-folders or table")
    label_table = serializers.FileField(
        required=False, allow_null=True, default=None, help_text="CSV or JSON Lines; for labels=table"
    )


# --- answers ------------------------------------------------------------------------------------------------


class Reason(serializers.Serializer[Any]):
    code = serializers.ChoiceField(choices=QueueEntry.Reason.choices)
    text = serializers.CharField()


class Suggested(serializers.Serializer[Any]):
    class_ = serializers.IntegerField(help_text="class id")
    probability = serializers.FloatField(help_text="0..1")

    def get_fields(self) -> dict[str, Any]:
        shape = super().get_fields()
        return {"class": shape["class_"], "probability": shape["probability"]}


class EntryShape(serializers.ModelSerializer[QueueEntry]):
    """An item this person holds. Needs ``project`` and ``class_names`` in the context."""

    item = ItemShape()
    reason = serializers.SerializerMethodField()
    suggestion = serializers.SerializerMethodField(help_text="null where the project shows none")

    class Meta:
        model = QueueEntry
        fields = ("item", "reason", "suggestion", "leased_until")
        read_only_fields = fields

    @extend_schema_field(Reason)
    def get_reason(self, entry: QueueEntry) -> dict[str, str]:
        return {"code": entry.reason_code, "text": queries.reason_text(entry, self.context["class_names"])}

    @extend_schema_field(Suggested(allow_null=True))
    def get_suggestion(self, entry: QueueEntry) -> dict[str, Any] | None:
        guess = queries.suggestion(entry, self.context["project"])
        return {"class": guess[0], "probability": guess[1]} if guess else None


class AnnotationShape(serializers.ModelSerializer[Annotation]):
    annotator = serializers.CharField(source="annotator.username")
    value = ValueField(allow_null=True)
    supersedes = serializers.IntegerField(source="supersedes_id", allow_null=True)
    settles = serializers.IntegerField(source="settles_id", allow_null=True, help_text="the proposal it settles")
    item = serializers.IntegerField(source="item_id")

    class Meta:
        model = Annotation
        fields = (
            "id", "uuid", "item", "annotator", "kind", "value", "source", "milliseconds", "suggestion_shown",
            "reason_code", "supersedes", "settles", "created_at",
        )  # fmt: skip
        read_only_fields = fields


class AnnotationFilter(serializers.Serializer[Any]):
    item = IdField(required=False)
    current = serializers.BooleanField(default=False, help_text="only answers nothing has superseded")


class Reservation(serializers.Serializer[Any]):
    count = serializers.IntegerField(default=5, min_value=1, max_value=100, help_text="how many to hold in all")


class NewAnnotation(serializers.Serializer[Any]):
    uuid = serializers.UUIDField(help_text="made by the client for this answer; sending it again changes nothing")
    item = IdField()
    kind = serializers.ChoiceField(choices=[(kind.value, kind.label) for kind in labeling.ANSWERS])
    value = ValueField(required=False, allow_null=True, default=None)
    milliseconds = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0)
    reserve = serializers.IntegerField(default=5, min_value=0, max_value=100, help_text="how many to hold afterwards")


class Undo(serializers.Serializer[Any]):
    uuid = serializers.UUIDField(help_text="made by the client for this undo; sending it again undoes nothing more")


class QueueShape(serializers.Serializer[Any]):
    queue = EntryShape(many=True, help_text="what this person holds now, in the order to answer")


class Submitted(QueueShape):
    annotation = AnnotationShape()


class Undone(QueueShape):
    item = serializers.IntegerField(allow_null=True, help_text="held again; null when there was nothing to take back")


class Counted(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="how many rows that concerned")


# --- proposals ----------------------------------------------------------------------------------------------


class ProposalShape(serializers.ModelSerializer[Proposal]):
    item = ItemShape()
    value = ValueField()
    model = serializers.IntegerField(source="model_version.number", help_text="number of the model version")
    short_list = serializers.ListField(
        help_text="[[class id, probability], ...], most likely first; where the model's metrics hold a short_list, it"
        " has the right class as often as promised there, unless it names more than 12, and may be empty"
    )
    decided_by = serializers.CharField(source="decided_by.username", allow_null=True, default=None)

    class Meta:
        model = Proposal
        fields = (
            "id", "item", "value", "confidence", "is_calibrated", "short_list", "state", "model", "certificate",
            "decided_by", "decided_at", "created_at",
        )  # fmt: skip
        read_only_fields = fields


class ProposalFilter(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=Proposal.State.choices, default=Proposal.State.PENDING)

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "class": IdField(required=False, help_text="id of the proposed class")}


class CertificateShape(serializers.ModelSerializer[Certificate]):
    """With ``confidence`` at least ``target`` of ``rest`` images were right; ``accepted_at`` is null unless labels are
    accepted under it now, ``ended_at`` unless it holds no more."""

    look = serializers.IntegerField(
        source="look.number",
        allow_null=True,
        default=None,
        help_text="number of the look at the random checks; or null",
    )
    round = serializers.IntegerField(
        source="round.number", allow_null=True, default=None, help_text="number of the certification round; or null"
    )
    model = serializers.IntegerField(source="model_version.number", help_text="number of the model version")
    class_ = serializers.IntegerField(source="label_class_id", allow_null=True, help_text="null: any class")

    def get_fields(self) -> dict[str, Any]:
        shape = super().get_fields()
        return {"class" if name == "class_" else name: shape[name] for name in shape}

    class Meta:
        model = Certificate
        fields = (
            "id", "look", "round", "model", "class_", "target", "confidence", "threshold", "n", "k", "bound", "rest",
            "answered", "delta", "created_at", "accepted_at", "ended_at", "ended_why",
        )  # fmt: skip
        read_only_fields = fields


class RoundShape(serializers.ModelSerializer[Round]):
    """Random checks inside the region that is to be accepted unseen: ``size`` images, of which people check at most
    ``at_most``. ``spent``: the part of the error that is gone with it, however it ends."""

    model = serializers.IntegerField(source="model_version.number", help_text="number of the model version")
    class_ = serializers.IntegerField(source="label_class_id", allow_null=True, help_text="null: any class")
    at_most = serializers.SerializerMethodField(help_text="checks drawn")

    def get_at_most(self, drawn: Round) -> int:
        return int(drawn.stages[-1][0])

    def get_fields(self) -> dict[str, Any]:
        shape = super().get_fields()
        return {"class" if name == "class_" else name: shape[name] for name in shape}

    class Meta:
        model = Round
        fields = (
            "id", "number", "model", "class_", "size", "at_most", "target", "confidence", "spent", "state",
            "created_at", "ended_at", "ended_why",
        )  # fmt: skip
        read_only_fields = fields


class RoundProgress(serializers.Serializer[Any]):
    round = RoundShape()
    answered = serializers.IntegerField(help_text="checks answered")
    wrong = serializers.IntegerField(source="errors", help_text="of those, wrong")
    next_at = serializers.IntegerField(help_text="it is judged when so many of the first are answered")
    missing = serializers.IntegerField(help_text="of those, not answered yet")
    at_most = serializers.IntegerField(help_text="checks drawn")


class OfferShape(serializers.Serializer[Any]):
    """A region the newest model proposes for a round."""

    model = serializers.IntegerField(help_text="number of the model version")
    class_id = serializers.IntegerField(allow_null=True, help_text="null: any class")
    size = serializers.IntegerField(help_text="images")
    target = serializers.FloatField()
    at_least = serializers.IntegerField(help_text="the fewest checks a round can do with")
    at_most = serializers.IntegerField(help_text="the most that are of use")
    cost = serializers.ListField(
        child=serializers.IntegerField(), help_text="checks it takes without an error, with one, with two, ..."
    )
    let_through = serializers.IntegerField(help_text="images accepted when no error turns up")
    chance = serializers.FloatField(help_text="of success, 0..1, by what is known so far")


class NewRound(serializers.Serializer[Any]):
    count = serializers.IntegerField(
        min_value=1, max_value=certifying.DRAW_AT_MOST, required=False, help_text="checks at most; all that are of use"
    )


class GateShape(serializers.Serializer[Any]):
    """Images of the open pool by what becomes of them, and what the next look waits for."""

    accepted = serializers.IntegerField(help_text="accepted unseen")
    review = serializers.IntegerField(help_text="proposed for review")
    asking = serializers.IntegerField(help_text="kept for asking")
    promised = serializers.IntegerField(help_text="images the standing certificates speak for")
    answers = serializers.IntegerField(help_text="answered random checks that count")
    missing = serializers.IntegerField(allow_null=True, help_text="at best so many more, without another error")
    next_at = serializers.IntegerField(allow_null=True, help_text="answers the next look waits for")
    waiting = serializers.IntegerField(help_text="random checks nobody has answered yet")
    is_short = serializers.BooleanField(help_text="whether those cannot be enough")
    certificates = CertificateShape(many=True, help_text="those that stand")
    checking = serializers.IntegerField(help_text="images of the running round")
    round = RoundProgress(allow_null=True, help_text="the running round")
    offer = OfferShape(allow_null=True, help_text="what a round could be about")
    why_none = serializers.CharField(help_text="why there is no offer")


class NewChecks(serializers.Serializer[Any]):
    count = serializers.IntegerField(min_value=1, max_value=certifying.DRAW_AT_MOST, help_text="how many to draw")


class NewDecision(serializers.Serializer[Any]):
    """At most 1000 proposals in all, each named once."""

    accepted = serializers.ListField(child=IdField(), default=list, max_length=1000)
    rejected = serializers.ListField(child=IdField(), default=list, max_length=1000)
    corrected = serializers.DictField(
        child=serializers.JSONField(), default=dict, help_text="proposal id -> the right value"
    )

    def validate_corrected(self, corrected: dict[str, Any]) -> dict[int, Any]:
        return {IdField().run_validation(proposal_id): value for proposal_id, value in corrected.items()}


class ConflictShape(serializers.Serializer[Any]):
    proposal = serializers.IntegerField(source="proposal_id")
    why = serializers.CharField()


class DecisionShape(serializers.Serializer[Any]):
    accepted = serializers.IntegerField()
    rejected = serializers.IntegerField()
    corrected = serializers.IntegerField()
    conflicts = ConflictShape(many=True, help_text="proposals that were left as they are")
    event = serializers.IntegerField(source="event_id", allow_null=True, help_text="undoes this decision")


class DecisionUndo(serializers.Serializer[Any]):
    event = IdField(help_text="from the answer to the decision")


# --- jobs, models, progress ---------------------------------------------------------------------------------


class JobShape(serializers.ModelSerializer[Job]):
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    result = serializers.JSONField()

    class Meta:
        model = Job
        fields = (
            "id", "kind", "state", "progress", "message", "error", "log_tail", "result", "cancel_requested",
            "attempt", "created_by", "created_at", "started_at", "finished_at",
        )  # fmt: skip
        read_only_fields = fields


class JobFilter(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=Job.Kind.choices, required=False)
    state = serializers.ChoiceField(choices=Job.State.choices, required=False)


class TrainingRequest(serializers.Serializer[Any]):
    trainer = serializers.CharField(
        required=False, help_text="a trainer of the catalogue, or auto; without it the one of the settings"
    )
    minutes = serializers.FloatField(required=False, help_text="at most so long; without it as in the settings")


class ComparisonRequest(serializers.Serializer[Any]):
    also = serializers.ListField(
        child=serializers.CharField(max_length=100),
        default=list,
        max_length=10,
        help_text=(
            "encoders to have in whatever they cost: self_supervised learns for minutes, pretrained may be downloaded;"
            " without it they take part if the settings name them, or if they lie there from before"
        ),
    )


class ModelShape(serializers.ModelSerializer[ModelVersion]):
    class_ids = serializers.ListField(child=serializers.IntegerField(), help_text="order of the model's classes")
    metrics = serializers.JSONField(
        help_text="as measured on the audit sample, among others. calibration: calibration error with interval (ece,"
        " ece_low, ece_high), what chance alone would show (chance), brier, bins of a reliability diagram as [answers,"
        " mean confidence, right, low, high]. short_list: promise, inside of judged, low, high. Both null before 30"
        " random checks are answered"
    )
    algorithm_kind = serializers.SerializerMethodField(help_text="head, trainer or zero_shot")

    def get_algorithm_kind(self, model: ModelVersion) -> str:
        return queries.learner_kind(model)

    class Meta:
        model = ModelVersion
        fields = (
            "id", "number", "encoder", "algorithm", "algorithm_kind", "class_ids", "label_watermark", "label_count",
            "answer_count", "temperature", "is_calibrated", "metrics", "created_at",
        )  # fmt: skip
        read_only_fields = fields


class MeasuredShape(serializers.Serializer[Any]):
    accuracy = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()


class PointShape(serializers.Serializer[Any]):
    model_number = serializers.IntegerField()
    answers = serializers.IntegerField()
    audit = MeasuredShape()
    test = MeasuredShape()


class ClassCount(serializers.Serializer[Any]):
    """A class and how many items carry it."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    labels = serializers.IntegerField()


class ProgressShape(serializers.Serializer[Any]):
    answers = serializers.IntegerField(help_text="items of pool and audit with an answer")
    mine = serializers.IntegerField()
    pool = serializers.IntegerField(help_text="items of pool and audit")
    open = serializers.IntegerField()
    until_refit = serializers.IntegerField()
    answers_per_refit = serializers.IntegerField()
    is_learning = serializers.BooleanField()
    phase = serializers.CharField()
    model_number = serializers.IntegerField(allow_null=True)
    label_count = serializers.IntegerField()
    accuracy = serializers.FloatField(allow_null=True, help_text="measured on the audit sample alone")
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    audit_answers = serializers.IntegerField()
    audit_size = serializers.IntegerField()
    items = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()), help_text="split -> state -> items"
    )
    classes = ClassCount(many=True)
    curve = PointShape(many=True)
    proposals = serializers.JSONField(allow_null=True, help_text="on the audit sample, of what would be proposed")


class ExportQuery(serializers.Serializer[Any]):
    format = serializers.CharField(default="csv", help_text=", ".join(exporting.FORMATS))
    include = serializers.CharField(
        default=",".join(exporting.DEFAULT_INCLUDE), help_text="comma-separated: " + ", ".join(exporting.INCLUDE)
    )


class PackageRequest(serializers.Serializer[Any]):
    distil = serializers.BooleanField(
        default=False, help_text="a small network that learns what the newest model says, not the trained one as it is"
    )
    minutes = serializers.FloatField(required=False, help_text="how long the small one learns; 5 without it")


# --- tokens -------------------------------------------------------------------------------------------------


class TokenShape(serializers.ModelSerializer[ApiToken]):
    class Meta:
        model = ApiToken
        fields = ("id", "name", "start", "created_at")
        read_only_fields = fields


class NewToken(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=1000, help_text="what it is for")


class MadeToken(serializers.ModelSerializer[ApiToken]):
    token = serializers.CharField(help_text="shown this once")

    class Meta:
        model = ApiToken
        fields = ("id", "name", "start", "created_at", "token")
        read_only_fields = fields
