"""Encoders compared on a project's answers: asked for, run, shown, and gone by."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from annotator import jobs, queries
from annotator.actions import comparing, tokens, training
from annotator.models import Annotation, Item, Job, LabelClass, Project, Split
from ml_worker import comparing as compare_job
from ml_worker import encoder_report, snapshot, tasks
from ml_worker.encoders import self_supervised
from tests.test_training import add_pictures
from tests.tiny_models import save_tiny

Login = Callable[[User], Client]
TAUGHT = {"encoder.self_supervised.epochs": 1, "encoder.self_supervised.minutes": 0.1}


# --- asking, on the page and by program ---------------------------------------------------------------------


@pytest.fixture
def ready(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Nothing is missing, and nobody answers the bell."""
    monkeypatch.setattr("annotator.jobs.ring", lambda job_id: None)
    monkeypatch.setattr("annotator.queries.missing_for_comparison", lambda project: "")
    return project


def url(project: Project) -> str:
    return f"/projects/{project.pk}/training/"


def test_the_page_says_how_many_answers_it_takes(
    project: Project, login: Login, carol: User, items: list[Item], cat: LabelClass, answer: Callable[..., Annotation]
) -> None:
    client = login(carol)
    assert "Not yet: the images are not embedded yet" in client.get(url(project)).text
    Job.objects.create(
        project=project, kind="embed", state="done", result={"folder": "x", "n": 12, "encoder": "pca_pixels"}
    )
    answer(carol, items[0], cat)
    page = client.get(url(project)).text
    assert "it takes 10 labelled images of at least two classes; there are 1 of 1 class so far." in page
    assert 'value="compare" disabled' in page
    assert client.post(url(project), {"ask": "compare"}).status_code == 409
    assert queries.ANSWERS_TO_COMPARE == encoder_report.FEWEST


def test_the_same_wish_twice_is_one_job_and_another_is_refused(ready: Project, login: Login, carol: User) -> None:
    client = login(carol)
    for _ in range(2):
        asked = client.post(url(ready), {"ask": "compare", "also": ["self_supervised"]})
        assert asked.status_code == 303
    job = Job.objects.get(project=ready)
    assert (job.kind, job.parameters, job.created_by) == ("compare", {"also": ["self_supervised"]}, carol)
    refused = client.post(url(ready), {"ask": "compare"})
    assert refused.status_code == 409
    assert f"Another comparison waits already, as job {job.pk}" in refused.text
    refused = client.post(url(ready), {"ask": "compare", "also": ["crystal_ball"]})
    assert refused.status_code == 422
    assert "is not one of self_supervised, pretrained" in refused.text


def test_it_is_asked_for_by_program_too(ready: Project, client: Client, carol: User, vera: User) -> None:
    def ask(who: User, body: dict[str, Any]) -> Any:
        secret = tokens.make_token(user=who, name="t")[1]
        headers = {"Authorization": f"Bearer {secret}"}
        address = f"/api/v1/projects/{ready.pk}/compare/"
        return client.post(address, json.dumps(body), content_type="application/json", headers=headers)

    answered = ask(carol, {"also": ["pretrained"]})
    assert (answered.status_code, answered.json()["kind"]) == (202, "compare")
    assert ask(carol, {}).json()["error"]["code"] == "conflict"
    assert ask(carol, {"also": ["crystal_ball"]}).status_code == 422
    assert ask(vera, {}).status_code == 403


def report(**other: Any) -> dict[str, Any]:
    rates = {"rate": 0.75, "low": 0.6, "high": 0.86}
    lines = [
        {"name": "self_supervised", "note": "taught on 120 images", "knn": rates, "probe": rates},
        {"name": "pca_pixels", "note": "", "knn": rates, "probe": rates},
    ]
    left_out = [{"name": "pretrained", "why": "there is no folder <here>"}]
    why = "“Taught on your own images” is right on 75 % of 40 random checks"
    whole = {"lines": lines, "left_out": left_out, "recommended": "self_supervised", "why": why, "judged": 40}
    return whole | {"judged_on": "checks", "answers": 90, "checks_enough": 30, "in_use": "pca_pixels"} | other


@pytest.fixture
def compared(ready: Project) -> Job:
    """A comparison that is done, in a project that goes by pixels."""
    done = {"state": "done", "finished_at": timezone.now()}
    Job.objects.create(project=ready, kind="embed", result={"folder": "x", "n": 9, "encoder": "pca_pixels"}, **done)
    return Job.objects.create(project=ready, kind="compare", result={"encoders": report()}, **done)


def test_the_report_is_a_table_for_everybody_who_may_look(compared: Job, login: Login, vera: User) -> None:
    page = login(vera).get(url(compared.project)).text
    for shown in (
        "Recommended:",
        "“Taught on your own images” is right on 75 % of 40 random checks",
        "75\xa0%<br>",
        "60\xa0%–86\xa0%",
        "Left out: there is no folder &lt;here&gt;",
        "Right on 40 answered random checks",
    ):
        assert shown in page
    assert page.count('<span class="tag">in use</span>') == 1
    assert "Use this encoder" not in page
    assert 'value="compare"' not in page
    assert "Recommended:" in login(vera).get(f"/projects/{compared.project_id}/jobs/{compared.pk}/").text


def test_numbers_from_chosen_images_are_never_shown_as_accuracy(compared: Job, login: Login, vera: User) -> None:
    compared.result = {"encoders": report(judged_on="answers")}
    compared.save()
    page = login(vera).get(url(compared.project)).text
    assert "this is no accuracy" in page
    assert "Once 30 random checks are answered, those alone judge" in page


def test_the_owner_goes_by_it_with_one_button(
    compared: Job, login: Login, alice: User, carol: User, bob: User
) -> None:
    wanted = {"ask": "use-encoder", "encoder": "self_supervised"}
    assert "Use this encoder" not in login(carol).get(url(compared.project)).text
    for who, status in ((carol, 403), (bob, 403)):
        assert login(who).post(url(compared.project), wanted).status_code == status
    client = login(alice)
    assert "Use this encoder" in client.get(url(compared.project)).text
    Item.objects.create(
        project=compared.project, sha256="a", storage_key="a", thumbnail_key="a", width=8, height=8, size_bytes=1,
        mime="image/png", source_name="a",
    )  # fmt: skip
    assert client.post(url(compared.project), wanted).status_code == 303
    compared.project.refresh_from_db()
    assert compared.project.settings.encoder == "self_supervised"
    assert Job.objects.get(project=compared.project, kind="embed", state="queued").parameters == {"afresh": True}
    for name, status in (("crystal_ball", 422), ("trained", 422)):
        assert client.post(url(compared.project), wanted | {"encoder": name}).status_code == status


def test_the_encoder_of_the_settings_is_brought_back_from_behind_a_network(compared: Job, alice: User) -> None:
    project = compared.project
    with pytest.raises(comparing.Conflict, match="in use already"):
        comparing.use_encoder(project=project, actor=alice, name="pca_pixels")
    Job.objects.filter(project=project, kind="embed").update(
        kind="train", result={"folder": "x", "n": 9, "encoder": "trained"}
    )
    comparing.use_encoder(project=project, actor=alice, name="pca_pixels")
    assert Job.objects.get(project=project, kind="embed").parameters == {"afresh": True}
    with pytest.raises(comparing.Conflict, match="being embedded"):
        comparing.use_encoder(project=project, actor=alice, name="pca_pixels")


def test_a_running_comparison_is_drawn_until_it_is_over(compared: Job, login: Login, carol: User, vera: User) -> None:
    now = timezone.now()
    columns = {"state": "running", "heartbeat_at": now, "started_at": now, "message": "“A published model”: embedded"}
    job = Job.objects.create(project=compared.project, kind="compare", **columns)
    headers = {"HX-Request": "true", "HX-Target": "encoders"}
    part = login(carol).get(url(compared.project), headers=headers)
    assert part.status_code == 200
    assert "“A published model”: embedded" in part.text
    assert f"/jobs/{job.pk}/cancel/" in part.text
    assert "Recommended:" in part.text, "the report before"
    assert "/cancel/" not in login(vera).get(url(compared.project), headers=headers).text
    Job.objects.filter(pk=job.pk).update(state="failed", error="out of memory", finished_at=now)
    part = login(carol).get(url(compared.project), headers=headers)
    assert part.status_code == 286
    assert "The last comparison failed: out of memory" in part.text
    assert 'value="compare"' in part.text


# --- the job ------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(
    project: Project, cat: LabelClass, dog: LabelClass, alice: User, settings: Any, answer: Callable[..., Annotation]
) -> Project:
    """60 pool pictures and 30 random checks, embedded by their pixels; 20 and 12 are answered."""
    items = [*add_pictures(project, range(60))[:20], *add_pictures(project, range(100, 130), Split.AUDIT)[:12]]
    run_now(training.request_embedding(project=project))
    Annotation.objects.bulk_create(
        Annotation(
            uuid=f"00000000-0000-0000-0000-{item.pk:012d}", project=project, item=item, annotator=alice, kind="label",
            value={"class": (dog if int(item.source_name) % 2 else cat).pk}, source="person",
        )
        for item in items
    )  # fmt: skip
    Item.objects.filter(pk__in=[item.pk for item in items]).update(state="labelled")
    return project


def run_now(job: Job) -> Job:
    tasks.run_job(job.pk)
    job.refresh_from_db()
    assert job.state != Job.State.FAILED, job.error
    return job


def compare(project: Project, *also: str, **settings: Any) -> dict[str, Any]:
    """What came of a comparison under these parameters of the settings."""
    if settings:
        project.settings_json = settings
        project.save()
    job = jobs.enqueue(project, Job.Kind.COMPARE, parameters={"also": sorted(also)})
    return dict(run_now(job).result["encoders"])


def names(lines: list[dict[str, Any]]) -> set[str]:
    return {line["name"] for line in lines}


def note(found: dict[str, Any], name: str) -> str:
    return next(str(line["note"]) for line in found["lines"] if line["name"] == name)


@pytest.mark.slow
def test_each_encoder_that_can_be_had_is_judged_and_the_others_say_why_not(pool: Project) -> None:
    found = compare(pool)
    assert names(found["lines"]) == {"pca_pixels"}
    assert {line["name"]: line["why"] for line in found["left_out"]} == {
        "self_supervised": "not taught yet; once ticked it learns for 5 minutes first",
        "pretrained": "no model is named in the settings; once ticked it is facebook/dinov2-small",
    }
    line = found["lines"][0]
    assert 0 <= line["knn"]["low"] <= line["knn"]["rate"] <= line["knn"]["high"] <= 1
    assert line["knn"]["rate"] > 0.9 and line["probe"]["rate"] > 0.9
    assert (found["judged_on"], found["judged"], found["answers"]) == ("answers", 32, 32)
    assert (found["recommended"], found["in_use"]) == ("", "pca_pixels"), "there is nothing to choose from"
    job = Job.objects.get(project=pool, kind="compare")
    assert job.message == found["why"]


@pytest.mark.slow
def test_a_published_model_takes_part_once_named_and_a_wrong_one_stops_nobody(pool: Project, tmp_path: Path) -> None:
    folder = save_tiny("vit", tmp_path / "tiny-vit")
    found = compare(pool, parameters={"encoder.pretrained.model": str(folder)})
    assert names(found["lines"]) == {"pca_pixels", "pretrained"}
    assert note(found, "pretrained") == "tiny-vit"
    found = compare(pool, parameters={"encoder.pretrained.model": str(tmp_path / "nothing")})
    assert names(found["lines"]) == {"pca_pixels"}
    assert "there is no folder" in found["left_out"][1]["why"]


@pytest.mark.slow
def test_a_broken_model_is_left_out_by_name_and_the_others_are_compared(pool: Project, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny("vit", tmp_path / "server" / "tiny-vit")
    weights = load_file(folder / "model.safetensors")

    def why() -> str:
        found = compare(pool, parameters={"encoder.pretrained.model": str(folder)})
        assert names(found["lines"]) == {"pca_pixels"}
        reason = {line["name"]: line["why"] for line in found["left_out"]}["pretrained"]
        assert str(tmp_path) not in reason + Job.objects.filter(kind="compare").latest("pk").log_tail
        return str(reason)

    save_file(weights | {"layernorm.weight": weights["layernorm.weight"] * float("nan")}, folder / "model.safetensors")
    assert "not finite for 90 of 90 images" in why()
    (folder / "model.safetensors").write_bytes(b"junk" * 9)
    assert "the model in 'tiny-vit' cannot be opened" in why()
    (folder / "preprocessor_config.json").write_text("[")
    assert "preprocessor_config.json of 'tiny-vit' is no JSON" in why()


@pytest.mark.slow
def test_an_encoder_that_fails_in_a_way_of_its_own_stops_no_other_and_is_logged(
    pool: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OfItsOwn(Exception):
        pass

    def fails(*given: Any) -> None:
        raise OfItsOwn("nothing in /srv/models/mine")

    monkeypatch.setattr(compare_job, "_by_published", fails)
    monkeypatch.setattr(logging.getLogger("ml_worker"), "propagate", True)
    found = compare(pool)
    assert names(found["lines"]) == {"pca_pixels"}
    assert {"name": "pretrained", "why": "nothing in mine"} in found["left_out"]
    (logged,) = [record for record in caplog.records if record.name == "ml_worker.comparing"]
    assert logged.exc_info is not None
    assert "OfItsOwn: nothing in /srv/models/mine" in caplog.text


@pytest.mark.slow
def test_an_embedding_from_before_that_is_not_finite_is_left_out(pool: Project) -> None:
    embedding = queries.current_embedding(pool)
    assert embedding is not None
    path = snapshot.embedding_folder(embedding.result["folder"]) / "embeddings.npy"
    embeddings = np.load(path)
    embeddings[:] = np.nan
    np.save(path, embeddings)
    found = compare(pool)
    assert "not finite for 90 of 90 images" in found["left_out"][0]["why"]


@pytest.mark.slow
def test_the_pool_teaches_an_encoder_when_that_is_wished_and_once(
    pool: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert note(compare(pool, "self_supervised", parameters=TAUGHT), "self_supervised") == "Taught on 90 images"
    monkeypatch.setattr(self_supervised.Encoder, "fit", None)
    assert note(compare(pool), "self_supervised") == "As it was taught before"
    found = compare(pool, parameters=TAUGHT | {"encoder.self_supervised.variant": "vicreg"})
    assert names(found["left_out"]) == {"self_supervised", "pretrained"}, "the one on the disk is another"


@pytest.mark.slow
def test_what_is_in_use_is_read_from_the_disk(pool: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise RuntimeError("nothing is to be computed")

    monkeypatch.setattr(compare_job, "_in_blocks", fails)
    assert names(compare(pool)["lines"]) == {"pca_pixels"}
    # Other parameters since: what lies there is of another encoder.
    found = compare(pool, parameters={"encoder.pca_pixels.components": 3})
    assert names(found["lines"]) == set()
    assert (found["why"], found["recommended"]) == ("No encoder could be had.", "")
    assert found["left_out"][0] == {"name": "pca_pixels", "why": "nothing is to be computed"}


@pytest.mark.slow
def test_random_checks_alone_judge_once_there_are_enough_or_a_network_saw_the_rest(
    pool: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_job, "CHECKS_ENOUGH", 12)
    found = compare(pool)
    assert (found["judged_on"], found["judged"], found["answers"]) == ("checks", 12, 32)
    assert found["why"].endswith("of 12 random checks.")
    monkeypatch.setattr(compare_job, "CHECKS_ENOUGH", 13)
    embedding = queries.current_embedding(pool)
    assert embedding is not None
    embedding.result["encoder"] = "trained"
    embedding.save()
    found = compare(pool)
    assert (found["judged_on"], found["judged"]) == ("checks", 12)
    assert names(found["lines"]) == {"trained", "pca_pixels"}
    assert "the random checks alone count" in note(found, "trained")


@pytest.mark.slow
def test_it_is_cancelled_while_an_encoder_learns(pool: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.Run, "REPORT_EVERY_S", 0.0)
    pool.settings_json = {"parameters": TAUGHT}
    pool.save()
    job = jobs.enqueue(pool, Job.Kind.COMPARE, parameters={"also": ["self_supervised"]})
    fit = self_supervised.Encoder.fit

    def cancelled_meanwhile(self: Any, images: Any, *, progress: Any, folder: Path) -> None:
        jobs.cancel(Job.objects.get(pk=job.pk))
        fit(self, images, progress=progress, folder=folder)

    monkeypatch.setattr(self_supervised.Encoder, "fit", cancelled_meanwhile)
    assert run_now(job).state == Job.State.CANCELLED
    assert not (snapshot.embedding_folder(f"{pool.pk}/compared-self_supervised") / "encoder").exists()


def test_a_sample_takes_checks_first_and_never_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ml_worker.fast_loop import Answers
    from ml_worker.pool import Pool

    class Taken:
        train = Answers(np.arange(10, 20), np.zeros(10, np.int64))
        audit = Answers(np.arange(5), np.ones(5, np.int64))

        class embedded:
            pool = Pool(np.zeros((30, 2), np.float32), *2 * [np.zeros((30, 0), np.int32)], np.arange(30) < 25)  # type: ignore[arg-type]

    monkeypatch.setattr(compare_job, "ANSWERED_AT_MOST", 8)
    monkeypatch.setattr(compare_job, "OTHERS_AT_MOST", 6)
    sample = compare_job._sample(Taken(), np.random.default_rng(0))  # type: ignore[arg-type]
    assert sorted(sample.rows[:5]) == [0, 1, 2, 3, 4]
    assert (len(sample.targets), sample.targets.tolist()) == (8, [1] * 5 + [0] * 3)
    assert sample.checks.tolist() == [True] * 5 + [False] * 3
    assert len(sample.rows) == len(set(sample.rows.tolist())) == 14
    assert sample.rows.max() < 25, "held-out rows teach nobody where the middle is"
