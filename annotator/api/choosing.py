"""Images a person chose to label next."""

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access, queries
from annotator.access import LABEL
from annotator.actions import choosing
from annotator.api import shapes
from annotator.api.endpoint import Endpoint, person, read


class Choice(serializers.Serializer[Any]):
    items = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**62),
        required=False,
        max_length=20_000,
        help_text="ids, in the order in which they shall be asked",
    )
    inside = serializers.CharField(required=False, help_text="or a part of the map: 0.1,0.2;0.5,0.2;0.5,0.6")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs) != 1:
            raise serializers.ValidationError({"items": ["say which items, or a part of the map as inside"]})
        return attrs


class ChosenShape(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="images that now come first in your queue")
    held = serializers.IntegerField(help_text="of those asked for, how many others are answering")
    left = serializers.IntegerField(help_text=f"open ones beyond the first {choosing.CHOSEN_AT_MOST}")


@extend_schema(tags=["label"])
class QueueChosen(Endpoint):
    @extend_schema(request=Choice, responses=ChosenShape)
    def post(self, request: Request, project_id: int) -> Response:
        """Put open images of the pool at the head of your queue; random checks and answered images are passed over.
        What you hold is let go of, so that they come next. 409 where none of them can be labelled."""
        project = access.get_project(person(request), project_id, LABEL)
        wanted = read(Choice, request.data)
        item_ids = wanted.get("items")
        if item_ids is None:
            item_ids = queries.items_inside(project, wanted["inside"]).tolist()
        return Response(asdict(choosing.choose_items(project=project, annotator=person(request), item_ids=item_ids)))

    @extend_schema(request=None, responses=shapes.Counted)
    def delete(self, request: Request, project_id: int) -> Response:
        """Let those you chose and have not answered be ranked like all others."""
        project = access.get_project(person(request), project_id, LABEL)
        return Response({"count": choosing.give_back(project=project, annotator=person(request))})
