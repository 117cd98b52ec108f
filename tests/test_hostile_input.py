"""What no person types and no honest program sends, and days when the database is away: a sentence, never a crash."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, InterfaceError, OperationalError
from django.test import Client

from annotator.actions import projects
from annotator.models import LabelClass, Project
from tests.test_api import Caller, error

Login = Callable[[User], Client]


# --- text that cannot be kept ---


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("/projects/new/", {"name": "a\x00b"}),
        ("/projects/new/", {"name": "Birds", "classes": "wren\x00"}),
        ("/tokens/", {"name": "note\x00book"}),
        ("{base}settings/", {"instructions": "look\x00"}),
        ("{base}classes/", {"do": "add", "names": "bi\x00rd"}),
        ("{base}classes/", {"do": "update", "class": "{cat}", "name": "cat", "description": "\x00"}),
        ("{base}members/", {"do": "set", "username": "bo\x00b", "role": "viewer"}),
        ("{base}classes/", {"do\x00": "add"}),
    ],
)
def test_nul_in_a_form_is_refused_with_the_name_of_the_field(
    login: Login, alice: User, project: Project, cat: LabelClass, address: str, form: dict[str, str]
) -> None:
    form = {name: text.replace("{cat}", str(cat.pk)) for name, text in form.items()}
    response = login(alice).post(address.replace("{base}", f"/projects/{project.pk}/"), form)
    assert response.status_code == 422
    bad = next(name for name, text in form.items() if "\x00" in name + text)
    assert ascii(bad).replace("'", "&#x27;") in response.text
    assert "cannot be kept" in response.text


def test_nul_in_an_address_is_refused_on_every_page(login: Login, alice: User, project: Project) -> None:
    client = login(alice)
    for page in ("", "settings/", "import/", "label/", "training/", "review/", "export/"):
        assert client.get(f"/projects/{project.pk}/{page}?x=%00").status_code == 422, page


def test_half_of_a_surrogate_pair_is_refused_whatever_the_charset(login: Login, alice: User, project: Project) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nnote\\ud800book\r\n--x--\r\n'
    for charset in ("unicode_escape", "raw_unicode_escape"):
        kind = f"multipart/form-data; boundary=x; charset={charset}"
        assert login(alice).post("/tokens/", body, content_type=kind).status_code == 422


# --- bodies and cursors of the API ---


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 100_000, "[" * 100 + "]" * 100])
def test_json_that_is_too_deep_is_refused(bob: User, body: str) -> None:
    response = Caller(bob).client.post("/api/v1/projects/", body, content_type="application/json")
    assert error(response) == (400, "parse_error")
    assert "levels deep" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [r'{"kind": "\ud800"}', r'{"\udfff": 1}', r'{"value": {"class": "\u0000"}}', '{"value": {"class": 1e999}}']
)
def test_json_that_cannot_be_kept_is_refused(bob: User, project: Project, body: str) -> None:
    address = f"/api/v1/projects/{project.pk}/annotations/"
    response = Caller(bob).client.post(address, body, content_type="application/json")
    assert error(response) == (400, "parse_error")


def test_half_of_a_surrogate_pair_in_a_form_is_refused_too(bob: User, project: Project) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="kind"\r\n\r\n\\ud800\r\n--x--\r\n'
    kind = "multipart/form-data; boundary=x; charset=unicode_escape"
    address = f"/api/v1/projects/{project.pk}/annotations/"
    response = Caller(bob).client.post(address, body, content_type=kind)
    assert error(response)[0] in (400, 422)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000, '"' + "9" * 5000 + '"'])
def test_a_number_beyond_all_bounds_is_refused(alice: User, project: Project, number: str) -> None:
    body = f'{{"settings": {{"answers_per_refit": {number}}}}}'
    response = Caller(alice).client.patch(f"/api/v1/projects/{project.pk}/", body, content_type="application/json")
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("position", ["p=abc", "p=%00", "p=2020-01-01", f"p={10**18}", "p=-1", "p=", "p=%C2%B2"])
def test_a_cursor_nobody_gave_out_is_404(bob: User, project: Project, position: str) -> None:
    caller = Caller(bob, project)
    for listing in ("items/", "annotations/", "jobs/", "/api/v1/projects/"):
        response = caller.get(listing, cursor=b64encode(position.encode()).decode())
        assert error(response) == (404, "not_found")
        assert response.json()["error"]["message"] == "Invalid cursor"


# --- what only the database saw ---


def test_a_constraint_that_decides_between_two_requests_is_a_conflict(
    alice: User, project: Project, login: Login
) -> None:
    with patch.object(projects, "save_settings", side_effect=IntegrityError("some_constraint")):
        response = Caller(alice, project).patch("", {"name": "Birds"})
        assert error(response) == (409, "conflict")
        assert login(alice).post(f"/projects/{project.pk}/settings/", {}).status_code == 409


@pytest.mark.parametrize("away", [OperationalError("No space left on device"), InterfaceError("closed")])
def test_without_its_database_it_says_so_and_asks_to_come_back(
    alice: User, project: Project, client: Client, away: Exception
) -> None:
    client.force_login(alice)
    client.raise_request_exception = False
    with patch("annotator.access.get_membership", side_effect=away):
        page = client.get(f"/api/v1/projects/{project.pk}/")
        assert error(page) == (503, "database_away")
        assert page["Retry-After"]
    with patch("annotator.views.dashboard.get_membership", side_effect=away):
        page = client.get(f"/projects/{project.pk}/")
        assert page.status_code == 503
        assert "The database cannot answer now" in page.text
        assert "Traceback" not in page.text
    # Who is logged in is the first question of all.
    with patch("django.contrib.sessions.backends.db.SessionStore.load", side_effect=away):
        assert client.get("/").status_code == 503
        assert client.get("/login/").status_code == 503


def test_a_mistake_of_ours_is_json_in_the_api(alice: User, project: Project, client: Client) -> None:
    client.force_login(alice)
    client.raise_request_exception = False
    with patch("annotator.access.get_membership", side_effect=ZeroDivisionError):
        assert error(client.get(f"/api/v1/projects/{project.pk}/")) == (500, "broken")


# --- what a browser keeps ---


def test_pages_are_not_kept_by_the_browser_and_images_are(
    login: Login, alice: User, project: Project, items: list[Any]
) -> None:
    client = login(alice)
    for page in ("", "settings/", "label/", "review/", "import/", "export/", "training/"):
        assert "no-store" in client.get(f"/projects/{project.pk}/{page}", follow=True)["Cache-Control"], page
    image = client.get(f"/projects/{project.pk}/items/{items[0].pk}/image/")
    image.close()
    assert "max-age" in image["Cache-Control"]
