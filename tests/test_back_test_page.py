"""Back-tests of a project: asked for on a page and by program, run, shown, fetched, and gone on with after a kill."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from annotator import jobs
from annotator.actions import backtesting, tokens
from annotator.models import Annotation, Item, Job, LabelClass, Project, QueueEntry, Split
from ml_worker import backtesting as back_test_job
from ml_worker import simulated_person, snapshot, tasks
from ml_worker.neighbours import nearest
from ml_worker.pool import Pool
from tests.cast import make_item

Login = Callable[[User], Client]
FORM = {
    "source": "answers",
    "acquisition": ["margin", "random_sampling"],
    "head": "label_spreading",
    "target_precision": "99, 80",
    "budget": "30",
    "seeds": "2",
}


@pytest.fixture(autouse=True)
def quiet_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers the bell, and what is run is run here."""
    monkeypatch.setattr("annotator.jobs.ring", lambda job_id: None)
    monkeypatch.setattr(back_test_job, "hands", lambda: {"processes": 1})


def url(project: Project) -> str:
    return f"/projects/{project.pk}/back-test/"


@pytest.fixture
def answered(project: Project, cat: LabelClass, dog: LabelClass, bob: User) -> Project:
    """160 images of two kinds, embedded; 40 of the pool and 24 random checks were answered in their turn, and one of
    each is of none of the classes."""
    items = [make_item(project, seed, Split.AUDIT if seed % 5 == 0 else Split.POOL) for seed in range(160)]
    Item.objects.filter(pk__in=[item.pk for item in items[150:]]).update(split=Split.TEST)
    rng = np.random.default_rng(0)
    is_dog = np.array([item.pk % 2 == 1 for item in items])
    embeddings = (np.where(is_dog, 3.0, -3.0)[:, None] + rng.normal(size=(160, 4))).astype(np.float32)
    splits = np.array([0 if seed % 5 else 1 for seed in range(160)], np.uint8)
    splits[150:] = 2
    indexed = splits != 2
    name = f"{project.pk}/embedding-1-1"
    folder = snapshot.embedding_folder(name)
    Pool(embeddings, *nearest(embeddings, indexed), indexed).save(folder)
    np.save(folder / "item_ids.npy", np.array([item.pk for item in items]))
    np.save(folder / "splits.npy", splits)
    done = {"state": "done", "finished_at": timezone.now()}
    result = {"folder": name, "n": 160, "encoder": "pca_pixels"}
    Job.objects.create(project=project, kind="embed", result=result, **done)
    for seed in [*range(1, 50), *range(50, 120, 5)]:  # 40 of the pool, 9 + 14 checks
        _answer(items[seed], bob, None if seed in (4, 5) else (dog if is_dog[seed] else cat))
    _answer(items[120], bob, dog if is_dog[120] else cat)
    return project


def _answer(item: Item, who: User, label_class: LabelClass | None) -> None:
    """Without a class: none of these."""
    is_check = item.split == Split.AUDIT
    Annotation.objects.create(
        uuid=f"00000000-0000-0000-0000-{item.pk:012d}",
        project=item.project,
        item=item,
        annotator=who,
        kind="label" if label_class else "none_of_these",
        value={"class": label_class.pk} if label_class else None,
        reason_code=QueueEntry.Reason.AUDIT if is_check else QueueEntry.Reason.TYPICAL,
    )
    item.state = Item.State.LABELLED if label_class else Item.State.NONE_OF_THESE
    item.save(update_fields=["state"])


def run_waiting(project: Project) -> Job:
    job = Job.objects.filter(project=project, kind="back_test").latest("id")
    tasks.run_job(job.pk)
    job.refresh_from_db()
    return job


# --- asking -------------------------------------------------------------------------------------------------


def test_the_page_says_how_many_answers_are_missing(
    project: Project, login: Login, carol: User, items: list[Item], cat: LabelClass, answer: Callable[..., Annotation]
) -> None:
    client = login(carol)
    assert "Not yet: the images are not embedded yet; back-test once they are." in client.get(url(project)).text
    Job.objects.create(project=project, kind="embed", state="done", result={"folder": "x", "encoder": "pca_pixels"})
    answer(carol, items[0], cat)
    Item.objects.filter(pk=items[1].pk).update(split=Split.AUDIT)
    answer(carol, items[1], cat)
    wanted = "it takes 29 more labelled images (there are 1) and 19 more answered random checks (there are 1)"
    assert f"Not yet: {wanted}" in client.get(url(project)).text
    refused = client.post(url(project), FORM)
    assert refused.status_code == 409
    assert wanted[1:] in refused.text
    assert client.post(url(project), FORM | {"source": "digits"}).status_code == 303  # those are always there


def test_who_may_ask_and_who_may_look(
    answered: Project, login: Login, alice: User, bob: User, carol: User, vera: User, charlie: User
) -> None:
    for who, status in ((alice, 303), (carol, 303), (bob, 403), (vera, 403), (charlie, 404)):
        assert login(who).post(url(answered), FORM).status_code == status
    assert "Run the back-test" not in login(vera).get(url(answered)).text
    assert "Run the back-test" in login(carol).get(url(answered)).text
    assert login(charlie).get(url(answered)).status_code == 404
    assert login(carol).delete(url(answered)).status_code == 405


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"source": "tea leaves"}, "&#x27;tea leaves&#x27; is not one of answers, digits"),
        ({"acquisition": ["crystal_ball"]}, "&#x27;crystal_ball&#x27; is not one of margin"),
        ({"acquisition": []}, "0 were chosen; choose 1 to 8"),
        ({"head": ["none"]}, "&#x27;none&#x27; is not one of label_spreading"),
        ({"target_precision": "many"}, "&#x27;many&#x27; is not a number"),
        ({"target_precision": "99, 20"}, "wanted shares of 50 to 99.9 %"),
        ({"target_precision": "nan"}, "wanted shares of 50 to 99.9 %"),
        ({"target_precision": "99,98,97,96,95"}, "5 were named; name 1 to 4"),
        ({"budget": "5"}, "Budget: 5 is not between 10 and 5,000"),
        ({"budget": "inf"}, "Budget: 0 is not between 10 and 5,000"),
        ({"seeds": "1.5"}, "Seeds: 0 is not between 2 and 30"),
        ({"seeds": ""}, "Seeds: &#x27;&#x27; is not a number"),
    ],
)
def test_bad_input_says_why_and_keeps_the_form(
    answered: Project, login: Login, carol: User, sent: dict[str, Any], sentence: str
) -> None:
    refused = login(carol).post(url(answered), FORM | sent)
    assert refused.status_code == 422
    assert sentence in refused.text
    assert 'name="budget"' in refused.text
    assert not Job.objects.filter(kind="back_test").exists()


def test_the_same_wish_twice_is_one_job_and_another_is_refused(answered: Project, login: Login, carol: User) -> None:
    client = login(carol)
    for _ in range(2):
        assert client.post(url(answered), FORM).status_code == 303
    job = Job.objects.get(kind="back_test")
    assert (job.parameters["target_precision"], job.parameters["confidence"]) == ([0.99, 0.8], 0.95)
    refused = client.post(url(answered), FORM | {"seeds": "3"})
    assert refused.status_code == 409
    assert f"Another back-test waits already, as job {job.pk}" in refused.text


# --- running ------------------------------------------------------------------------------------------------


def test_a_replay_is_run_shown_and_fetched(answered: Project, login: Login, carol: User, vera: User) -> None:
    login(carol).post(url(answered), FORM)
    assert "Waiting for" in login(vera).get(url(answered)).text
    asker = login(carol).get(url(answered)).text
    job = run_waiting(answered)
    assert (job.state, job.error, job.progress) == ("done", "", 1.0)
    assert "is asked for" not in asker and f"job {job.pk}" in asker
    assert (job.result["measured_on"], job.result["n_test"]) == ("checks", 11)  # of 24 checks, one of no class
    page = login(vera).get(url(answered)).text
    assert "none: measured on 11 images, 30 bear a verdict" in page
    assert 'class="tag">no better' not in page and 'class="tag good">better' not in page
    assert not re.search(r"<td class=\"number keeps\">[^<]*-\d", page)
    for shown in (
        "the head learnt from nothing but the random checks",
        "held back half of the answered ones, 11",
        "As it happened",
        "Random checks alone",
        "At random",
    ):
        assert shown in page
    assert page.count('<polyline class="curve look-') == 2 * 4  # once for wide pages, once for narrow ones
    assert "99\xa0% with 95\xa0% certainty" in page
    points = login(vera).get(f"{url(answered)}{job.pk}/?format=json")
    assert points["Content-Disposition"] == f'attachment; filename="pets-back-test-{job.pk}.json"'
    found = json.loads(points.content)
    assert {"source", "n_pool", "n_test", "classes", "runs", "summary"} <= set(found)
    assert {run["acquisition"] for run in found["runs"]} == {*FORM["acquisition"], "as_it_happened", "random_checks"}
    rows = list(csv.DictReader(io.StringIO(login(vera).get(f"{url(answered)}{job.pk}/?format=csv").text)))
    assert len(rows) == sum(len(run["curve"]) * len(run["gates"]) for run in found["runs"])
    assert {row["target_precision"] for row in rows} == {"0.99", "0.8"}
    assert login(vera).get(f"{url(answered)}{job.pk}/?format=xls").status_code == 422
    assert not backtesting.work_folder(job).exists()


def test_the_past_knows_what_people_said_and_nothing_else(answered: Project, bob: User, cat: LabelClass) -> None:
    item = Item.objects.filter(project=answered, split=Split.POOL, state=Item.State.OPEN).latest("id")
    imported = Annotation(uuid="00000000-0000-0000-0000-00000000ffff", project=answered, item=item, annotator=bob)
    imported.kind, imported.value, imported.source = "label", {"class": cat.pk}, Annotation.Source.IMPORTED
    imported.save()
    Item.objects.filter(pk=item.pk).update(state=Item.State.LABELLED)
    taken = snapshot.take(answered, f"{answered.pk}/embedding-1-1")
    scene = back_test_job.past(answered, taken)
    known = np.flatnonzero(scene.is_known)
    assert len(known) == 64
    assert (scene.targets[known] == -1).sum() == 2
    row = int(taken.embedded.rows(np.array([item.pk]))[0][0])
    assert not scene.is_pool[row]
    assert scene.targets[row] == -2
    assert scene.order is not None
    ids = taken.embedded.item_ids[scene.order]
    np.testing.assert_array_equal(ids, sorted(ids))  # they were answered in order of their ids, but for the pool's
    named = known[scene.targets[known] >= 0]
    np.testing.assert_array_equal(scene.targets[named], taken.embedded.item_ids[named] % 2)


def test_a_check_answered_out_of_turn_measures_nothing(answered: Project) -> None:
    check = Annotation.objects.filter(project=answered, reason_code="audit").latest("id")
    Annotation.objects.filter(pk=check.pk).update(reason_code="typical")
    scene = back_test_job.past(answered, snapshot.take(answered, f"{answered.pk}/embedding-1-1"))
    assert scene.is_audit.sum() == 23


def test_a_large_pool_is_thinned_around_the_answers(answered: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = snapshot.take(answered, f"{answered.pk}/embedding-1-1")
    whole = back_test_job.past(answered, taken)
    monkeypatch.setattr(back_test_job, "OTHERS_AT_MOST", 10)
    thin = back_test_job.past(answered, taken)
    assert len(thin.targets) == 64 + 10
    assert thin.order is not None and whole.order is not None
    np.testing.assert_array_equal(thin.targets[thin.order], whole.targets[whole.order])
    np.testing.assert_array_equal(thin.pool.embeddings[thin.order], whole.pool.embeddings[whole.order])


def test_cancelling_stops_it_and_leaves_nothing(
    answered: Project, login: Login, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(carol).post(url(answered), FORM)
    monkeypatch.setattr(jobs.Run, "REPORT_EVERY_S", 0.0)
    sat: list[str] = []
    runs = simulated_person.runs

    def cancelled_meanwhile(scene: Any, plan: Any, unit: Any, heard: Any) -> Any:
        sat.append(unit.key)
        if len(sat) == 3:
            job = Job.objects.get(kind="back_test")
            login(carol).post(f"/projects/{answered.pk}/jobs/{job.pk}/cancel/")
        return runs(scene, plan, unit, heard)

    monkeypatch.setattr(simulated_person, "runs", cancelled_meanwhile)
    job = run_waiting(answered)
    assert (job.state, len(sat)) == ("cancelled", 3)
    assert not backtesting.work_folder(job).exists()
    assert login(carol).get(f"{url(answered)}{job.pk}/").status_code == 404


def test_a_killed_run_goes_on_with_what_is_left_and_the_answers_it_began_with(
    answered: Project, login: Login, carol: User, bob: User, cat: LabelClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(carol).post(url(answered), FORM)
    sat: list[str] = []
    runs = simulated_person.runs

    def killed_in_the_fourth(scene: Any, plan: Any, unit: Any, heard: Any) -> Any:
        sat.append(unit.key)
        if len(sat) == 4:
            raise SystemExit  # as good as a kill: nobody writes how it ended
        return runs(scene, plan, unit, heard)

    monkeypatch.setattr(simulated_person, "runs", killed_in_the_fourth)
    with pytest.raises(SystemExit):
        run_waiting(answered)
    job = Job.objects.get(kind="back_test")
    assert job.state == "running"
    late = Item.objects.filter(project=answered, split=Split.POOL, state=Item.State.OPEN).first()
    assert late is not None
    _answer(late, bob, cat)
    Job.objects.filter(pk=job.pk).update(state="queued")
    job = run_waiting(answered)
    assert (job.state, job.error) == ("done", "")
    assert len(sat) == 3 + 1 + (8 - 3)  # four orders of two seeds: three were done, one was cut short
    assert sat[3] in sat[4:]
    assert len(set(sat)) == 8
    happened = [run for run in backtesting.points(job)["runs"] if run["acquisition"] == "as_it_happened"]
    assert len(happened) == 2


def test_only_so_many_results_are_kept(answered: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtesting, "KEPT", 2)
    old = Job.objects.create(project=answered, kind="back_test", state="done", result={"summary": {}})
    monkeypatch.setattr(backtesting.back_tests, "__defaults__", (2,))
    path = backtesting.result_path(old)
    path.write_text("{}")
    newer = [Job.objects.create(project=answered, kind="back_test", state="done") for _ in range(2)]
    backtesting.prune(answered, newer[-1])
    assert not path.exists()


def test_what_cannot_be_back_tested_any_more_ends_with_its_sentence(
    answered: Project, login: Login, carol: User
) -> None:
    login(carol).post(url(answered), FORM)
    Annotation.objects.filter(project=answered, item__split=Split.AUDIT).delete()
    job = run_waiting(answered)
    assert job.state == "failed"
    assert job.error == "it takes 20 more answered random checks (there are 0); go on labelling"
    assert "The last back-test failed: it takes 20 more" in login(carol).get(url(answered)).text


# --- by program ---------------------------------------------------------------------------------------------


def test_it_is_asked_for_and_read_by_program(answered: Project, client: Client, carol: User, vera: User) -> None:
    def call(who: User, body: dict[str, Any] | None = None, more: str = "") -> Any:
        headers = {"Authorization": f"Bearer {tokens.make_token(user=who, name='t')[1]}"}
        address = f"/api/v1/projects/{answered.pk}/back-tests/{more}"
        if body is None:
            return client.get(address, headers=headers)
        return client.post(address, json.dumps(body), content_type="application/json", headers=headers)

    asked = call(carol, {"budget": 20, "seeds": 2})
    assert (asked.status_code, asked.json()["result"]) == (202, None)
    assert asked.json()["parameters"]["acquisition"] == ["margin", "random_sampling"]
    assert call(carol, {"seeds": 3}).json()["error"]["code"] == "conflict"
    assert "budget" in call(carol, {"budget": 5}).json()["error"]["fields"]
    assert call(carol, {"acquisition": "margin"}).status_code == 422
    assert call(vera, {}).status_code == 403
    assert call(vera, more=f"{asked.json()['id']}/").status_code == 409
    job = run_waiting(answered)
    (listed,) = call(vera).json()["results"]
    assert listed["result"]["summary"]["seeds"] == 2
    assert len(call(vera, more=f"{job.pk}/").json()["runs"]) == 8


# --- by command ---------------------------------------------------------------------------------------------


def simulate(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("simulate", *arguments, stdout=out, stderr=io.StringIO(), **{"processes": 1} | options)
    return out.getvalue()


def test_the_command_replays_a_project_too(answered: Project, tmp_path: Path) -> None:
    said = simulate(project="Pets", acquisition="margin", budget=20, seeds=2, json=tmp_path / "out.json")
    assert said.startswith("Pets: pool 132, held out random checks 11, 2 classes")
    assert "as_it_happened" in said
    assert "the images that people were asked about are harder" in said
    assert not re.search(r"^margin .*baseline", said, re.MULTILINE)  # nothing is held against it
    assert re.search(r"^random_checks .*baseline", said, re.MULTILINE)
    assert "measured on 11 images, 30 bear a verdict" in said
    assert {"source", "n_pool", "n_test", "classes", "runs"} <= set(json.loads((tmp_path / "out.json").read_text()))


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ([], {"project": "Nothing"}, "there is no project 'Nothing'"),
        ([], {"project": "Pets", "trainer": "fixmatch"}, "--trainer has no meaning with --project"),
        ([], {"project": "Pets", "test_fraction": 0.5}, "--test-fraction has no meaning with --project"),
        ([], {"project": "Pets", "processes": 0}, "wanted 1 or more"),
        ([], {"project": "Pets"}, "the images are not embedded yet"),
        (["digits"], {"project": "Pets"}, "found both"),
        ([], {}, "wants a source"),
    ],
)
def test_the_command_says_what_it_cannot_replay(
    project: Project, items: list[Item], arguments: list[str], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        simulate(*arguments, **options)
