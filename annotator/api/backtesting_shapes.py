"""What the API reads and writes of back-tests."""

from typing import Any

from rest_framework import serializers

from annotator.actions import backtesting
from annotator.models import Job

NAME_AT_MOST = 100


class BackTestRequest(serializers.Serializer[Any]):
    source = serializers.CharField(  # type: ignore[assignment]
        default=backtesting.ANSWERS,
        max_length=NAME_AT_MOST,
        help_text="answers: what people said in this project; digits: handwritten digits that come along",
    )
    acquisition = serializers.ListField(
        child=serializers.CharField(max_length=NAME_AT_MOST),
        max_length=30,
        default=["margin", "random_sampling"],
        help_text="acquisition functions of the catalogue; random_sampling is what the others are held against",
    )
    head = serializers.ListField(
        child=serializers.CharField(max_length=NAME_AT_MOST),
        max_length=30,
        required=False,
        help_text="heads of the catalogue; without it that of the settings",
    )
    target_precision = serializers.ListField(
        child=serializers.FloatField(),
        max_length=30,
        required=False,
        help_text="of what is accepted unseen, 0.5 to 0.999; without it as in the settings",
    )
    confidence = serializers.FloatField(required=False, help_text="of that promise; without it as in the settings")
    threshold_per_class = serializers.BooleanField(
        required=False, help_text="promise it of each class by itself; without it as in the settings"
    )
    budget = serializers.IntegerField(default=100, help_text="answers in all")
    seeds = serializers.IntegerField(default=5)


class BackTestShape(serializers.ModelSerializer[Job]):
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    parameters = serializers.JSONField(help_text="what was asked for")
    result = serializers.SerializerMethodField(
        help_text=(
            "null before it is done; then n_pool, n_test, measured_on (test images, or held out random checks) and"
            " summary: mean curves, area under them, labels saved, promised and true precision of the gate"
        )
    )

    class Meta:
        model = Job
        fields = (
            "id", "state", "progress", "message", "error", "parameters", "result", "created_by", "created_at",
            "finished_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_result(self, job: Job) -> dict[str, Any] | None:
        return job.result if backtesting.has_result(job) else None
