"""The API: the same doors and actions as the pages, in JSON."""

import json
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client

from annotator.actions import labeling, queueing, tokens
from annotator.models import Annotation, ApiToken, Item, Job, LabelClass, ModelVersion, Project, Proposal
from tests.cast import make_item, png


class Caller:
    """Somebody's program: the API with a token, JSON in and out."""

    def __init__(self, user: User, project: Project | None = None) -> None:
        self.token = tokens.make_token(user=user, name="test")[1]
        self.client = Client(headers={"Authorization": f"Bearer {self.token}"})
        self.base = f"/api/v1/projects/{project.pk}/" if project else "/api/v1/"

    def get(self, address: str = "", **query: Any) -> Any:
        return self.client.get(self._whole(address), query)

    def post(self, address: str = "", body: Any = None) -> Any:
        return self.client.post(self._whole(address), body or {}, content_type="application/json")

    def patch(self, address: str, body: Any) -> Any:
        return self.client.patch(self._whole(address), body, content_type="application/json")

    def delete(self, address: str) -> Any:
        return self.client.delete(self._whole(address))

    def _whole(self, address: str) -> str:
        return address if address.startswith(("/", "http")) else self.base + address


def error(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def a_label(item: Item, label_class: LabelClass, **more: Any) -> dict[str, Any]:
    return {
        "uuid": str(uuid.uuid4()),
        "item": item.pk,
        "kind": "label",
        "value": {"class": label_class.pk},
    } | more


# --- who may come in ----------------------------------------------------------------------------------------


def test_without_a_token_the_answer_is_401(project: Project, client: Client) -> None:
    response = client.get(f"/api/v1/projects/{project.pk}/")
    assert error(response) == (401, "not_authenticated")
    assert response["WWW-Authenticate"] == "Bearer"


def test_a_token_is_kept_only_as_a_hash(bob: User) -> None:
    token, text = tokens.make_token(user=bob, name="notebook")
    stored = ApiToken.objects.values().get(pk=token.pk)
    assert not any(text in str(column) for column in stored.values())
    assert token.sha256 == tokens.hash_token(text)


def test_a_revoked_token_is_worthless(project: Project, bob: User) -> None:
    caller = Caller(bob, project)
    assert caller.get().status_code == 200
    assert caller.delete(f"/api/v1/tokens/{ApiToken.objects.get(user=bob).pk}/").status_code == 204
    assert error(caller.get()) == (401, "authentication_failed")


def test_the_token_of_a_closed_account_is_worthless(project: Project, bob: User) -> None:
    caller = Caller(bob, project)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert error(caller.get()) == (401, "authentication_failed")


def test_a_token_of_somebody_else_cannot_be_revoked(project: Project, bob: User, alice: User) -> None:
    caller = Caller(bob)
    other = tokens.make_token(user=alice, name="hers")[0]
    assert error(caller.delete(f"tokens/{other.pk}/")) == (404, "not_found")
    assert ApiToken.objects.filter(pk=other.pk).exists()


def test_a_token_cannot_make_another(bob: User) -> None:
    assert error(Caller(bob).post("tokens/", {"name": "second"})) == (403, "not_allowed")


def test_a_session_makes_a_token_that_is_shown_once(bob: User, client: Client) -> None:
    client.force_login(bob)
    made = client.post("/api/v1/tokens/", {"name": "notebook"}, content_type="application/json")
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    assert tokens.hash_token(made.json()["token"]) == ApiToken.objects.get(user=bob).sha256
    assert "token" not in client.get("/api/v1/tokens/").json()["results"][0]


def test_a_session_without_the_csrf_token_changes_nothing(project: Project, bob: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(bob)
    address = f"/api/v1/projects/{project.pk}/queue/reserve/"
    assert error(client.post(address, {}, content_type="application/json")) == (403, "permission_denied")
    assert client.get(f"/api/v1/projects/{project.pk}/queue/").status_code == 200


def test_a_mistyped_address_is_json_too(bob: User) -> None:
    response = Caller(bob).post("projects")
    assert error(response) == (404, "not_found")
    assert "slash" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", ["{", '{"name": NaN}', "[1, 2]", '"text"', "\x00"])
def test_a_body_that_is_not_what_was_asked_for_is_refused(bob: User, body: str) -> None:
    response = Caller(bob).client.post("/api/v1/projects/", body, content_type="application/json")
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


def test_the_page_makes_a_token_shows_it_once_and_revokes_it(bob: User, client: Client) -> None:
    client.force_login(bob)
    made = client.post("/tokens/", {"name": "notebook"})
    token = ApiToken.objects.get(user=bob)
    assert tokens.hash_token(made.context["text"]) == token.sha256
    assert made.context["text"] in made.content.decode()
    assert "no-store" in made["Cache-Control"]
    later = client.get("/tokens/").content.decode()
    assert "notebook" in later
    assert made.context["text"] not in later
    assert client.post(f"/tokens/{token.pk}/revoke/").status_code == 303
    assert not ApiToken.objects.exists()


def test_a_token_without_a_name_is_refused_on_the_page(bob: User, client: Client) -> None:
    client.force_login(bob)
    refused = client.post("/tokens/", {"name": " "})
    assert refused.status_code == 422
    assert "name has 1 to 80 characters" in refused.content.decode()


# --- projects and classes -----------------------------------------------------------------------------------


def test_a_project_is_created_listed_and_shown(charlie: User, project: Project) -> None:
    caller = Caller(charlie)
    made = caller.post("projects/", {"name": "Birds", "classes": ["wren", "tit"], "instructions": "Look."})
    assert made.status_code == 201
    assert [each["name"] for each in made.json()["classes"]] == ["wren", "tit"]
    assert made.json()["role"] == "owner"
    assert [each["name"] for each in caller.get("projects/").json()["results"]] == ["Birds"]
    assert caller.get(f"projects/{made.json()['id']}/").json() == made.json()


def test_a_project_name_that_is_taken_is_refused_by_field(charlie: User, project: Project) -> None:
    response = Caller(charlie).post("projects/", {"name": "pets"})
    assert error(response) == (422, "invalid_settings")
    assert "already" in response.json()["error"]["fields"]["name"]


def test_settings_are_changed_and_checked(alice: User, project: Project) -> None:
    caller = Caller(alice, project)
    changed = caller.patch("", {"settings": {"answers_per_refit": 25}})
    assert changed.json()["settings"]["answers_per_refit"] == 25
    wrong = caller.patch("", {"settings": {"answers_per_refit": 0, "colour": 1}})
    assert error(wrong) == (422, "invalid_settings")
    assert set(wrong.json()["error"]["fields"]) == {"answers_per_refit", "colour"}


def test_parameters_of_algorithms_are_changed_one_by_one_and_checked(alice: User, project: Project) -> None:
    caller = Caller(alice, project)
    model, hidden = "encoder.pretrained.model", "head.mlp.hidden"
    caller.patch("", {"settings": {"parameters": {model: "facebook/dinov2-base", hidden: 64}}})
    changed = caller.patch("", {"settings": {"parameters": {model: None}}})
    assert changed.json()["settings"]["parameters"] == {hidden: 64}
    wrong = caller.patch("", {"settings": {"parameters": {hidden: 0, "head.mlp.depth": 2}}})
    assert error(wrong) == (422, "invalid_settings")
    assert set(wrong.json()["error"]["fields"]) == {hidden, "head.mlp.depth"}
    assert error(caller.patch("", {"settings": {"parameters": 5}})) == (422, "invalid_settings")


def test_classes_are_added_changed_and_archived(alice: User, project: Project, cat: LabelClass) -> None:
    caller = Caller(alice, project)
    assert caller.post("classes/", {"name": "fox"}).json()["shortcut"] == "3"
    assert caller.patch(f"classes/{cat.pk}/", {"colour": "#112233"}).json()["name"] == "cat"
    assert caller.post(f"classes/{cat.pk}/archive/", {"archived": True}).json()["is_archived"] is True
    assert [each["name"] for each in caller.get("classes/").json()] == ["cat", "dog", "fox"]
    assert error(caller.post("classes/", {"name": "FOX"})) == (422, "invalid_class")


# --- items --------------------------------------------------------------------------------------------------


def test_items_are_read_page_by_page(bob: User, project: Project, items: list[Item]) -> None:
    caller = Caller(bob, project)
    address, seen, pages = "items/?limit=5", [], 0
    while address:
        page = caller.get(address).json()
        seen += [each["id"] for each in page["results"]]
        address, pages = page["next"], pages + 1
    assert seen == [item.pk for item in items]
    assert pages == 3


def test_a_new_item_does_not_shift_the_pages(bob: User, project: Project, items: list[Item]) -> None:
    caller = Caller(bob, project)
    first = caller.get("items/", limit=10).json()
    items[0].delete()
    second = caller.get(first["next"]).json()
    assert [each["id"] for each in second["results"]] == [item.pk for item in items[10:]]


def test_items_are_filtered(bob: User, project: Project, items: list[Item], cat: LabelClass, answer: Any) -> None:
    held_out = make_item(project, 99, split="test")
    answer(bob, items[3], cat)
    caller = Caller(bob, project)
    assert [each["id"] for each in caller.get("items/", state="labelled").json()["results"]] == [items[3].pk]
    assert [each["id"] for each in caller.get("items/", split="test").json()["results"]] == [held_out.pk]
    assert error(caller.get("items/", split="none")) == (422, "invalid_request")


def test_an_image_comes_with_a_token_as_it_was_stored(bob: User, project: Project, items: list[Item]) -> None:
    caller = Caller(bob, project)
    shown = caller.get(f"items/{items[0].pk}/").json()
    image = caller.client.get(shown["image"], headers={"Accept": "image/*"})
    assert image["Content-Type"] == "image/png"
    assert "private" in image["Cache-Control"]
    assert b"".join(image)[:4] == b"\x89PNG"
    assert b"".join(caller.get(shown["thumbnail"]))[:4] == b"\x89PNG"


def test_uploaded_images_become_a_job(alice: User, project: Project) -> None:
    caller = Caller(alice, project)
    files = [SimpleUploadedFile(f"{seed}.png", png(seed), "image/png") for seed in range(2)]
    answered = caller.client.post(f"{caller.base}imports/", {"files": files})
    assert (answered.status_code, answered.json()["kind"]) == (202, "import")
    names = [each["name"] for each in Job.objects.get().parameters["uploads"]]
    assert names == ["0.png", "1.png"]


def test_an_import_of_nothing_or_with_unknown_labels_is_refused(alice: User, project: Project, settings: Any) -> None:
    caller = Caller(alice, project)
    address = f"{caller.base}imports/"
    assert error(caller.client.post(address)) == (422, "invalid_import")
    files = [SimpleUploadedFile("a.png", png(1)), SimpleUploadedFile("b.png", png(2))]
    assert error(caller.client.post(address, {"files": files[:1], "labels": "guess"})) == (422, "invalid_import")
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = 1
    assert error(caller.client.post(address, {"files": files})) == (400, "parse_error")
    assert error(caller.post("imports/", {"files": []})) == (415, "unsupported_media_type")
    assert not Job.objects.exists()


# --- answers ------------------------------------------------------------------------------------------------


def test_reserving_holds_items_in_order_and_get_takes_nothing(bob: User, project: Project, items: list[Item]) -> None:
    caller = Caller(bob, project)
    assert caller.get("queue/").json() == {"queue": []}
    held = caller.post("queue/reserve/", {"count": 3}).json()["queue"]
    assert [entry["item"]["id"] for entry in held] == [item.pk for item in items[:3]]
    assert held[0]["reason"] == {"code": "random", "text": "Picked at random"}
    assert caller.get("queue/").json()["queue"] == held
    assert caller.post("queue/renew/").json() == {"count": 3}
    assert caller.post("queue/release/").json() == {"count": 3}
    assert caller.get("queue/").json() == {"queue": []}


def test_an_answer_sent_three_times_is_one_annotation(
    bob: User, project: Project, items: list[Item], cat: LabelClass
) -> None:
    caller = Caller(bob, project)
    body = a_label(items[0], cat, reserve=2)
    answers = [caller.post("annotations/", body) for _ in range(3)]
    assert {response.json()["annotation"]["id"] for response in answers} == {Annotation.objects.get().pk}
    assert [entry["item"]["id"] for entry in answers[0].json()["queue"]] == [item.pk for item in items[1:3]]


def test_the_api_and_the_action_store_the_same_row(
    bob: User, carol: User, project: Project, items: list[Item], cat: LabelClass
) -> None:
    Caller(bob, project).post("annotations/", a_label(items[0], cat, milliseconds=900))
    labeling.record_annotation(
        project=project,
        annotator=bob,
        item_id=items[1].pk,
        uuid=uuid.uuid4(),
        kind="label",
        raw_value={"class": cat.pk},
        milliseconds=900,
    )
    same = ("annotator", "kind", "value", "source", "milliseconds", "suggestion_shown", "reason_code", "supersedes")
    one, other = Annotation.objects.values(*same)
    assert one == other


def test_an_answer_to_an_item_somebody_else_holds_is_409(
    bob: User, carol: User, project: Project, items: list[Item], cat: LabelClass
) -> None:
    queueing.reserve_items(project=project, annotator=carol, count=1)
    assert error(Caller(bob, project).post("annotations/", a_label(items[0], cat))) == (409, "lease_lost")
    assert not Annotation.objects.exists()


def test_a_uuid_used_for_another_item_is_409(bob: User, project: Project, items: list[Item], cat: LabelClass) -> None:
    caller = Caller(bob, project)
    body = a_label(items[0], cat)
    caller.post("annotations/", body)
    assert error(caller.post("annotations/", body | {"item": items[1].pk})) == (409, "conflict")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"value": {"class": 10**9}}, "invalid_annotation"),
        ({"value": {"class": "fish"}}, "invalid_annotation"),
        ({"value": None}, "invalid_annotation"),
        ({"value": []}, "invalid_annotation"),
        ({"kind": "rejection"}, "invalid_request"),
        ({"uuid": "1"}, "invalid_request"),
        ({"item": -1}, "invalid_request"),
        ({"item": 10**30}, "invalid_request"),
        ({"milliseconds": 2**40}, "invalid_annotation"),
        ({"milliseconds": "soon"}, "invalid_request"),
    ],
)
def test_a_wrong_answer_is_422_and_stores_nothing(
    bob: User, project: Project, items: list[Item], cat: LabelClass, wrong: dict[str, Any], code: str
) -> None:
    response = Caller(bob, project).post("annotations/", a_label(items[0], cat) | wrong)
    assert error(response) == (422, code)
    if code == "invalid_request":
        assert set(response.json()["error"]["fields"]) == set(wrong)
    assert not Annotation.objects.exists()


def test_an_item_of_another_project_is_404(bob: User, project: Project, cat: LabelClass) -> None:
    elsewhere = Project.objects.create(name="Elsewhere")
    foreign = make_item(elsewhere, 500)
    assert error(Caller(bob, project).post("annotations/", a_label(foreign, cat))) == (404, "not_found")


def test_undo_takes_back_the_last_answer_once(bob: User, project: Project, items: list[Item], cat: LabelClass) -> None:
    caller = Caller(bob, project)
    caller.post("annotations/", a_label(items[0], cat, reserve=0))
    body = {"uuid": str(uuid.uuid4())}
    answers = [caller.post("annotations/undo/", body).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["item"] == answers[0]["queue"][0]["item"]["id"] == items[0].pk
    assert Annotation.objects.count() == 2


def test_annotators_read_their_own_answers_and_reviewers_all(
    bob: User, carol: User, project: Project, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[0], dog)
    answer(carol, items[1], dog)
    assert len(Caller(bob, project).get("annotations/").json()["results"]) == 2
    caller = Caller(carol, project)
    rows = caller.get("annotations/").json()["results"]
    assert [row["annotator"] for row in rows] == ["bob", "bob", "carol"]
    assert rows[1]["supersedes"] == rows[0]["id"]
    current = caller.get("annotations/", current="true", item=items[0].pk).json()["results"]
    assert [row["value"] for row in current] == [{"class": dog.pk}]


# --- proposals ----------------------------------------------------------------------------------------------


def test_proposals_are_listed_and_decided(
    carol: User, project: Project, proposals: list[Proposal], cat: LabelClass, dog: LabelClass
) -> None:
    caller = Caller(carol, project)
    listed = caller.get("proposals/", **{"class": cat.pk}).json()["results"]
    assert {each["id"] for each in listed} == {proposal.pk for proposal in proposals}
    one, other, third = (proposal.pk for proposal in proposals[:3])
    body = {"accepted": [one], "rejected": [other], "corrected": {str(third): {"class": dog.pk}}}
    decision = caller.post("proposals/decide/", body).json()
    event = decision.pop("event")
    assert decision == {"accepted": 1, "rejected": 1, "corrected": 1, "conflicts": []}
    assert [each["decided_by"] for each in caller.get("proposals/", state="accepted").json()["results"]] == ["carol"]
    assert caller.post("proposals/undo/", {"event": event}).json() == {"count": 3}
    assert caller.post("proposals/undo/", {"event": event}).json() == {"count": 0}


def test_a_proposal_answered_meanwhile_is_reported(
    carol: User, bob: User, project: Project, proposals: list[Proposal], cat: LabelClass, answer: Any
) -> None:
    answer(bob, proposals[0].item, cat)
    decision = Caller(carol, project).post("proposals/decide/", {"accepted": [proposals[0].pk]}).json()
    assert decision["accepted"] == 0
    assert decision["conflicts"][0]["proposal"] == proposals[0].pk


@pytest.mark.parametrize("corrected", [{"x": 1}, {"0": 1}, {str(10**30): 1}, [1]])
def test_a_correction_of_no_proposal_is_422(
    carol: User, project: Project, proposals: list[Proposal], corrected: Any
) -> None:
    response = Caller(carol, project).post("proposals/decide/", {"corrected": corrected})
    assert error(response) == (422, "invalid_request")


# --- jobs, models, progress ---------------------------------------------------------------------------------


def test_a_refit_is_asked_for_and_cancelled(carol: User, project: Project) -> None:
    caller = Caller(carol, project)
    asked = caller.post("refit/")
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    assert caller.get("jobs/", kind="refit").json()["results"][0]["id"] == asked.json()["id"]
    address = f"jobs/{asked.json()['id']}/"
    assert caller.get(address).json()["created_by"] == "carol"
    assert caller.post(f"{address}cancel/").json()["state"] == Job.State.CANCELLED
    assert error(caller.post(f"{address}cancel/")) == (409, "conflict")


def test_a_training_is_asked_for(carol: User, bob: User, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller(carol, project)
    assert error(caller.post("train/")) == (409, "conflict")
    monkeypatch.setattr("annotator.queries.missing_for_training", lambda project: "")
    for body in ({"trainer": "magic"}, {"minutes": 0}, {"minutes": "long"}, {"minutes": 1e9}):
        assert caller.post("train/", body).status_code == 422
    asked = caller.post("train/", {"trainer": "fixmatch", "minutes": 2})
    assert (asked.status_code, asked.json()["kind"]) == (202, "train")
    assert caller.post("train/", {"trainer": "fixmatch", "minutes": 2}).json()["id"] == asked.json()["id"]
    assert error(caller.post("train/", {"minutes": 3})) == (409, "conflict")
    assert error(Caller(bob, project).post("train/")) == (403, "not_allowed")


def test_a_model_says_whether_a_head_or_a_trainer_made_it(vera: User, project: Project, model: ModelVersion) -> None:
    caller = Caller(vera, project)
    assert caller.get("models/").json()["results"][0]["algorithm_kind"] == "head"
    ModelVersion.objects.filter(pk=model.pk).update(algorithm="freematch", encoder="trained")
    shown = caller.get("models/").json()["results"][0]
    assert (shown["algorithm_kind"], shown["algorithm"], shown["encoder"]) == ("trainer", "freematch", "trained")


def test_models_and_progress_are_shown(
    vera: User, bob: User, project: Project, items: list[Item], model: ModelVersion, cat: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    caller = Caller(vera, project)
    assert caller.get("models/").json()["results"][0]["metrics"]["audit"]["accuracy"] == 0.9
    progress = caller.get("progress/").json()
    assert (progress["answers"], progress["open"], progress["accuracy"]) == (1, 11, 0.9)
    assert progress["items"]["pool"]["labelled"] == 1
    assert progress["classes"][0] == {"id": cat.pk, "name": "cat", "labels": 1}
    assert progress["curve"][0]["audit"]["n"] == 40


def test_an_export_is_streamed_and_holds_what_was_answered(
    vera: User, bob: User, project: Project, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[1], dog)
    response = Caller(vera, project).get("export/", format="jsonl")
    assert response.streaming
    assert response["Content-Disposition"] == 'attachment; filename="pets.jsonl"'
    rows = [json.loads(line) for line in b"".join(response).splitlines()]
    assert [row["label"] for row in rows] == ["cat", "dog"]
    assert b"".join(Caller(vera, project).get("export/")).count(b"\n") == 3


@pytest.mark.parametrize("query", [{"format": "xlsx"}, {"include": "guesses"}, {"include": ","}])
def test_an_export_of_what_there_is_not_is_422(vera: User, project: Project, query: dict[str, str]) -> None:
    assert error(Caller(vera, project).get("export/", **query)) == (422, "invalid_export")


# --- the document -------------------------------------------------------------------------------------------


def test_the_schema_is_valid_and_made_without_a_warning(tmp_path: Any) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yaml"))


def test_every_operation_says_in_one_line_what_it_does(client: Client) -> None:
    paths = client.get("/api/schema/", headers={"Accept": "application/vnd.oai.openapi+json"}).json()["paths"]
    summaries = [operation["summary"] for operations in paths.values() for operation in operations.values()]
    assert len(summaries) > 30
    assert all(5 < len(summary) < 110 for summary in summaries), summaries
    assert "Hold the next items, up to ``count`` in all" in summaries
    assert "Answer an item and hold the next ones, in one transaction" in summaries


def test_the_documentation_page_needs_no_inline_script(client: Client) -> None:
    page = client.get("/api/docs/")
    assert page.status_code == 200
    html = page.content.decode()
    assert "<style" not in html
    assert html.count("<script") == html.count("<script src=") == 3
    assert client.get("/api/docs/?script=")["Content-Type"].startswith("application/javascript")
    assert client.get("/api/schema/").status_code == 200
