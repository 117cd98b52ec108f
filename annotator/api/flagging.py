"""Flags: images that somebody wants looked at again."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import access, queries
from annotator.access import LABEL, REVIEW
from annotator.actions import flagging
from annotator.api.endpoint import Endpoint, Listing, person, read
from annotator.models import Flag


class FlagShape(serializers.ModelSerializer[Flag]):
    item_name = serializers.CharField(source="item.source_name", read_only=True)
    raised_by = serializers.CharField(source="raised_by.username", allow_null=True, default=None)
    note = serializers.SerializerMethodField(help_text="empty too while its image is to be answered blind")

    class Meta:
        model = Flag
        fields = ("id", "item", "item_name", "note", "raised_by", "created_at")
        read_only_fields = fields

    def get_note(self, flag: Flag) -> str:
        """What was just sent goes back as it came; only in a list a note may be hidden."""
        return "" if getattr(flag, "hides_note", False) else flag.note


class NewFlag(serializers.Serializer[Any]):
    note = serializers.CharField(
        default="", allow_blank=True, max_length=flagging.NOTE_AT_MOST, help_text="why; may be left out"
    )


class FlagState(serializers.Serializer[Any]):
    raised = serializers.BooleanField(help_text="whether the flag is up now")


@extend_schema(tags=["review"])
class Flags(Listing):
    @extend_schema(responses=FlagShape(many=True), operation_id="flags_list")
    def get(self, request: Request, project_id: int) -> Response:
        """The flags that are up. Reviewers only: a note may say what an image is."""
        project = access.get_project(person(request), project_id, REVIEW)
        return self.page_of(request, queries.raised_flags(project), FlagShape)


@extend_schema(tags=["review"])
class ItemFlag(Endpoint):
    @extend_schema(request=NewFlag, responses=FlagShape)
    def post(self, request: Request, project_id: int, item_id: int) -> Response:
        """Raise your flag on an image; sending it again changes at most the note."""
        project = access.get_project(person(request), project_id, LABEL)
        wanted = read(NewFlag, request.data)
        flag = flagging.raise_flag(project=project, item_id=item_id, actor=person(request), note=wanted["note"])
        return Response(FlagShape(flag).data)

    @extend_schema(responses=FlagState)
    def delete(self, request: Request, project_id: int, item_id: int) -> Response:
        """Take your own flag off an image."""
        project = access.get_project(person(request), project_id, LABEL)
        flagging.lower_own(project=project, item_id=item_id, actor=person(request))
        return Response(FlagState({"raised": False}).data)


@extend_schema(tags=["review"])
class FlagLower(Endpoint):
    @extend_schema(request=None, responses=FlagState)
    def post(self, request: Request, project_id: int, flag_id: int) -> Response:
        """Take a flag down, whoever raised it."""
        project = access.get_project(person(request), project_id, REVIEW)
        flagging.lower_flag(project=project, flag_id=flag_id, actor=person(request))
        return Response(FlagState({"raised": False}).data)
