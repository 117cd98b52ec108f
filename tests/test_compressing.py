"""Text travels compressed, and nothing else does."""

import gzip
from collections.abc import Callable

from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from annotator.models import Item, Project

Login = Callable[[User], Client]
TAKES_GZIP = {"Accept-Encoding": "br;q=1.0, gzip;q=0.8"}


def body(response: HttpResponse) -> bytes:
    return bytes(response.getvalue())


def test_a_page_is_a_third_as_long_and_says_the_same(login: Login, alice: User) -> None:
    client = login(alice)
    address = reverse("project-create")
    plain, short = client.get(address), client.get(address, headers=TAKES_GZIP)
    assert "Content-Encoding" not in plain and short["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in plain["Vary"] and "Accept-Encoding" in short["Vary"]
    assert len(short.content) < len(plain.content) / 2 and int(short["Content-Length"]) == len(short.content)
    assert b"<h1" in gzip.decompress(short.content)


def test_a_style_is_compressed_and_not_sent_twice(client: Client) -> None:
    plain, short = (client.get("/static/css/winnow.css", headers=each) for each in ({}, TAKES_GZIP))
    assert gzip.decompress(body(short)) == body(plain)
    assert short["ETag"] == plain["ETag"] and short["Content-Type"] == plain["Content-Type"]
    again = client.get("/static/css/winnow.css", headers=TAKES_GZIP | {"If-None-Match": short["ETag"]})
    assert again.status_code == 304
    head = client.head("/static/css/winnow.css", headers=TAKES_GZIP)
    assert head.status_code == 200 and "Content-Encoding" not in head


def test_who_does_not_take_it_gets_it_plain(client: Client) -> None:
    response = client.get("/static/js/labeling.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in response and b"The desk" in body(response)


def test_pictures_and_downloads_stay_as_they_are(
    login: Login, project: Project, items: list[Item], alice: User
) -> None:
    client = login(alice)
    for address in (
        reverse("item-image", args=[project.pk, items[0].pk]),
        reverse("export-download", args=[project.pk]) + "?format=csv",
    ):
        response = client.get(address, headers=TAKES_GZIP)
        assert response.status_code == 200 and "Content-Encoding" not in response and body(response)
