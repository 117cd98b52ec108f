"""What the API says of the next answers. Its numbers are those of the newest study (ml_worker/forecasting.py)."""

from typing import Any

from rest_framework import serializers


class PaceShape(serializers.Serializer[Any]):
    seconds = serializers.FloatField(help_text="median for an answer, idle time left out")
    answers = serializers.IntegerField(help_text="how many it was taken from")
    whose = serializers.CharField(help_text="`your`, or `the team's` while you gave too few")


class WorkShape(serializers.Serializer[Any]):
    name = serializers.CharField(
        help_text="target: until the setting `target_precision` is forecast as accuracy, left out once it is;"
        " certificate: random checks it"
        " lacks; review: proposals that wait; open: every open image"
    )
    count = serializers.IntegerField(allow_null=True, help_text="images; null: out of reach")
    minutes = serializers.FloatField(allow_null=True, help_text="at this pace; null while there is none")
    is_ceiling = serializers.BooleanField(help_text="whether it takes at most so long")
    note = serializers.CharField(allow_blank=True)


class OutlookShape(serializers.Serializer[Any]):
    """Empty objects before the first study."""

    advice = serializers.CharField(help_text="one sentence")
    kind = serializers.ChoiceField(choices=["stop", "go_on", "open", "early"], help_text="what it says")
    studied_at = serializers.DateTimeField(source="study.finished_at", allow_null=True, default=None)
    forecast = serializers.JSONField(
        help_text="answers, checks, accuracy as measured; now: the fitted curve's, between low and high;"
        " ahead: accuracy and gain after so many `more` answers,"
        " each with low and high at `level`; curve as [answers, accuracy, low, high]; points as [answers, accuracy];"
        " worth: the chance that the next `advised` answers gain a point; lack: why there is none of this yet"
    )
    errors_left = serializers.JSONField(
        source="errors",
        help_text="there, open: labels by origin, `wrong` of `checked` and between `low` and `high` wrong at `level`;"
        " sum, sum_with_open; unmeasured: labels nothing measures",
    )
    gain = serializers.JSONField(
        help_text="n answers each: accuracies chosen (of the first n) and baseline (drawn at random), their"
        " difference between low and high at 95 %; worth: random answers that teach as much; lack: why not yet"
    )
    pace = PaceShape(allow_null=True)
    work = WorkShape(many=True)
