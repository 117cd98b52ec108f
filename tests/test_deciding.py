"""A reviewer decides what an image is: a dispute that nobody is left to settle, a suspected label."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator import queries
from annotator.actions import deciding, exporting, labeling, queueing, round_checks, shares, suspecting
from annotator.actions.suspecting import Doubted
from annotator.errors import Conflict, InvalidAnnotation, LeaseLost, NotFound
from annotator.models import (
    Annotation,
    AuditEvent,
    Certificate,
    Item,
    LabelClass,
    Look,
    Membership,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Role,
    Split,
    Suspect,
)
from ml_worker import certifying, forecasting
from tests.cast import make_item

Answer = Callable[..., Annotation]
Login = Callable[[User], Client]


@pytest.fixture
def dave(project: Project) -> User:
    """A third person who labels."""
    user = User.objects.create_user("dave", "dave@example.org", "correct horse battery")
    Membership.objects.create(project=project, user=user, role=Role.ANNOTATOR)
    return user


def ask(item: Item, who: User, reason: str = "second_opinion", **data: Any) -> None:
    """The queue asks this person about it."""
    QueueEntry.objects.update_or_create(
        item=item,
        defaults={
            "project": item.project,
            "rank": 0,
            "reason_code": reason,
            "reason_data": data,
            "leased_by": who,
            "leased_until": queueing.lease_end(),
        },
    )


@pytest.fixture
def disputed(project: Project, bob: User, dave: User, cat: LabelClass, dog: LabelClass, answer: Answer) -> Item:
    """Bob says cat, Dave dog."""
    item = make_item(project)
    answer(bob, item, cat)
    ask(item, dave)
    answer(dave, item, dog)
    return item


@pytest.fixture
def suspect(project: Project, bob: User, cat: LabelClass, dog: LabelClass, answer: Answer) -> Suspect:
    """Bob says dog, the model cat."""
    given = answer(bob, make_item(project, 1), dog)
    suspecting.store_suspects(project=project, doubted=[Doubted(given.pk, cat.pk, 0.9)])
    return Suspect.objects.get()


def decide(who: User, item: Item, label_class: LabelClass | None, **more: Any) -> Annotation:
    more.setdefault("uuid", uuid.uuid4())
    raw = {"class": label_class.pk} if label_class else None
    return deciding.decide(project=item.project, item_id=item.pk, actor=who, raw_value=raw, **more)


def undo(who: User, project: Project) -> Annotation | None:
    return labeling.undo_last(project=project, annotator=who, uuid=uuid.uuid4())


def exported(item: Item) -> tuple[Any, ...]:
    row = next(row.as_json() for each, row in exporting._rows(item.project) if each.pk == item.pk)
    return row["label"], row["origin"], row["annotators"]


# --- disputes -----------------------------------------------------------------------------------------------------


def test_a_decision_settles_what_two_people_disagree_about(
    project: Project, disputed: Item, bob: User, carol: User, dave: User, cat: LabelClass, dog: LabelClass
) -> None:
    assert exported(disputed) == ("", "disputed", [])
    assert {count for _, count in queries.class_balance(project)} == {0}
    decision = decide(carol, disputed, dog)
    disputed.refresh_from_db()
    assert disputed.state == "labelled"
    assert (decision.reason_code, decision.reason_data) == ("decision", {"was": "disputed"})
    # A dog for Dave and Carol, but no consensus: she knew what he had said.
    assert exported(disputed) == ("dog", "human", ["dave", "carol"])
    assert dict(queries.class_balance(project)) == {cat: 0, dog: 1}
    assert not QueueEntry.objects.filter(item=disputed).exists()
    event = AuditEvent.objects.get(verb=deciding.DECIDED)
    assert (event.actor, event.detail["item"], event.detail["was"]) == (carol, disputed.pk, "disputed")


def test_one_decision_outweighs_three_who_differ_and_a_later_one_outweighs_it(
    project: Project, disputed: Item, alice: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    ask(disputed, carol)
    answer(carol, disputed, kind="none_of_these")
    # One for each of cat, dog and none of these. Carol, who said none, comes round to cat.
    decide(carol, disputed, cat)
    assert exported(disputed) == ("cat", "human", ["bob", "carol"])
    with pytest.raises(Conflict, match="decided this image meanwhile"):
        decide(alice, disputed, dog)
    decide(alice, disputed, None, again=True)
    disputed.refresh_from_db()
    assert disputed.state == "none_of_these"
    assert exported(disputed)[1:] == ("none_of_these", ["alice"])
    assert undo(alice, project) is not None
    assert exported(disputed) == ("cat", "human", ["bob", "carol"])


def test_a_decision_outweighs_a_majority_by_hand(bob: User, carol: User) -> None:
    def said(pk: int, value: int, reason: str = "") -> Annotation:
        each = Annotation(pk=pk, kind="label", value={"class": value}, source="person", reason_code=reason)
        each.created_at = queueing.lease_end()
        return each

    two, one = [said(1, 3), said(2, 3)], said(3, 8, "decision")
    assert queries.counted_answers([*two, one]) == [one]
    assert queries.counted_answers([one, *two, said(9, 3, "suspect")]) == [one]
    later = said(4, 5, "decision")
    assert queries.counted_answers([later, *two, one]) == [later]


def test_undo_takes_a_decision_back_and_the_dispute_is_open_again(
    project: Project, disputed: Item, carol: User, dog: LabelClass
) -> None:
    decision = decide(carol, disputed, dog)
    undone = undo(carol, project)
    assert undone is not None
    assert undone.pk == decision.pk
    assert exported(disputed) == ("", "disputed", [])
    entry = QueueEntry.objects.get(item=disputed)
    assert (entry.reason_code, entry.reason_data, entry.leased_by) == ("second_opinion", {"people": 2}, None)
    assert list(deciding.disputed_items(project)) == [disputed]
    decide(carol, disputed, dog)
    assert exported(disputed)[0] == "dog"


def test_what_a_person_said_before_deciding_comes_back_with_the_undo(
    project: Project, disputed: Item, dave: User, cat: LabelClass
) -> None:
    project.memberships.filter(user=dave).update(role="reviewer")
    decide(dave, disputed, cat)
    assert exported(disputed) == ("cat", "human", ["bob", "dave"])
    undo(dave, project)
    assert exported(disputed)[1] == "disputed"
    back = queries.current_annotation(disputed, dave)
    assert back is not None
    assert back.reason_code == "second_opinion"


def test_an_image_with_nothing_left_but_an_undone_decision_is_asked_about_again(
    project: Project, disputed: Item, bob: User, carol: User, dave: User, dog: LabelClass
) -> None:
    decide(carol, disputed, dog)
    for who in (bob, dave):
        undo(who, project)
        QueueEntry.objects.filter(item=disputed).delete()
    undo(carol, project)
    entry = QueueEntry.objects.get(item=disputed)
    assert (entry.reason_code, entry.leased_by) == ("returned", carol)
    assert queries.reason_text(entry, {}) == "You took your answer back"


def test_a_decision_sent_twice_is_one(disputed: Item, alice: User, carol: User, cat: LabelClass) -> None:
    one = uuid.uuid4()
    first = decide(carol, disputed, cat, uuid=one)
    assert decide(carol, disputed, cat, uuid=one).pk == first.pk
    assert AuditEvent.objects.filter(verb=deciding.DECIDED).count() == 1
    with pytest.raises(Conflict, match="already used"):
        decide(alice, disputed, cat, uuid=one)
    bobs = Annotation.objects.filter(item=disputed).earliest("id")
    with pytest.raises(Conflict, match="already used"):
        decide(bobs.annotator, disputed, cat, uuid=bobs.uuid)


def test_a_decision_sent_again_that_says_something_else_is_refused(
    disputed: Item, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    """Back in the browser and another class chosen: nobody is told "decided" of what was not kept."""
    one, other = uuid.uuid4(), uuid.uuid4()
    first = decide(carol, disputed, cat, uuid=one)
    for named in (dog, None):
        with pytest.raises(Conflict, match="already used"):
            decide(carol, disputed, named, uuid=one, again=True)
    none = decide(carol, disputed, None, uuid=other, again=True)
    with pytest.raises(Conflict, match="already used"):
        decide(carol, disputed, cat, uuid=other, again=True)
    assert decide(carol, disputed, None, uuid=other, again=True).pk == none.pk
    cat.is_archived = True
    cat.save()
    assert decide(carol, disputed, cat, uuid=one).pk == first.pk


def test_what_waits_for_no_decision_is_left_alone(
    project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass, disputed: Item, answer: Answer
) -> None:
    agreed = make_item(project, 7)
    with pytest.raises(Conflict, match="waits for no decision"):
        decide(carol, agreed, cat)
    answer(bob, agreed, cat)
    with pytest.raises(Conflict, match="waits for no decision"):
        decide(carol, agreed, dog, again=True)
    dog.is_archived = True
    dog.save()
    with pytest.raises(InvalidAnnotation, match="open classes"):
        decide(carol, disputed, dog)
    Item.objects.filter(pk=disputed.pk).update(split=Split.TEST)
    with pytest.raises(Conflict, match="test set"):
        decide(carol, disputed, cat)
    with pytest.raises(NotFound):
        deciding.decide(
            project=Project.objects.create(name="Elsewhere"), item_id=disputed.pk, actor=carol, uuid=uuid.uuid4(),
            raw_value=cat.pk,
        )  # fmt: skip
    assert not Annotation.objects.filter(reason_code="decision").exists()


def test_whoever_is_being_asked_comes_first(
    disputed: Item, alice: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    ask(disputed, alice, people=2)
    with pytest.raises(LeaseLost, match="right now"):
        decide(carol, disputed, cat)
    answer(alice, disputed, dog)
    assert exported(disputed)[:2] == ("dog", "consensus")


def test_an_answer_that_comes_after_the_decision_is_told_so(
    disputed: Item, alice: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    ask(disputed, alice, people=2)
    QueueEntry.objects.update(leased_until=timezone.now())
    decide(carol, disputed, cat)
    with pytest.raises(LeaseLost, match="somebody else answered"):
        answer(alice, disputed, dog)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("first", ["answer", "decision"])
def test_a_decision_and_an_answer_at_the_same_moment_take_turns(
    first: str, disputed: Item, alice: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    """Whoever has the item's row first; the other waits for it and is told."""
    ask(disputed, alice, people=2)
    QueueEntry.objects.update(leased_until=timezone.now())  # ran out, and is forgiven

    def other() -> str:
        try:
            if first == "answer":
                decide(carol, disputed, cat)
            else:
                answer(alice, disputed, dog)
        except Conflict as refused:
            return refused.message
        finally:
            connection.close()
        return "written"

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            answer(alice, disputed, dog) if first == "answer" else decide(carol, disputed, cat)
            waiting = pool.submit(other)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)  # it waits for the lock, not for luck
        said = waiting.result(30)
    assert ("waits for no decision" if first == "answer" else "somebody else answered") in said
    assert exported(disputed)[0] == ("dog" if first == "answer" else "cat")


@pytest.mark.django_db(transaction=True)
def test_of_two_who_decide_at_once_one_is_told(
    suspect: Suspect, alice: User, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    """No queue entry stands between the two, only the item's row."""

    def second() -> str:
        try:
            decide(carol, suspect.item, dog)
        except Conflict as refused:
            return refused.message
        finally:
            connection.close()
        return "written"

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            decide(alice, suspect.item, cat)
            waiting = pool.submit(second)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert "decided this image meanwhile" in waiting.result(30)
    assert Annotation.objects.get(reason_code="decision").annotator == alice


def test_a_decision_takes_a_proposal_off_the_table(disputed: Item, carol: User, cat: LabelClass, model: Any) -> None:
    Proposal.objects.create(
        project=disputed.project, item=disputed, model_version=model, value={"class": cat.pk}, confidence=0.9
    )
    decide(carol, disputed, cat)
    assert Proposal.objects.get().state == "withdrawn"


# --- suspects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [True, False])
def test_a_decision_settles_a_suspected_label_and_is_no_hit(
    changes: bool, project: Project, suspect: Suspect, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    decide(carol, suspect.item, cat if changes else dog)
    suspect.refresh_from_db()
    assert suspect.state == ("repaired" if changes else "confirmed")
    assert exported(suspect.item)[:2] == ("cat" if changes else "dog", "human")
    standing = suspecting.standing(project)
    assert (standing.open, standing.told, standing.hits.settled, standing.ever) == (0, 1, 0, 1)
    assert suspecting.newest_hits(project, None).settled == 0
    # Found anew by a study that began before, neither label of the image is suspected.
    current = queries.current_annotations(suspect.item)
    doubted = [Doubted(each.pk, None, 0.99) for each in current]
    assert suspecting.store_suspects(project=project, doubted=doubted) == 0
    assert Suspect.objects.count() == 1
    undo(carol, project)
    suspect.refresh_from_db()
    assert (suspect.state, suspect.settled_at, suspect.settled_by) == ("open", None, None)
    assert exported(suspect.item)[0] == "dog"


def test_who_decides_against_the_own_suspected_label_may_take_it_back(
    project: Project, suspect: Suspect, bob: User, cat: LabelClass
) -> None:
    project.memberships.filter(user=bob).update(role="reviewer")
    decide(bob, suspect.item, cat)
    suspect.refresh_from_db()
    assert suspect.state == "repaired"
    undo(bob, project)
    suspect.refresh_from_db()
    assert suspect.state == "open"
    assert queries.current_annotation(suspect.item, bob) == suspect.annotation


def test_what_a_blind_check_found_stays_a_hit(
    project: Project, suspect: Suspect, alice: User, dave: User, carol: User, cat: LabelClass, dog: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    ask(suspect.item, dave, "suspect", suspect=suspect.pk)
    check = answer(dave, suspect.item, cat)
    suspecting.store_suspects(project=project, doubted=[Doubted(check.pk, dog.pk, 0.9)])
    decide(carol, suspect.item, dog)
    states = dict(Suspect.objects.values_list("annotation_id", "state"))
    assert states == {suspect.annotation_id: "repaired", check.pk: "repaired"}
    hits = suspecting.standing(project).hits
    assert (hits.settled, hits.repaired) == (1, 1)


# --- what is counted of it ----------------------------------------------------------------------------------------


def test_a_decision_is_no_answer_to_a_question(
    project: Project, disputed: Item, bob: User, carol: User, dave: User, cat: LabelClass, dog: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    before = shares.newest_answers(project)
    assert forecasting._asked_again(project) == (1, 1)
    decide(carol, disputed, cat)
    assert shares.newest_answers(project) == before
    assert forecasting._asked_again(project) == (1, 1)
    # A later second opinion is compared with the answer before the decision: dog again, not another word than cat.
    alice = project.memberships.get(role="owner").user
    ask(disputed, alice)
    answer(alice, disputed, dog)
    assert forecasting._asked_again(project) == (2, 1)
    assert exported(disputed)[0] == "cat"


def check(item: Item, who: User, label_class: LabelClass, reason: str = "audit") -> None:
    Annotation.objects.create(
        uuid=uuid.uuid4(), project=item.project, item=item, annotator=who, kind="label",
        value={"class": label_class.pk}, reason_code=reason,
        supersedes=Annotation.objects.filter(item=item, annotator=who, superseded_by__isnull=True).first(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("blind", "decided", "counts"),
    [
        # Who said what blind; what was decided; the class and whether it is a blind answer still. c, d: cat, dog.
        ("c", "c", ("cat", True)),
        ("c", "d", (None, True)),
        ("cd", "c", (None, True)),
        ("ccd", "d", (None, True)),
        ("", "c", (None, False)),
    ],
)
def test_a_decision_on_a_random_check_never_speaks_for_the_model(
    blind: str, decided: str, counts: tuple[str | None, bool], project: Project, alice: User, bob: User, dave: User,
    carol: User, cat: LabelClass, dog: LabelClass,
) -> None:  # fmt: skip
    item, classes = make_item(project, 3, Split.AUDIT), {"c": cat, "d": dog}
    for who, said in zip((bob, dave, alice), blind, strict=False):
        check(item, who, classes[said])
    check(item, carol, classes[decided], "decision")
    answers = certifying.blind_answers(project)
    wanted = certifying.NO_CLASS if counts[0] is None else project.classes.get(name=counts[0]).pk
    assert (answers.class_ids.tolist(), answers.in_turn.tolist()) == ([wanted], [counts[1]])


@pytest.mark.parametrize(("blind", "decided", "is_right"), [("c", "c", 1), ("c", "d", 0), ("d", "c", 0), ("", "c", 0)])
def test_a_decision_makes_no_check_of_a_round_right(
    blind: str, decided: str, is_right: int, project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    item, classes = make_item(project, 3), {"c": cat, "d": dog}
    if blind:
        check(item, bob, classes[blind], "automatic")
    check(item, carol, classes[decided], "decision")
    assert round_checks.said(project, {item.pk: cat.pk}) == {item.pk: is_right}


def test_whoever_decides_takes_no_wrong_check_of_automatic_labels_back(
    project: Project, bob: User, cat: LabelClass, dog: LabelClass, model: ModelVersion
) -> None:
    promise: dict[str, Any] = {"project": project, "target": 0.9, "confidence": 0.95, "delta": 0.01}
    look = Look.objects.create(number=1, planned=1, model_version=model, answers=300, spent=0.01, **promise)
    certificate = Certificate.objects.create(
        look=look, threshold=0.9, n=300, k=300, rest=40, answered=0, bound=0.99, accepted_at=timezone.now(), **promise
    )
    for seed in range(3):
        item = make_item(project, seed)
        accepted = Proposal.objects.create(
            project=project, item=item, value={"class": cat.pk}, label_class=cat, state="auto_accepted",
            certificate=certificate, model_version=model, confidence=0.99,
        )  # fmt: skip
        check(item, bob, dog, "automatic")
        Annotation.objects.filter(item=item).update(
            reason_data={"proposal": accepted.pk, "certificate": certificate.pk}
        )
        check(item, bob, cat, "decision")
    # Three of three wrong: 95 % sure of 36.8 % at least (Clopper-Pearson), where 10 % may be.
    certifying._hold_labels(certificate)
    certificate.refresh_from_db()
    assert certificate.ended_at is not None


# --- the page -----------------------------------------------------------------------------------------------------


def address(project: Project) -> str:
    return reverse("suspects", args=[project.pk])


def form(item: Item, label_class: LabelClass | str, **more: str) -> dict[str, str]:
    named = label_class if isinstance(label_class, str) else str(label_class.pk)
    return {"item": str(item.pk), "class": named, "uuid": str(uuid.uuid4()), "state": "disputed"} | more


def test_the_list_shows_the_answers_and_who_gave_them_to_owners_alone(
    project: Project, disputed: Item, alice: User, carol: User, login: Login
) -> None:
    page = login(carol).get(address(project), {"state": "disputed"}).content.decode()
    assert "cat: 1 answer<" in page
    assert "dog: 1 answer<" in page
    assert "dave" not in page
    assert page.count('class="panel suspect"') == 1
    page = login(alice).get(address(project), {"state": "disputed"}).content.decode()
    assert "cat: bob" in page
    assert "dog: dave" in page


@pytest.mark.parametrize("is_htmx", [True, False])
def test_a_reviewer_decides_on_the_page(
    is_htmx: bool, project: Project, disputed: Item, carol: User, cat: LabelClass, login: Login
) -> None:
    client, sent = login(carol), form(disputed, cat)
    headers = {"HX-Request": "true"} if is_htmx else {}
    answer = client.post(address(project), sent, headers=headers, follow=not is_htmx)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "image-0.png: decided, cat." in page
    assert "panel suspect" not in page
    assert ("<html" in page) != is_htmx
    assert client.post(address(project), sent).status_code == 303  # sent twice
    decided = client.get(address(project), {"state": "decided"}).content.decode()
    assert "cat, decided by carol" in decided
    again = client.post(address(project), form(disputed, "none", state="decided"), follow=True).content.decode()
    assert "decided, none of these." in again


def test_a_suspected_label_is_decided_in_its_list(
    project: Project, suspect: Suspect, carol: User, cat: LabelClass, login: Login
) -> None:
    client = login(carol)
    page = client.get(address(project)).content.decode()
    assert "The label is right" in page
    assert f'<option value="{cat.pk}">cat</option>' in page
    assert client.post(address(project), form(suspect.item, cat, state="open")).status_code == 303
    page = client.get(address(project), {"state": "repaired"}).content.decode()
    assert "Decided by a reviewer: cat" in page


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"class": ""}, "no class was chosen"),
        ({"class": "x"}, "is not a class id"),
        ({"class": "999999999"}, "is not one of this project"),
        ({"uuid": "x"}, "is not a UUID"),
        ({"item": "x"}, "is not an image"),
    ],
)
def test_a_decision_that_names_nothing_is_refused(
    wrong: dict[str, str], said: str, project: Project, disputed: Item, carol: User, cat: LabelClass, login: Login
) -> None:
    answer = login(carol).post(address(project), form(disputed, cat) | wrong)
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert exported(disputed)[1] == "disputed"


@pytest.mark.parametrize(
    ("who", "status"), [("alice", 303), ("carol", 303), ("bob", 403), ("vera", 403), ("charlie", 404)]
)
def test_who_may_decide(
    who: str, status: int, project: Project, disputed: Item, cat: LabelClass, login: Login,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    client = login(request.getfixturevalue(who))
    assert client.post(address(project), form(disputed, cat)).status_code == status
    assert client.put(address(project)).status_code == 405
    assert (exported(disputed)[1] == "human") == (status == 303)


def test_an_image_of_another_project_is_not_found_and_a_held_one_a_conflict(
    project: Project, disputed: Item, alice: User, carol: User, cat: LabelClass, login: Login
) -> None:
    client = login(carol)
    assert client.post(address(project), form(disputed, cat) | {"item": "999999"}).status_code == 404
    ask(disputed, alice, people=2)
    answer = client.post(address(project), form(disputed, cat))
    assert answer.status_code == 409
    assert "answering this image right now" in answer.content.decode()


def test_the_dashboard_leads_reviewers_to_what_nobody_is_left_to_ask(
    project: Project, disputed: Item, alice: User, bob: User, carol: User, login: Login
) -> None:
    def leads(who: User) -> bool:
        return (
            "?state=disputed"
            in login(who).get(reverse("dashboard", args=[project.pk]) + "?about=work").content.decode()
        )

    assert not leads(carol)  # she could still be asked
    project.memberships.filter(user=alice).update(role="viewer")
    ask(disputed, carol, people=2)
    labeling.record_annotation(
        project=project, annotator=carol, item_id=disputed.pk, uuid=uuid.uuid4(), kind="none_of_these"
    )
    assert leads(carol)
    assert not leads(bob)
