"""Flags: raised by whoever labels, lowered by whoever reviews, and nobody's label is touched."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from annotator import queries
from annotator.actions import flagging
from annotator.models import AuditEvent, Flag, Item, Project, QueueEntry
from tests.cast import make_item

Login = Callable[[User], Client]
JSON = {"HTTP_ACCEPT": "application/json"}


def address(item: Item) -> str:
    return reverse("item-flag", args=[item.project_id, item.pk])


def test_a_flag_is_raised_and_lowered_by_the_same_address(login: Login, items: list[Item], bob: User) -> None:
    client = login(bob)
    raised = client.post(address(items[0]), {"note": " two animals "}, **JSON)
    assert raised.json() == {"item": items[0].pk, "raised": True}
    flag = Flag.objects.get()
    assert (flag.raised_by, flag.note, flag.lowered_at) == (bob, "two animals", None)
    assert client.post(address(items[0]), **JSON).json()["raised"] is False
    flag.refresh_from_db()
    assert flag.lowered_by == bob and flag.lowered_at is not None
    assert list(AuditEvent.objects.values_list("verb", flat=True)[:2]) == ["lowered a flag", "raised a flag"]
    # The queue and the image are as they were.
    assert QueueEntry.objects.count() == len(items)
    assert set(Item.objects.values_list("state", flat=True)) == {"open"}


def test_raising_twice_keeps_one_flag_and_the_newer_note(login: Login, items: list[Item], bob: User) -> None:
    client = login(bob)
    for note in ("first", "second", ""):
        client.post(address(items[0]), {"note": note, "raised": "1"}, **JSON)
    assert [each.note for each in Flag.objects.all()] == ["second"]


def test_each_person_has_a_flag_of_their_own(project: Project, items: list[Item], bob: User, carol: User) -> None:
    for who in (bob, carol):
        flagging.raise_flag(project=project, item_id=items[0].pk, actor=who)
    flagging.lower_own(project=project, item_id=items[0].pk, actor=bob)
    assert [each.raised_by for each in queries.raised_flags(project)] == [carol]
    assert list(queries.flagged_items(project)) == [items[0]]
    assert queries.flagged_by(project, carol.pk, [each.pk for each in items]) == {items[0].pk}


@pytest.mark.parametrize(
    ("sent", "said"), [({"note": "x" * 501}, "501 characters; at most 500"), ({"raised": "yes"}, "send 1 to raise")]
)
def test_a_bad_flag_says_why_and_raises_none(
    login: Login, items: list[Item], bob: User, sent: dict[str, str], said: str
) -> None:
    client = login(bob)
    refused = client.post(address(items[0]), sent)
    assert refused.status_code == 422 and said in refused.content.decode()
    if "note" in sent:
        refused = client.post(address(items[0]), sent, **JSON)
        assert refused.status_code == 422 and said in refused.json()["error"]["message"]
    assert not Flag.objects.exists()


def test_a_plain_form_leads_back_to_where_it_was_sent_from(login: Login, items: list[Item], bob: User) -> None:
    client, project_id = login(bob), items[0].project_id
    back = f"/projects/{project_id}/label/?x=1"
    assert client.post(address(items[0]), {"next": back})["Location"] == back
    away = client.post(address(items[0]), {"next": "https://elsewhere.example/"})
    assert away.status_code == 303 and away["Location"] == f"/projects/{project_id}/label/"


def test_htmx_gets_the_button_as_it_is_now(login: Login, items: list[Item], bob: User) -> None:
    part = login(bob).post(address(items[0]), HTTP_HX_REQUEST="true").content.decode()
    assert 'aria-pressed="true"' in part and 'name="raised" value="0"' in part


def test_reviewers_see_the_notes_and_lower_the_flags(
    login: Login, project: Project, items: list[Item], bob: User, carol: User
) -> None:
    flag = flagging.raise_flag(project=project, item_id=items[3].pk, actor=bob, note="blurred")
    client, flags = login(carol), reverse("flags", args=[project.pk])
    page = client.get(flags).content.decode()
    assert "blurred" in page and "image-3.png" in page and "bob" in page
    assert client.post(flags, {"flag": flag.pk}).status_code == 302
    assert "Nothing is flagged" in client.get(flags).content.decode()
    flag.refresh_from_db()
    assert flag.lowered_by == carol


def test_a_note_on_what_is_to_be_answered_blind_is_hidden_until_it_is(
    login: Login, project: Project, items: list[Item], bob: User, carol: User
) -> None:
    check = make_item(project, 40, "audit")
    for item in (items[0], items[1], check):
        flagging.raise_flag(project=project, item_id=item.pk, actor=bob, note=f"says {item.source_name}")
    QueueEntry.objects.filter(item=items[0]).update(reason_code="second_opinion")
    client = login(carol)
    page = client.get(reverse("flags", args=[project.pk])).content.decode()
    assert page.count("The note is hidden until this image is answered.") == 2
    assert "says image-1.png" in page and "says image-0.png" not in page and "says image-40.png" not in page
    listed = client.get(f"/api/v1/projects/{project.pk}/flags/").json()["results"]
    assert sorted(each["note"] for each in listed) == ["", "", "says image-1.png"]
    QueueEntry.objects.filter(item=items[0]).delete()
    Item.objects.filter(pk=check.pk).update(state="labelled")
    assert "hidden until" not in client.get(reverse("flags", args=[project.pk])).content.decode()


@pytest.mark.parametrize(("sent", "status"), [("x", 422), ("", 422), ("99999999", 404)])
def test_lowering_what_is_no_flag_says_why(
    login: Login, project: Project, carol: User, sent: str, status: int
) -> None:
    refused = login(carol).post(reverse("flags", args=[project.pk]), {"flag": sent})
    assert refused.status_code == status


def test_the_page_goes_on_where_there_are_many(
    login: Login, project: Project, bob: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotator.views.flagging.ROWS", 2)
    for seed in range(50, 53):
        flagging.raise_flag(project=project, item_id=make_item(project, seed).pk, actor=bob)
    client, flags = login(carol), reverse("flags", args=[project.pk])
    page = client.get(flags).content.decode()
    assert page.count('class="panel flag-row"') == 2
    after = page.split("?after=")[1].split('"')[0]
    rest = client.get(flags, {"after": after}).content.decode()
    assert rest.count('class="panel flag-row"') == 1 and "image-52.png" in rest


def test_the_api_raises_lists_and_lowers(login: Login, project: Project, items: list[Item], carol: User) -> None:
    client, base = login(carol), f"/api/v1/projects/{project.pk}"
    flag = client.post(f"{base}/items/{items[0].pk}/flag/", {"note": "why"}, content_type="application/json").json()
    assert (flag["item"], flag["note"], flag["raised_by"]) == (items[0].pk, "why", "carol")
    assert [each["id"] for each in client.get(f"{base}/flags/").json()["results"]] == [flag["id"]]
    assert client.post(f"{base}/flags/{flag['id']}/lower/").json() == {"raised": False}
    assert client.get(f"{base}/flags/").json()["results"] == []
    client.post(f"{base}/items/{items[0].pk}/flag/")
    assert client.delete(f"{base}/items/{items[0].pk}/flag/").json() == {"raised": False}
    assert not queries.raised_flags(project).exists()
    refused = client.post(f"{base}/items/{items[0].pk}/flag/", {"note": "x" * 501}, content_type="application/json")
    assert refused.status_code == 422 and "note" in refused.json()["error"]["fields"]
