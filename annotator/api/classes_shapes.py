"""Classes, their changes, and groups of look-alikes, as the API reads and writes them."""

from typing import Any

from rest_framework import serializers

from annotator.models import Job, LabelClass


class ClassShape(serializers.ModelSerializer[LabelClass]):
    merged_into = serializers.IntegerField(
        source="merged_into_id", allow_null=True, help_text="archived, because its answers count as this class"
    )

    class Meta:
        model = LabelClass
        fields = ("id", "name", "colour", "shortcut", "description", "position", "is_archived", "merged_into")
        read_only_fields = fields


class NewClass(serializers.Serializer[Any]):
    """One by ``name``, or several at once by ``names``: all or none."""

    name = serializers.CharField(required=False, max_length=1000)
    shortcut = serializers.CharField(required=False, allow_blank=True, help_text="left out: the next free number")
    names = serializers.ListField(
        child=serializers.CharField(max_length=1000), required=False, min_length=1, max_length=1000
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("name" in attrs) == ("names" in attrs):
            raise serializers.ValidationError({"name": "send either name or names"})
        if "names" in attrs and "shortcut" in attrs:
            raise serializers.ValidationError({"shortcut": "a key is for one class; send name instead of names"})
        return attrs


class ClassChange(serializers.Serializer[Any]):
    """What is left out stays as it is."""

    name = serializers.CharField(required=False, max_length=1000)
    colour = serializers.CharField(required=False, help_text="#rrggbb")
    shortcut = serializers.CharField(required=False, allow_blank=True)
    description = serializers.CharField(required=False, allow_blank=True)


class Archiving(serializers.Serializer[Any]):
    archived = serializers.BooleanField()


class Placing(serializers.Serializer[Any]):
    before = serializers.IntegerField(allow_null=True, help_text="the class it is put in front of; null: at the end")


class Merging(serializers.Serializer[Any]):
    into = serializers.IntegerField(help_text="the class that its answers count as from then on")


class Merged(serializers.Serializer[Any]):
    event = serializers.IntegerField(help_text="takes the merge back")
    answers = serializers.IntegerField(help_text="how many answers were moved")


class ExampleChange(serializers.Serializer[Any]):
    add = serializers.ListField(child=serializers.IntegerField(), default=list, max_length=100)
    remove = serializers.ListField(child=serializers.IntegerField(), default=list, max_length=100)


class Examples(serializers.Serializer[Any]):
    items = serializers.ListField(child=serializers.IntegerField())


class ClassesUndoing(serializers.Serializer[Any]):
    event = serializers.IntegerField(help_text="of a merge, or of images that got a class")


class ClassesUndone(serializers.Serializer[Any]):
    told = serializers.CharField(help_text="what was taken back")


class ClassEventShape(serializers.Serializer[Any]):
    event = serializers.IntegerField(source="event.pk")
    who = serializers.CharField(source="event.actor.username", allow_null=True, default=None)
    at = serializers.DateTimeField(source="event.at")
    verb = serializers.CharField(source="event.verb")
    said = serializers.CharField()
    can_be_undone = serializers.BooleanField()


OF_HELP = "open, none_of_these, or class: and the id of a class"


class Assigning(serializers.Serializer[Any]):
    """By ``class`` or by ``name``; a name that there is none of makes a new class, which owners alone may."""

    of = serializers.CharField(max_length=40, help_text=f"what the images are now: {OF_HELP}")
    items = serializers.ListField(child=serializers.IntegerField(), min_length=1, max_length=500)
    name = serializers.CharField(required=False, max_length=1000)
    ask_checks_again = serializers.BooleanField(
        default=False, help_text="whether the random checks answered with the class of `of` are asked anew"
    )

    def get_fields(self) -> dict[str, Any]:
        """``class`` is a word of Python's own."""
        return super().get_fields() | {"class": serializers.IntegerField(required=False)}


class LeftAloneShape(serializers.Serializer[Any]):
    item = serializers.IntegerField(source="item_id")
    why = serializers.CharField()


class AssignedShape(serializers.Serializer[Any]):
    event = serializers.IntegerField(source="event_id", help_text="takes it back")
    label_class = ClassShape()
    given = serializers.IntegerField(help_text="images that have the class now")
    asked_again = serializers.IntegerField(help_text="random checks")
    left = LeftAloneShape(many=True)


class GroupingRequest(serializers.Serializer[Any]):
    of = serializers.CharField(max_length=40, help_text=OF_HELP)


class GroupShape(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    size = serializers.IntegerField(help_text="images that belonged to it, listed or not")
    coherence = serializers.FloatField(help_text="0..1; 0: the leftovers, like no others")
    items = serializers.ListField(
        source="item_ids", child=serializers.IntegerField(), help_text="that still are what was grouped"
    )


class GroupingShape(serializers.ModelSerializer[Job]):
    of = serializers.CharField(source="parameters.of")

    class Meta:
        model = Job
        fields = ("id", "of", "state", "progress", "result")
        read_only_fields = fields
