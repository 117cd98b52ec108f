"""What machines and browsers ask for: health, metrics, pictures."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import DatabaseError
from django.test import Client
from django.urls import reverse
from PIL import Image

from annotator import jobs
from annotator.actions import tokens
from annotator.actions.importing import start_upload_import
from annotator.models import Item, Job, Project
from ml_worker.tasks import run_job
from tests.cast import png

Login = Callable[[User], Client]


# --- health ---


def test_health_says_whether_there_is_a_worker(db: None, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    response = client.get("/health/")
    assert response.status_code == 200
    assert response.json() == {"status": "degraded", "version": "0.1.0", "database": "ok", "workers": 0}
    assert "no-cache" in response["Cache-Control"]
    monkeypatch.setattr(jobs, "workers_alive", lambda: 2)
    assert client.get("/health/").json()["status"] == "ok"


def test_health_is_503_without_a_database_and_tells_no_reason(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> int:
        raise DatabaseError("password of user postgres ...")

    monkeypatch.setattr(jobs, "workers_alive", away)
    response = client.get("/health/")
    assert response.status_code == 503 and response.json()["database"] == "down"
    assert b"password" not in response.content


# --- metrics ---


def test_metrics_count_what_there_is(
    project: Project, items: list[Item], answer: Any, bob: User, cat: Any, login: Login
) -> None:
    answer(bob, items[0], cat)
    Job.objects.create(project=project, kind=Job.Kind.EMBED)
    User.objects.filter(pk=bob.pk).update(is_superuser=True)
    response = login(bob).get("/metrics")
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = response.content.decode().splitlines()
    for line in (
        'winnow_info{version="0.1.0"} 1',
        "winnow_projects 1",
        'winnow_items{state="open"} 11',
        'winnow_items{state="labelled"} 1',
        'winnow_items{state="skipped"} 0',
        'winnow_annotations_total{kind="label"} 1',
        'winnow_jobs{state="queued"} 1',
        'winnow_jobs{state="failed"} 0',
        "winnow_queue_open 11",
        "winnow_workers 0",
        "# TYPE winnow_items gauge",
    ):
        assert line in lines
    assert response.content.endswith(b"\n")


def test_metrics_are_for_superusers_by_session_or_token(alice: User, client: Client, login: Login) -> None:
    _, token = tokens.make_token(user=alice, name="prometheus")
    asked = {"authorization": f"Bearer {token}"}
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=asked).status_code == 401
    assert login(alice).get("/metrics").status_code == 401
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    assert Client().get("/metrics", headers=asked).status_code == 200
    assert Client().get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert Client().get("/metrics", headers=asked).status_code == 401


# --- pictures ---


@pytest.fixture
def big(project: Project, alice: User) -> Item:
    return bring(project, alice, "big.png", png(1, 300))


def bring(project: Project, alice: User, name: str, content: bytes) -> Item:
    job = start_upload_import(project=project, actor=alice, uploads=[ContentFile(content, name)])
    run_job(job.pk)
    return Item.objects.get(import_job=job)


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def test_a_member_gets_the_original_bytes_and_keeps_them(
    project: Project, big: Item, vera: User, login: Login
) -> None:
    client, url = login(vera), reverse("item-image", args=[project.pk, big.pk])
    response = client.get(url)
    assert response.status_code == 200 and body(response) == png(1, 300)
    assert response["Content-Type"] == "image/png" and response["ETag"] == f'"{big.sha256}"'
    assert response["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response["X-Content-Type-Options"] == "nosniff" and "sandbox" in response["Content-Security-Policy"]
    again = client.get(url, headers={"if-none-match": response["ETag"]})
    assert again.status_code == 304 and again.content == b"" and again["ETag"] == response["ETag"]


def test_the_thumbnail_is_small_and_has_a_tag_of_its_own(
    project: Project, big: Item, vera: User, login: Login
) -> None:
    url = reverse("item-thumbnail", args=[project.pk, big.pk])
    response = login(vera).get(url)
    assert response["Content-Type"] == "image/webp" and response["ETag"] != f'"{big.sha256}"'
    assert Image.open(io.BytesIO(body(response))).size == (256, 256)
    assert login(vera).get(url, headers={"if-none-match": response["ETag"]}).status_code == 304


def test_browsers_get_a_rendition_of_what_they_cannot_show(
    project: Project, alice: User, vera: User, login: Login
) -> None:
    out = io.BytesIO()
    Image.effect_noise((40, 30), 60).save(out, "TIFF")
    item = bring(project, alice, "scan.tif", out.getvalue())
    url = reverse("item-image", args=[project.pk, item.pk])
    shown = login(vera).get(url)
    assert shown["Content-Type"] == "image/webp" and Image.open(io.BytesIO(body(shown))).size == (40, 30)
    original = login(vera).get(url, {"original": ""})
    assert original["Content-Type"] == "image/tiff" and body(original) == out.getvalue()
    assert original["ETag"] != shown["ETag"]


@pytest.mark.parametrize("view", ["item-image", "item-thumbnail"])
def test_pictures_are_for_members(
    project: Project, big: Item, charlie: User, vera: User, login: Login, view: str
) -> None:
    url = reverse(view, args=[project.pk, big.pk])
    tag = {"if-none-match": f'"{big.sha256}"'}
    assert Client().get(url, headers=tag).status_code == 302
    assert login(charlie).get(url, headers=tag).status_code == 404
    assert login(vera).post(url).status_code == 405
    assert login(vera).get(reverse(view, args=[project.pk, big.pk + 1])).status_code == 404


def test_a_picture_that_storage_lost_is_not_found(project: Project, big: Item, vera: User, login: Login) -> None:
    default_storage.delete(big.storage_key)
    response = login(vera).get(reverse("item-image", args=[project.pk, big.pk]))
    assert response.status_code == 404 and "immutable" not in response.get("Cache-Control", "")
