"""What no person types and no honest program sends, and days when the database is away: a sentence, never a crash."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, InterfaceError, OperationalError
from django.test import Client
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel

from annotator.actions import projects, tokens
from annotator.models import LabelClass, Project
from annotator.wsgi import LARGEST_REQUEST_BYTES, BoundedParser, serve
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


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-7", "hex"])
def test_text_in_a_charset_that_can_say_what_utf8_cannot_is_refused(
    login: Login, alice: User, project: Project, charset: str
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\n\\ud800\r\n--x--\r\n'
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    for address in ("/tokens/", f"/api/v1/projects/{project.pk}/annotations/", "/login/"):
        assert login(alice).generic("POST", address, body, content_type=kind).status_code == 415


def test_text_that_says_it_is_utf8_is_read(login: Login, alice: User) -> None:
    kind = "application/x-www-form-urlencoded; charset=UTF-8"
    assert login(alice).post("/tokens/", b"name=notebook", content_type=kind).status_code == 200


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


# --- bodies that fill the disk ---


def heard(address: str, length: int, *headers: str) -> BoundedParser:
    """The server's reader after the headers of a request with a body of this many bytes."""
    reader = BoundedParser(Adjustments(max_request_body_size=LARGEST_REQUEST_BYTES))
    size = "Transfer-Encoding: chunked" if length < 0 else f"Content-Length: {length}"
    lines = [f"POST {address} HTTP/1.1", "Host: localhost", size, *headers]
    with patch("django.db.close_old_connections"):  # it would close the test's own
        reader.received("\r\n".join([*lines, "", ""]).encode())
    return reader


GIGABYTE = 1024**3


@pytest.fixture
def credentials(bob: User, client: Client) -> list[str]:
    """Bob's token and his session, each as a header."""
    client.force_login(bob)
    session = client.cookies["winnow_session"].value
    token = tokens.make_token(user=bob, name="x")[1]
    return [f"Authorization: Bearer {token}", f"Cookie: a=b; winnow_session={session}"]


def test_a_large_body_is_refused_before_it_is_read(credentials: list[str]) -> None:
    for address in ("/login/", "/projects/1/settings/", "/projects/1/import/x", "//projects/1/import/", "/api/v1/"):
        for header in credentials:
            reader = heard(address, GIGABYTE, header, "Expect: 100-continue")
            assert reader.completed
            assert reader.error.code == 413
            assert not reader.expect_continue


def test_an_import_may_be_large_from_somebody_with_an_account(bob: User, credentials: list[str]) -> None:
    for address in ("/projects/1/import/", "/api/v1/projects/1/imports/", "/projects/1/import/?x=1"):
        for header in credentials:
            reader = heard(address, GIGABYTE, header)
            assert (reader.completed, reader.error) == (False, None)
        for header in ("X: y", "Authorization: Bearer winnow_x", "Cookie: winnow_session=abcdefgh", "Cookie: ="):
            assert heard(address, GIGABYTE, header).error.code == 413
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert heard("/projects/1/import/", GIGABYTE, credentials[0]).error.code == 413


def test_a_body_in_pieces_is_refused_once_it_is_large(credentials: list[str]) -> None:
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"  # one MiB
    for address, header, refused in (("/login/", "X: y", True), ("/projects/1/import/", credentials[0], False)):
        reader = heard(address, -1, header)
        for _ in range(12):
            reader.received(piece)
        assert (reader.error is not None) == refused
        reader.close()


def test_a_form_of_ordinary_size_needs_no_account(db: None) -> None:
    reader = heard("/login/", 100)
    assert (reader.completed, reader.error) == (False, None)


def test_the_server_reads_with_these_limits() -> None:
    with patch("waitress.serve") as served, patch("signal.signal"), patch("annotator.supervisor.die_with_parent"):
        serve()
    assert served.call_args.kwargs["max_request_body_size"] == LARGEST_REQUEST_BYTES
    assert HTTPChannel.parser_class is BoundedParser
