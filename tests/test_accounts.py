"""Coming in by password or by a link that works once, and going out."""

import io
import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator.actions import accounts

Login = Callable[[User], Client]
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def is_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def attempt(client: Client, username: str, password: str = PASSWORD, **more: str) -> int:
    return client.post(reverse("login"), {"username": username, "password": password, **more}).status_code


# --- the link ---


def test_a_link_logs_in_with_one_press_and_works_once(alice: User, client: Client) -> None:
    link = accounts.create_login_link(alice)
    page = client.get(link)
    assert page.status_code == 200 and b"Log in as alice" in page.content and not is_in(client)
    assert page["Cache-Control"].startswith("max-age=0") and page["Referrer-Policy"] == "same-origin"
    response = client.post(link)
    assert response.status_code == 303 and response["Location"] == "/" and is_in(client)
    other = Client()
    refused = other.post(link)
    assert refused.status_code == 404 and b"was used already" in refused.content and not is_in(other)


def test_looking_at_a_link_does_not_use_it_up(alice: User, client: Client) -> None:
    link = accounts.create_login_link(alice)
    for _ in range(3):
        assert Client().get(link).status_code == Client().head(link).status_code == 200
    assert client.post(link).status_code == 303


def test_a_link_wants_the_csrf_token_and_the_page_has_it(alice: User) -> None:
    client, link = Client(enforce_csrf_checks=True), accounts.create_login_link(alice)
    assert client.post(link).status_code == 403
    found = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', client.get(link).content)
    assert found is not None
    assert client.post(link, {"csrfmiddlewaretoken": found[1].decode()}).status_code == 303


def test_every_way_a_link_gets_void(alice: User, bob: User, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_void(link: str) -> bool:
        return client.get(link).status_code == client.post(link).status_code == 404

    for what in ("password", "login", "inactive"):
        link = accounts.create_login_link(alice)
        assert Client().get(link).status_code == 200
        if what == "password":
            alice.set_password("another one entirely")
        elif what == "login":
            alice.last_login = timezone.now()
        else:
            alice.is_active = False
        alice.save()
        assert is_void(link), what
    _, _, uid, token, _ = accounts.create_login_link(bob).split("/")
    alices = accounts.create_login_link(alice).split("/")[2]
    assert is_void(reverse("login-link", args=[alices, token]))
    assert is_void(reverse("login-link", args=[uid, token[:-2] + "xx"]))
    assert is_void(reverse("login-link", args=["!!", token])) and is_void(reverse("login-link", args=[uid, "x"]))
    link = accounts.create_login_link(bob)
    late = timezone.now() + timedelta(hours=accounts.LINK_HOURS, minutes=1)
    monkeypatch.setattr("django.core.signing.time.time", late.timestamp)
    assert is_void(link)


def test_two_links_of_one_person_do_not_both_work(alice: User) -> None:
    one, two = accounts.create_login_link(alice), accounts.create_login_link(alice)
    assert Client().post(one).status_code == 303
    assert Client().post(two).status_code == 404


def test_somebody_who_is_in_already_just_goes_on(alice: User, client: Client) -> None:
    link = accounts.create_login_link(alice)
    client.post(link)
    again = client.get(link)
    assert again.status_code == 302 and again["Location"] == "/"


def test_the_command_prints_a_link_and_makes_accounts_when_asked(alice: User, client: Client) -> None:
    out = io.StringIO()
    call_command("login_link", "alice", stdout=out)
    link = out.getvalue().strip()
    assert link.startswith("http://127.0.0.1:8080/login/")
    assert client.post(link.removeprefix("http://127.0.0.1:8080")).status_code == 303
    with pytest.raises(CommandError, match="no account called 'zoe'"):
        call_command("login_link", "zoe")
    call_command("login_link", "zoe", "--create", stdout=out)
    assert not User.objects.get(username="zoe").has_usable_password()


# --- the password ---


def test_the_right_password_leads_where_one_wanted_to_go(alice: User, client: Client) -> None:
    assert client.get(reverse("login")).status_code == 200
    response = client.post(reverse("login"), {"username": "alice", "password": PASSWORD, "next": "/projects/new/"})
    assert response.status_code == 303 and response["Location"] == "/projects/new/" and is_in(client)


@pytest.mark.parametrize("where", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "\\\\evil", ""])
def test_next_never_leads_away(alice: User, client: Client, where: str) -> None:
    response = client.post(reverse("login"), {"username": "alice", "password": PASSWORD, "next": where})
    assert response["Location"] == "/"
    assert client.get(reverse("login"), {"next": where})["Location"] == "/"


@pytest.mark.parametrize("username", ["alice", "nobody", "", "\x00", "x" * 5000])
def test_a_wrong_password_and_a_wrong_name_look_the_same(alice: User, client: Client, username: str) -> None:
    response = client.post(reverse("login"), {"username": username, "password": "wrong"})
    assert response.status_code == 422 and b"do not belong together" in response.content and not is_in(client)


def test_after_five_failures_even_the_right_password_waits(alice: User, bob: User, client: Client) -> None:
    assert [attempt(client, "alice", "wrong") for _ in range(5)] == [422] * 5
    response = client.post(reverse("login"), {"username": "ALICE", "password": PASSWORD})
    assert response.status_code == 429 and response["Retry-After"] == "900" and not is_in(client)
    assert b"Too many failed attempts; try again in 15 minutes" in response.content
    assert attempt(client, "bob") == 303  # a neighbour is not locked out


def test_a_success_forgets_the_failures(alice: User) -> None:
    for _ in range(3):
        assert [attempt(Client(), "alice", "wrong") for _ in range(4)] == [422] * 4
        assert attempt(Client(), "alice") == 303


def test_guessing_from_many_addresses_ends_too(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "FAILURES_AT_MOST", (5, 8, 200))
    codes = [attempt(Client(REMOTE_ADDR=f"10.0.0.{number}"), "alice", "wrong") for number in range(10)]
    assert codes == [422] * 8 + [429] * 2


def test_guessing_many_names_from_one_address_ends_too(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "FAILURES_AT_MOST", (5, 50, 8))
    assert [attempt(Client(), f"name-{number}", "wrong") for number in range(10)] == [422] * 8 + [429] * 2


def test_an_inactive_account_does_not_come_in(alice: User, client: Client) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert attempt(client, "alice") == 422


# --- going out ---


def test_logging_out_takes_a_post(alice: User, login: Login) -> None:
    client = login(alice)
    assert client.get(reverse("logout")).status_code == 405 and is_in(client)
    assert client.post(reverse("logout"))["Location"] == "/login/" and not is_in(client)
