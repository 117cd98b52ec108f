"""What the API says of labels that may be wrong."""

from typing import Any

from rest_framework import serializers

from annotator.models import Suspect


class SuspectFilter(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=Suspect.State.choices, default=Suspect.State.OPEN)


class SuspectShape(serializers.ModelSerializer[Suspect]):
    item_name = serializers.CharField(source="item.source_name")
    value = serializers.JSONField(source="annotation.value", help_text="the answer that is doubted")
    instead = serializers.IntegerField(
        source="label_class_id", allow_null=True, help_text="the class it may be; null for an image of no class"
    )

    class Meta:
        model = Suspect
        fields = (
            "id",
            "item",
            "item_name",
            "annotation",
            "value",
            "doubt",
            "instead",
            "score",
            "state",
            "settled_by",
            "created_at",
            "settled_at",
        )
        read_only_fields = fields
