"""A project's model, taken home from the page or by program: asked for, watched, fetched, run without Winnow."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from annotator import jobs, queries
from annotator.actions import packaging as packages
from annotator.models import Annotation, Item, Job, LabelClass, ModelVersion, Project, Split
from ml_worker import packaging, snapshot
from ml_worker.calibrate import softmax
from ml_worker.distil import distil
from ml_worker.images import decode
from ml_worker.tasks import run_job
from tests.cast import make_item, png
from tests.test_api import Caller, error
from tests.test_export_model import promote
from tests.test_training_page import make_job

Login = Callable[[User], Client]
AS_IT_IS, DISTILLED = {"model": "as-it-is"}, {"model": "distilled", "minutes": "0.5"}


@pytest.fixture
def taught(
    project: Project, items: list[Item], answer: Callable[..., Annotation], bob: User, cat: LabelClass, dog: LabelClass
) -> Project:
    """Twelve images and twelve random checks, embedded, answered by turns, and a head fitted on them."""
    checks = [make_item(project, 100 + seed, Split.AUDIT) for seed in range(12)]
    for number, item in enumerate([*items[:6], *checks]):
        answer(bob, item, (cat, dog)[number % 2])
    for kind in (Job.Kind.EMBED, Job.Kind.REFIT):
        run_job(jobs.enqueue(project, kind).pk)
    return project


@pytest.fixture
def inline(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Callable[..., Any]
) -> Callable[..., Any]:
    """A request whose jobs run before it is answered, learning for three steps, however slow the machine."""
    monkeypatch.setattr("ml_worker.take_home.distil", partial(distil, steps=3, batch=8))

    def post(client: Client, url: str, body: dict[str, Any], **how: Any) -> Any:
        settings.JOBS_INLINE = True
        try:
            with django_capture_on_commit_callbacks(execute=True):
                return client.post(url, body, **how)
        finally:
            settings.JOBS_INLINE = False

    return post


def unzipped(content: bytes, folder: Path) -> Path:
    """The one folder of the package."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
        (name,) = {Path(each).parts[0] for each in archive.namelist()}
    assert sorted(path.name for path in (folder / name).iterdir()) == sorted(packaging.FILES)
    return folder / name


def named_by_script(folder: Path, image: Path) -> tuple[str, float]:
    """What the script of the package prints of an image, run where nothing of this repository is within reach."""
    done = subprocess.run(
        [sys.executable, folder / "predict.py", image],
        cwd=folder,
        env={"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    _, name, prob = done.stdout.strip().split("\t")
    return name, float(prob)


def test_the_package_names_an_image_as_the_network_does(
    taught: Project, carol: User, vera: User, login: Login, inline: Callable[..., Any], tmp_path: Path
) -> None:
    net = promote(taught)
    asked = inline(login(carol), f"/projects/{taught.pk}/export/model/", AS_IT_IS)
    assert asked.status_code == 303 and asked["Location"] == f"/projects/{taught.pk}/export/#model-title"
    job = Job.objects.get(project=taught, kind=Job.Kind.EXPORT)
    assert (job.state, job.created_by, job.result["distilled"]) == ("done", carol, False), job.error
    fetched = login(vera).get(f"/projects/{taught.pk}/export/model/{job.pk}/")
    assert fetched.streaming and fetched["Content-Type"] == "application/zip"
    assert fetched["Content-Disposition"] == 'attachment; filename="pets-model-1.zip"'
    folder = unzipped(b"".join(fetched.streaming_content), tmp_path)
    (tmp_path / "seen.png").write_bytes(png(7))
    px = packaging.read(folder).image_px
    square = torch.tensor(decode(png(7), px)[None]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        probs = softmax(net(square).numpy(), 1.5)[0]
    name, prob = named_by_script(folder, tmp_path / "seen.png")
    assert name == ["cat", "dog"][probs.argmax()] and prob == pytest.approx(probs.max(), abs=1e-3)
    said = (folder / "README.md").read_text("utf-8")
    assert "# Pets" in said and "- cat\n- dog" in said
    assert "right on 36 of 40 images drawn at random" in said.lower() and "77.0% and 96.0%" in said


def test_a_program_takes_a_student_home(
    taught: Project, carol: User, vera: User, inline: Callable[..., Any], tmp_path: Path
) -> None:
    caller = Caller(carol, taught)
    asked = inline(caller.client, caller.base + "export/model/", {"distil": True}, content_type="application/json")
    assert asked.status_code == 202
    job = Caller(vera, taught).get(f"jobs/{asked.json()['id']}/").json()
    assert (job["kind"], job["state"], job["result"]["model"]) == ("export", "done", 1), job["error"]
    assert str(settings.ARTIFACT_ROOT) not in json.dumps(job)
    fetched = Caller(vera, taught).get(f"export/model/{job['id']}/")
    folder = unzipped(b"".join(fetched.streaming_content), tmp_path)
    about = json.loads((folder / "model.json").read_text("utf-8"))
    assert (about["distilled"]["steps"], about["audit"]["n"]) == (3, 12)
    assert "a small network" in (folder / "README.md").read_text("utf-8")


def test_the_page_says_which_model_how_good_and_what_can_be_fetched(
    taught: Project, carol: User, vera: User, login: Login, inline: Callable[..., Any]
) -> None:
    url = f"/projects/{taught.pk}/export/"
    before = login(carol).get(url).text
    assert "Model 1 (Label spreading;" in before and "of 12 random checks" in before
    assert "Not now: no trained network is in use here" in before and "Download</a>" not in before
    inline(login(carol), url + "model/", DISTILLED)
    job = Job.objects.get(project=taught, kind=Job.Kind.EXPORT)
    for who, may_ask in ((carol, True), (vera, False)):
        page = login(who).get(url).text
        assert f'href="/projects/{taught.pk}/export/model/{job.pk}/"' in page and "just now" in page
        assert ("Package the model</button>" in page) is may_ask
        assert str(settings.ARTIFACT_ROOT) not in page + login(who).get(f"/projects/{taught.pk}/jobs/{job.pk}/").text
    newest = queries.current_model(taught)
    assert newest is not None
    newest.pk, newest.number = None, 2
    newest.save()
    assert "The project is at model 2 by now" in login(vera).get(url).text


def test_the_page_is_polled_until_the_package_is_there(
    model: ModelVersion, carol: User, vera: User, login: Login
) -> None:
    project, url = model.project, f"/projects/{model.project_id}/export/"
    job = make_job(project, kind="export", progress=0.25, message="a small network learns: step 8, 12 s left")
    page = login(carol).get(url).text
    assert 'hx-trigger="every 2s"' in page and "12 s left" in page and "cancel-package" in page
    assert "cancel-package" not in login(vera).get(url).text
    headers = {"HX-Request": "true", "HX-Target": "model"}
    assert login(vera).get(url, headers=headers).status_code == 200
    Job.objects.filter(pk=job.pk).update(state="failed", error="out of <memory>")
    part = login(vera).get(url, headers=headers)
    assert part.status_code == 286 and "Out of &lt;memory&gt;" in part.text and "<html" not in part.text


def test_a_project_without_a_model_says_so_and_refuses(project: Project, carol: User, login: Login) -> None:
    assert "There is no model yet" in login(carol).get(f"/projects/{project.pk}/export/").text
    refused = login(carol).post(f"/projects/{project.pk}/export/model/", DISTILLED)
    assert refused.status_code == 409 and "There is no model yet" in refused.text
    assert error(Caller(carol, project).post("export/model/", {"distil": True})) == (409, "conflict")
    assert not Job.objects.exists()


@pytest.mark.parametrize("minutes", ["0", "nan", "1e9", "many"])
def test_minutes_that_are_none_are_refused_in_words(
    model: ModelVersion, carol: User, login: Login, minutes: str
) -> None:
    refused = login(carol).post(f"/projects/{model.project_id}/export/model/", DISTILLED | {"minutes": minutes})
    assert refused.status_code == 422 and "minutes" in refused.context["refused"]


def test_a_model_whose_images_went_says_so(taught: Project, carol: User, login: Login) -> None:
    ModelVersion.objects.update(metrics={"embedding": f"{taught.pk}/embedding-gone"})
    assert "were embedded anew since" in login(carol).get(f"/projects/{taught.pk}/export/").text
    refused = login(carol).post(f"/projects/{taught.pk}/export/model/", DISTILLED)
    assert refused.status_code == 409 and not Job.objects.filter(kind="export").exists()


def test_two_who_press_at_once_ask_for_one_package(taught: Project, alice: User, carol: User) -> None:
    first = packages.request_package(project=taught, actor=carol, distil=True)
    assert packages.request_package(project=taught, actor=alice, distil=True) == first
    assert error(Caller(alice, taught).post("export/model/", {"distil": True, "minutes": 9})) == (409, "conflict")
    assert error(Caller(alice, taught).get(f"export/model/{first.pk}/")) == (409, "conflict")


def test_who_may_not_ask_is_told_so(
    project: Project, bob: User, carol: User, charlie: User, login: Login, model: ModelVersion
) -> None:
    url = f"/projects/{project.pk}/export/model/"
    assert [login(who).post(url, DISTILLED).status_code for who in (bob, charlie)] == [403, 404]
    assert login(carol).get(url).status_code == 405
    refit = make_job(project, state="done")
    assert login(bob).get(f"{url}{refit.pk}/").status_code == 404
    assert login(charlie).get(f"{url}{refit.pk}/").status_code == 404
    lost = make_job(project, state="done", kind="export", result={"model": 1, "bytes": 1, "distilled": True})
    assert login(bob).get(f"{url}{lost.pk}/").status_code == 404  # its file went


def test_a_model_that_changes_meanwhile_is_not_mixed_with_the_new_one(
    taught: Project, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the student learns, an import embeds everything anew and a class comes in."""
    job = packages.request_package(project=taught, actor=carol, distil=True)

    def slowly(*given: Any, **how: Any) -> Any:
        make_item(taught, 50)
        LabelClass.objects.create(project=taught, name="ant", position=0, colour="#000000")
        for _ in range(2):  # the second takes away what the first model speaks of
            run_job(jobs.enqueue(taught, Job.Kind.EMBED).pk)
            run_job(jobs.enqueue(taught, Job.Kind.REFIT).pk)
        snapshot.load_embedded.cache_clear()
        return distil(*given, **how | {"steps": 2, "batch": 8})

    monkeypatch.setattr("ml_worker.take_home.distil", slowly)
    run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.result["model"]) == ("done", 1), job.error
    newest = queries.current_model(taught)
    assert newest is not None and newest.number > 1
    with zipfile.ZipFile(packages.package_path(job)) as archive:
        about = json.loads(archive.read("pets-model-1/model.json"))
    assert about["classes"] == ["cat", "dog"] and about["audit"]["n"] == 12


def test_a_network_about_to_take_over_does_not_lend_its_figures(taught: Project) -> None:
    promote(taught)
    training = make_job(taught, kind="train")
    ModelVersion.objects.create(
        project=taught, job=training, number=9, encoder="trained", algorithm="fixmatch", class_ids=[],
        label_watermark=0, label_count=0, answer_count=0, artifact_folder="",
    )  # fmt: skip
    standing = queries.network_in_use(taught)
    assert standing is not None and standing.number == 1


def test_a_cancelled_package_leaves_nothing(taught: Project, carol: User, monkeypatch: pytest.MonkeyPatch) -> None:
    job = packages.request_package(project=taught, actor=carol, distil=True)

    def pressed(*given: Any, progress: Callable[[float, str], None], **how: Any) -> None:
        Job.objects.filter(pk=job.pk).update(cancel_requested=True)
        monkeypatch.setattr(jobs.Run, "REPORT_EVERY_S", 0)
        progress(0.1, "step 1")

    monkeypatch.setattr("ml_worker.take_home.distil", pressed)
    run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.result) == ("cancelled", {})
    assert not list(Path(settings.ARTIFACT_ROOT).glob("*/packag*"))


def test_after_a_crash_it_begins_anew_and_tidies_up(taught: Project, carol: User) -> None:
    promote(taught)
    job = packages.request_package(project=taught, actor=carol)
    left = packages.work_folder(job)
    (left / "files").mkdir(parents=True)
    run_job(job.pk)
    job.refresh_from_db()
    assert job.state == "done" and packages.package_path(job).is_file() and not left.exists()


def test_only_the_newest_packages_are_kept(taught: Project, carol: User, login: Login) -> None:
    promote(taught)
    made = []
    for _ in range(packages.KEPT + 1):
        made.append(packages.request_package(project=taught, actor=carol))
        run_job(made[-1].pk)
    assert [packages.package_path(job).is_file() for job in made] == [False, *[True] * packages.KEPT]
    assert login(carol).get(f"/projects/{taught.pk}/export/").text.count("Download</a>") == packages.KEPT
    assert login(carol).get(f"/projects/{taught.pk}/export/model/{made[0].pk}/").status_code == 404
