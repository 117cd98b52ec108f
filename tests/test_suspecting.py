"""Labels that may be wrong: found by the study, settled by blind answers, shown to those who do not label them."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator.actions import projects, suspecting
from annotator.actions.suspecting import Doubted
from annotator.errors import Conflict, NotFound
from annotator.models import Annotation, AuditEvent, Item, Job, LabelClass, Project, QueueEntry, Split, Suspect
from ml_worker import snapshot
from ml_worker import suspecting as worker
from ml_worker.quality.early import Early
from tests.cast import bare_items
from tests.pools import pool_of

POOL, CHECKS = 60, 20


@dataclass
class Clouds:
    """A project whose images lie in two clouds: those of even number are cats, the others dogs. Alice labelled the
    pool, cats 4 and 10 as dogs; the checks are labelled rightly."""

    project: Project
    cat: LabelClass
    dog: LabelClass
    alice: User
    items: list[Item]
    folder: Path

    def truth(self, item: Item) -> LabelClass:
        return self.dog if int(item.source_name) % 2 else self.cat

    def label(self, item: Item, label_class: LabelClass | None, who: User | None = None, **more: Any) -> Annotation:
        """The next answer of this person, as a re-check gives it; without a class: none of these."""
        who = who or self.alice
        before = Annotation.objects.filter(item=item, annotator=who, superseded_by__isnull=True).first()
        given = Annotation.objects.create(
            uuid=uuid.uuid4(),
            project=self.project,
            item=item,
            annotator=who,
            kind="label" if label_class else "none_of_these",
            value={"class": label_class.pk} if label_class else None,
            supersedes=before,
            **more,
        )
        Item.objects.filter(pk=item.pk).update(state="labelled" if label_class else "none_of_these")
        return given

    def settle(self, suspect: Suspect, label_class: LabelClass | None) -> Annotation:
        """What the queue does with a blind answer to a suspect's image."""
        old = suspect.annotation.value
        given = self.label(suspect.item, label_class)
        suspect.state = "confirmed" if given.value == old else "repaired"
        suspect.settled_by, suspect.settled_at = given, timezone.now()
        suspect.save()
        return given

    def taken(self) -> snapshot.Snapshot:
        return snapshot.take(self.project, self.folder.name)

    def study(self) -> dict[str, Any]:
        """As the job does, and kept where the next study looks."""
        result = worker.study(self.project, self.taken())
        job = Job.objects.create(project=self.project, kind="study", state="done", result={"suspects": result})
        assert job.result["suspects"] == result
        return result

    def suspects(self, state: str = "open") -> list[Suspect]:
        return list(Suspect.objects.filter(project=self.project, state=state).select_related("item", "annotation"))

    def numbers(self, state: str = "open") -> list[int]:
        return sorted(int(each.item.source_name) for each in self.suspects(state))


@pytest.fixture
def clouds(project: Project, cat: LabelClass, dog: LabelClass, alice: User, settings: Any) -> Clouds:
    items = bare_items(project, [Split.POOL] * POOL + [Split.AUDIT] * CHECKS)
    rng = np.random.default_rng(0)
    side = np.arange(POOL + CHECKS) % 2 * 6.0
    points = np.stack([side, np.zeros(len(side))], axis=1) + rng.normal(size=(len(side), 2))
    folder = Path(settings.ARTIFACT_ROOT) / f"{project.pk}-embedding"
    pool_of(points).save(folder)
    np.save(folder / "item_ids.npy", np.array([item.pk for item in items], np.int64))
    np.save(folder / "splits.npy", (np.arange(POOL + CHECKS) >= POOL).astype(np.uint8))
    clouds = Clouds(project, cat, dog, alice, items, folder)
    for item in items:
        clouds.label(item, dog if item.source_name in ("4", "10") else clouds.truth(item))
    return clouds


# --- the study ----------------------------------------------------------------------------------------------------


def test_the_study_finds_the_wrong_labels_and_says_what_they_may_be(clouds: Clouds) -> None:
    result = clouds.study()
    assert clouds.numbers() == [4, 10]
    for suspect in clouds.suspects():
        assert (suspect.doubt, suspect.label_class) == ("mislabelled", clouds.cat)
        assert suspect.annotation.value == {"class": clouds.dog.pk}
        assert 0.5 < suspect.score <= 1
    assert (result["labels"], result["suspected"], result["foreign"]) == (POOL, 2, 0)
    assert result["noise"]["low"] <= 2 / POOL <= result["noise"]["high"]
    evidence = result["evidence"][str(clouds.items[4].pk)]
    assert [class_id for _, class_id in evidence["near"]] == [clouds.cat.pk] * worker.NEAR
    assert evidence["support"][1] > 0.8 > 0.2 > evidence["support"][0]


def test_random_checks_are_never_suspected(clouds: Clouds) -> None:
    check = clouds.items[POOL + 2]
    clouds.label(check, clouds.dog)
    clouds.study()
    assert clouds.numbers() == [4, 10]


def test_imported_labels_are_suspected_too(clouds: Clouds) -> None:
    Annotation.objects.filter(item__in=clouds.items[:POOL]).update(source="imported")
    clouds.study()
    assert clouds.numbers() == [4, 10]


def test_what_two_people_said_is_not_suspected(clouds: Clouds, bob: User) -> None:
    clouds.label(clouds.items[4], clouds.dog, bob)
    clouds.study()
    assert clouds.numbers() == [10]


def test_studying_twice_changes_nothing(clouds: Clouds) -> None:
    clouds.study()
    before = [each.pk for each in clouds.suspects()]
    clouds.study()
    assert [each.pk for each in clouds.suspects()] == before


def test_one_whose_answer_was_replaced_is_dropped(clouds: Clouds) -> None:
    clouds.study()
    clouds.label(clouds.items[4], clouds.cat)
    clouds.study()
    assert (clouds.numbers(), clouds.numbers("dropped")) == ([10], [4])


def test_a_confirmed_label_is_never_suspected_again(clouds: Clouds) -> None:
    clouds.study()
    (first, _) = clouds.suspects()
    number = int(first.item.source_name)
    clouds.settle(first, clouds.dog)
    clouds.study()
    assert clouds.numbers("confirmed") == [number]
    assert number not in clouds.numbers()


def test_what_a_repair_ended_with_is_never_suspected(clouds: Clouds) -> None:
    """Item 6, a cat, was doubted wrongly and repaired into a dog: odd, but somebody looked twice."""
    given = clouds.label(clouds.items[6], clouds.cat)
    suspect = Suspect.objects.create(
        project=clouds.project, item=clouds.items[6], annotation=given, doubt="mislabelled", score=0.9
    )
    clouds.settle(suspect, clouds.dog)
    clouds.study()
    assert clouds.numbers() == [4, 10]
    assert clouds.numbers("repaired") == [6]


def test_answers_none_of_these_name_the_foreign_ones(clouds: Clouds, settings: Any) -> None:
    """Ten images far off, of which somebody called five none of these and one a cat."""
    points = np.array(np.load(clouds.folder / "embeddings.npy"))
    far = list(range(40, 50))
    points[far] = [3.0, 12.0] + np.random.default_rng(1).normal(size=(10, 2)) * 0.5
    pool_of(points).save(clouds.folder)
    snapshot.load_embedded.cache_clear()
    for number in far:
        clouds.label(clouds.items[number], clouds.cat if number == 41 else None)
    clouds.study()
    assert clouds.numbers() == [4, 10, 41]
    (foreign,) = [each for each in clouds.suspects() if each.item.source_name == "41"]
    assert (foreign.doubt, foreign.label_class) == ("foreign", None)


def test_what_a_network_believed_early_moves_the_order(clouds: Clouds) -> None:
    clouds.study()
    ids = {number: clouds.items[number].pk for number in (4, 10)}
    versions = {each.item_id: each.annotation_id for each in clouds.suspects()}
    for last in (4, 10):
        doubt = {number: 0.0 if number == last else 1.0 for number in ids}
        Early(
            np.array(list(ids.values())),
            np.array([versions[pk] for pk in ids.values()]),
            np.array(list(doubt.values()), np.float32),
        ).save(snapshot.embedding_folder("early.npz"))
        Job.objects.create(project=clouds.project, kind="train", state="done", result={"early": "early.npz"})
        clouds.study()
        assert [int(each.item.source_name) for each in clouds.suspects()][-1] == last


def test_a_belief_about_an_answer_that_changed_says_nothing(tmp_path: Path) -> None:
    kept = Early(np.array([7, 8]), np.array([70, 80]), np.array([0.5, 1.0], np.float32))
    kept.save(tmp_path / "early.npz")
    told = Early.load(tmp_path / "early.npz").of(np.array([7, 8, 9]), np.array([70, 81, 90]))
    assert told[0] == 0.5
    assert np.isnan(told[1:]).all()


# --- what repairs were worth --------------------------------------------------------------------------------------


def test_the_effect_compares_the_labels_of_now_with_those_before_the_repairs(clouds: Clouds) -> None:
    # Label spreading would see through nearly all of it: two right cats in a cloud outweigh the rest.
    projects.save_settings(project=clouds.project, actor=clouds.alice, raw={"head": "logistic_regression"})
    assert clouds.study()["effect"] is None
    for number in range(2, 58, 2):  # nearly every cat was called a dog
        given = clouds.label(clouds.items[number], clouds.dog)
        suspect = Suspect.objects.filter(item=clouds.items[number]).first() or Suspect(
            project=clouds.project, item=clouds.items[number], doubt="mislabelled", score=0.9
        )
        suspect.annotation = given
        suspect.save()
        clouds.settle(suspect, clouds.cat)
    effect = clouds.study()["effect"]
    assert (effect["repaired"], effect["n"]) == (28, CHECKS)
    assert effect["after"] == 1.0
    assert effect["before"] < effect["after"]
    assert effect["low"] < effect["difference"] < effect["high"]


def test_without_enough_random_checks_there_is_no_effect_to_tell(clouds: Clouds) -> None:
    clouds.study()
    for suspect in clouds.suspects():
        clouds.settle(suspect, clouds.cat)
    Annotation.objects.filter(item__in=clouds.items[POOL + 5 :]).delete()
    assert clouds.study()["effect"] is None


# --- when to stop -------------------------------------------------------------------------------------------------


def settle_some(clouds: Clouds, confirmed: int, repaired: int = 0) -> None:
    """Labels long looked at, on images that stay out of it."""
    for place in range(confirmed + repaired):
        item = clouds.items[11 + place]
        given = Annotation.objects.get(item=item, superseded_by__isnull=True)
        Suspect.objects.create(
            project=clouds.project,
            item=item,
            annotation=given,
            doubt="mislabelled",
            score=0.9,
            state="confirmed" if place < confirmed else "repaired",
            settled_at=timezone.now(),
            settled_by=given,
        )


@pytest.mark.parametrize(
    ("confirmed", "repaired", "stops"), [(21, 0, False), (22, 0, True), (32, 1, False), (19, 9, False)]
)
def test_it_stops_when_hardly_one_in_seven_can_be_wrong(
    clouds: Clouds, confirmed: int, repaired: int, stops: bool
) -> None:
    """Wilson's upper bound of none in 21 is 0.155, of none in 22 it is 0.149, of one in 33 it is 0.153."""
    settle_some(clouds, confirmed, repaired)
    result = clouds.study()
    assert (result["stopped_at"] == POOL) is stops
    assert clouds.numbers() == ([] if stops else [4, 10])


def test_having_stopped_it_drops_what_waits_and_stays_stopped(clouds: Clouds) -> None:
    clouds.study()
    settle_some(clouds, 25)
    clouds.study()
    assert (clouds.numbers(), clouds.numbers("dropped")) == ([], [4, 10])
    assert clouds.study()["stopped_at"] == POOL


def test_what_a_reviewer_decided_is_not_suspected(clouds: Clouds, carol: User) -> None:
    clouds.label(clouds.items[4], clouds.dog, carol, reason_code=Annotation.DECISION)
    clouds.study()
    assert clouds.numbers() == [10]
    # Nor where the one who decides is the one who had labelled it: a single voice.
    clouds.label(clouds.items[10], clouds.dog, reason_code=Annotation.DECISION)
    clouds.study()
    assert clouds.numbers() == []


def test_with_twice_the_labels_it_begins_anew(clouds: Clouds) -> None:
    settle_some(clouds, 25)
    clouds.study()
    Job.objects.filter(kind="study").update(result={"suspects": {"stopped_at": POOL // 2, "since": None}})
    result = clouds.study()
    assert result["stopped_at"] is None
    assert result["since"] is not None
    assert clouds.numbers() == [4, 10]
    # What was settled before counts no more.
    assert clouds.study()["stopped_at"] is None


def test_the_newest_forty_decide(clouds: Clouds) -> None:
    settle_some(clouds, 40)
    Suspect.objects.update(settled_at=timezone.now())
    early = list(Suspect.objects.values_list("pk", flat=True)[:10])
    Suspect.objects.filter(pk__in=early).update(
        state="repaired", settled_at=timezone.now() - timezone.timedelta(days=2)
    )
    yesterday = (timezone.now() - timezone.timedelta(days=1)).isoformat()
    hits = suspecting.newest_hits(clouds.project, None)
    assert (hits.settled, hits.repaired) == (40, 10)
    assert suspecting.newest_hits(clouds.project, yesterday).repaired == 0


# --- the table ----------------------------------------------------------------------------------------------------


def doubted(clouds: Clouds, number: int, score: float = 0.9, of: LabelClass | None = None) -> Doubted:
    given = Annotation.objects.get(item=clouds.items[number], superseded_by__isnull=True)
    return Doubted(given.pk, of.pk if of else None, score)


def store(clouds: Clouds, *found: Doubted) -> int:
    return suspecting.store_suspects(project=clouds.project, doubted=found)


def test_the_worst_are_opened_and_no_more_than_so_many(clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspecting, "OPEN_AT_MOST", 3)
    assert store(clouds, *(doubted(clouds, number, number / 10) for number in range(9))) == 3
    assert clouds.numbers() == [6, 7, 8]


def test_a_settled_one_takes_no_place_from_the_others(clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspecting, "OPEN_AT_MOST", 1)
    worst, next_one = doubted(clouds, 1, 0.9), doubted(clouds, 2, 0.8)
    store(clouds, worst)
    clouds.settle(clouds.suspects()[0], clouds.dog)
    assert store(clouds, worst, next_one) == 1
    assert clouds.numbers() == [2]


def test_what_is_suspected_again_opens_again(clouds: Clouds) -> None:
    store(clouds, doubted(clouds, 1))
    store(clouds)
    assert clouds.numbers("dropped") == [1]
    store(clouds, doubted(clouds, 1, 0.7, clouds.cat))
    (suspect,) = clouds.suspects()
    assert (suspect.score, suspect.label_class, suspect.doubt) == (0.7, clouds.cat, "mislabelled")
    assert Suspect.objects.count() == 1


@pytest.mark.parametrize("label_class", ["cat", "dog"])
def test_a_settled_one_is_not_touched_by_a_study_that_did_not_know(clouds: Clouds, label_class: str) -> None:
    found = doubted(clouds, 1)
    store(clouds, found)
    clouds.settle(clouds.suspects()[0], getattr(clouds, label_class))
    settled = Suspect.objects.get()
    assert store(clouds, found) == 0
    assert Suspect.objects.get().state == settled.state != "open"
    assert store(clouds) == 0
    assert Suspect.objects.get().state == settled.state


def test_an_answer_that_was_replaced_meanwhile_is_not_suspected(clouds: Clouds) -> None:
    found = doubted(clouds, 1)
    clouds.label(clouds.items[1], clouds.dog)
    assert store(clouds, found) == 0
    assert not Suspect.objects.exists()


def test_an_annotation_of_another_project_is_not_suspected(clouds: Clouds, charlie: User) -> None:
    elsewhere = Project.objects.create(name="Elsewhere")
    assert suspecting.store_suspects(project=elsewhere, doubted=[doubted(clouds, 1)]) == 0


def test_a_dropped_one_leaves_the_queue_unless_somebody_holds_it(clouds: Clouds, bob: User) -> None:
    store(clouds, doubted(clouds, 1), doubted(clouds, 3))
    for number, holder in ((1, None), (3, bob)):
        QueueEntry.objects.create(
            project=clouds.project,
            item=clouds.items[number],
            rank=number,
            reason_code="suspect",
            leased_by=holder,
            leased_until=timezone.now() + timezone.timedelta(minutes=5) if holder else None,
        )
    store(clouds)
    assert [entry.item for entry in QueueEntry.objects.all()] == [clouds.items[3]]


@pytest.mark.django_db(transaction=True)
def test_an_image_that_is_being_answered_is_left_alone(clouds: Clouds) -> None:
    """Somebody holds the row of item 1; the study neither waits for it nor suspects it."""
    found = [doubted(clouds, 1), doubted(clouds, 3)]

    def study() -> int:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = '20s'")  # waiting would be an error, not a hang
            return store(clouds, *found)
        finally:
            connection.close()

    with transaction.atomic(), ThreadPoolExecutor(1) as other:
        Item.objects.select_for_update().get(pk=clouds.items[1].pk)
        assert other.submit(study).result() == 1
    assert clouds.numbers() == [3]


@pytest.mark.django_db(transaction=True)
def test_two_studies_at_once_open_each_label_once(clouds: Clouds) -> None:
    found = [doubted(clouds, number) for number in range(20)]

    def study(_: int) -> int:
        try:
            return store(clouds, *found)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(study, range(2))) == [20, 20]
    assert clouds.numbers() == list(range(20))


# --- the pages ----------------------------------------------------------------------------------------------------

Login = Callable[[User], Client]


def address(clouds: Clouds, name: str = "suspects") -> str:
    return reverse(name, args=[clouds.project.pk])


def test_the_list_shows_what_was_given_and_what_speaks_against_it(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    page = login(carol).get(address(clouds)).content.decode()
    assert page.count('class="panel suspect"') == 2
    assert 'Labelled <strong class="class-name">dog</strong>' in page
    assert "by alice" in page
    assert "Perhaps cat" in page
    assert page.count(f'title="{clouds.cat.name}"') == 2 * worker.NEAR


def test_the_list_is_filtered_by_state(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    first, second = clouds.suspects()
    clouds.settle(first, clouds.cat)
    clouds.settle(second, None)
    client = login(carol)
    assert "None." in client.get(address(clouds)).content.decode()
    page = client.get(address(clouds), {"state": "repaired"}).content.decode()
    assert "Second look: cat" in page
    assert "Second look: none of these" in page
    assert "The label is right" not in page
    assert client.get(address(clouds), {"state": "nonsense"}).status_code == 422


@pytest.mark.parametrize(
    ("who", "status"), [("alice", 200), ("carol", 200), ("bob", 403), ("vera", 403), ("charlie", 404)]
)
@pytest.mark.parametrize("name", ["suspects", "suspects-download", "api-suspects"])
def test_who_may_know_which_labels_are_doubted(
    clouds: Clouds, login: Login, name: str, who: str, status: int, request: pytest.FixtureRequest
) -> None:
    clouds.study()
    client = login(request.getfixturevalue(who))
    answer = client.get(address(clouds, name))
    assert answer.status_code == status
    assert (b"mislabelled" in answer.content or b"panel suspect" in answer.content) == (status == 200)
    if name == "suspects":
        assert client.post(address(clouds, name), {"suspect": clouds.suspects()[0].pk}).status_code == {200: 303}.get(
            status, status
        )
    assert client.put(address(clouds, name)).status_code == 405


def test_a_reviewer_says_that_a_label_is_right(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    first, second = clouds.suspects()
    answer = login(carol).post(address(clouds), {"suspect": first.pk}, follow=True)
    assert "the label stays" in answer.content.decode()
    first.refresh_from_db()
    assert first.state == "dropped"
    assert first.settled_at is not None
    event = AuditEvent.objects.get(project=clouds.project, verb=suspecting.KEPT)
    assert (event.actor, event.detail["item"]) == (carol, first.item_id)
    # The answer of a person who was told is neither a hit nor a miss, and ends it for good.
    assert suspecting.standing(clouds.project).hits.settled == 0
    clouds.study()
    assert [each.pk for each in clouds.suspects()] == [second.pk]


def test_a_keep_through_htmx_answers_with_the_list(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    first, _ = clouds.suspects()
    answer = login(carol).post(address(clouds), {"suspect": first.pk}, headers={"HX-Request": "true"})
    page = answer.content.decode()
    assert "<html" not in page
    assert page.count('class="panel suspect"') == 1


@pytest.mark.parametrize("raw", ["", "x", "٣", "9" * 30, "-1"])
def test_a_keep_that_names_nothing_is_refused(clouds: Clouds, login: Login, carol: User, raw: str) -> None:
    clouds.study()
    answer = login(carol).post(address(clouds), {"suspect": raw})
    assert answer.status_code == 422
    assert "is not a suspected label" in answer.content.decode()
    assert len(clouds.suspects()) == 2


def test_a_keep_that_comes_too_late_is_a_conflict(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    first, _ = clouds.suspects()
    clouds.settle(first, clouds.cat)
    answer = login(carol).post(address(clouds), {"suspect": first.pk})
    assert answer.status_code == 409
    assert "waits no more" in answer.content.decode()
    first.refresh_from_db()
    assert first.state == "repaired"
    with pytest.raises(Conflict):
        suspecting.keep_label(project=clouds.project, actor=carol, suspect_id=first.pk)


def test_a_suspect_of_another_project_is_not_found(clouds: Clouds, carol: User) -> None:
    clouds.study()
    elsewhere = Project.objects.create(name="Elsewhere")
    with pytest.raises(NotFound):
        suspecting.keep_label(project=elsewhere, actor=carol, suspect_id=clouds.suspects()[0].pk)
    assert len(clouds.suspects()) == 2


def test_the_file_holds_every_suspect_and_runs_nothing(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    Item.objects.filter(pk=clouds.items[4].pk).update(source_name="=cmd()")
    clouds.settle(next(each for each in clouds.suspects() if each.item_id == clouds.items[4].pk), clouds.cat)
    lines = login(carol).get(address(clouds, "suspects-download")).content.decode().splitlines()
    assert lines[0] == ",".join(suspecting.COLUMNS)
    (settled,) = [line for line in lines if "cmd" in line]
    assert settled.startswith(f"'=cmd(),{clouds.items[4].pk},dog,mislabelled,cat,")
    assert ",repaired,cat," in settled
    assert len(lines) == 3


def test_programs_read_the_suspects(clouds: Clouds, login: Login, carol: User) -> None:
    clouds.study()
    client = login(carol)
    found = client.get(address(clouds, "api-suspects")).json()["results"]
    assert {each["item_name"] for each in found} == {"4", "10"}
    assert {(each["value"]["class"], each["instead"], each["doubt"]) for each in found} == {
        (clouds.dog.pk, clouds.cat.pk, "mislabelled")
    }
    assert client.get(address(clouds, "api-suspects"), {"state": "repaired"}).json()["results"] == []
    assert client.get(address(clouds, "api-suspects"), {"state": "nonsense"}).status_code == 422


# --- the panel ----------------------------------------------------------------------------------------------------


def panel(clouds: Clouds, client: Client) -> str:
    page = client.get(reverse("dashboard", args=[clouds.project.pk]) + "?about=accuracy").content.decode()
    return " ".join(page.partition('id="suspects-panel"')[2].partition("</section>")[0].split())


def test_the_dashboard_says_where_suspecting_stands(clouds: Clouds, login: Login, carol: User) -> None:
    client = login(carol)
    assert "Not looked for yet" in panel(clouds, client)
    clouds.study()
    said = panel(clouds, client)
    assert "<strong>2</strong> labels wait for a second look: 2 perhaps of another class." in said
    assert "The model firmly disagrees with 3 % of the labels. Where" in said
    assert "says nothing of all labels" not in said
    assert "See them" in said


def test_who_labels_is_told_how_many_and_not_which(clouds: Clouds, login: Login, bob: User) -> None:
    clouds.study()
    said = panel(clouds, login(bob))
    assert "<strong>2</strong> labels wait" in said
    assert address(clouds) not in said


def test_the_panel_counts_hits_and_what_they_say_of_all_labels(clouds: Clouds, login: Login, carol: User) -> None:
    settle_some(clouds, 12, 8)
    clouds.study()
    said = panel(clouds, login(carol))
    # Wilson of 8 in 20.
    assert "<strong>8 of 20</strong> that were looked at again were wrong: 40 %" in said
    assert "(95 % interval 22 %–61 %)" in said
    # What is found among the suspected is no rate of all labels.
    assert "That says nothing of all labels" in said
    assert "of all labels (" not in said and "firmly disagrees" not in said


def test_the_panel_says_why_nothing_is_suspected_any_more(clouds: Clouds, login: Login, carol: User) -> None:
    settle_some(clouds, 25)
    clouds.study()
    said = panel(clouds, login(carol))
    assert "Of the last 25 that were looked at again <strong>0</strong> were wrong" in said
    assert f"until there are {2 * POOL} labels" in said


def test_the_panel_shows_what_repairs_were_worth(clouds: Clouds, login: Login, carol: User) -> None:
    effect = {"repaired": 38, "n": 200, "before": 0.91, "after": 0.93, "difference": 0.02, "low": -0.001, "high": 0.04}
    Job.objects.create(
        project=clouds.project, kind="study", state="done", result={"suspects": {"labels": 60, "effect": effect}}
    )
    said = panel(clouds, login(carol))
    assert "38 labels repaired: accuracy on the random checks <strong>91 % → 93 %</strong>" in said
    assert "(+2.0 points, 95 % interval −0.1 to +4.0, 200 checks)" in said
