"""What a refit and a study keep of a model's doubt, on a pool whose truth is known."""

import uuid
from collections.abc import Callable

import numpy as np
import pytest
from django.contrib.auth.models import User

from annotator.actions import labeling, projects
from annotator.models import Annotation, Item, LabelClass, ModelVersion, Project, Proposal, Split
from ml_worker import conformal, doubting, fast_loop, refitting, snapshot
from ml_worker.calibrate import softmax
from ml_worker.evaluate import wilson
from ml_worker.fast_loop import Learned
from ml_worker.snapshot import Embedded, Snapshot
from tests.cast import bare_items
from tests.pools import pool_of

POOL, CHECKS = 150, 60
Answer = Callable[[list[Item]], None]


def is_dog(item: Item) -> bool:
    return int(item.source_name) % 2 == 1


@pytest.fixture
def pictures(project: Project, alice: User) -> list[Item]:
    """Even ones are cats, odd ones dogs; the first are random checks."""
    projects.save_settings(project=project, actor=alice, raw={"head": "logistic_regression", "propose_above": 0.3})
    project.refresh_from_db()
    return bare_items(project, [Split.AUDIT] * CHECKS + [Split.POOL] * POOL)


@pytest.fixture
def tell(project: Project, alice: User, cat: LabelClass, dog: LabelClass) -> Answer:
    """Alice answers these, rightly, one after the other."""

    def give(items: list[Item]) -> None:
        for item in items:
            raw = {"class": (dog if is_dog(item) else cat).pk}
            labeling.record_annotation(
                project=project, annotator=alice, item_id=item.pk, uuid=uuid.uuid4(), kind="label", raw_value=raw
            )

    return give


def taken_of(project: Project, pictures: list[Item]) -> Snapshot:
    """Cats lie at 0 and dogs at 2 with a spread of 1: a sixth are on the wrong side."""
    item_ids = np.array([item.pk for item in pictures], np.int64)
    splits = np.array([snapshot.SPLIT_CODES[Split(item.split)] for item in pictures], np.uint8)
    rng = np.random.default_rng(0)
    points = np.array([[2.0 * is_dog(item), 0.0] for item in pictures]) + rng.normal(size=(len(pictures), 2))
    return snapshot.against(project, Embedded(pool_of(points), item_ids, splits))


def learn(project: Project, pictures: list[Item], n_classes: int = 2) -> tuple[Snapshot, Learned]:
    taken = taken_of(project, pictures)
    settings = snapshot.loop_settings(project, seed=0)
    return taken, fast_loop.learn(taken.embedded.pool, taken.train, taken.audit, n_classes, settings)


def test_before_thirty_checks_nothing_is_said(project: Project, pictures: list[Item], tell: Answer) -> None:
    tell(pictures[:29] + pictures[CHECKS : CHECKS + 20])
    taken, learned = learn(project, pictures)
    assert doubting.report(project, taken, learned) == {"calibration": None, "short_list": None}
    assert doubting.short_lists(taken, learned) is None


def test_a_refit_keeps_how_true_confidence_and_lists_are(
    project: Project, pictures: list[Item], tell: Answer, cat: LabelClass, dog: LabelClass
) -> None:
    tell(pictures[:CHECKS] + pictures[CHECKS : CHECKS + 20])
    taken, learned = learn(project, pictures)
    report = doubting.report(project, taken, learned)
    assert report["calibration"]["n"] == CHECKS and sum(each[0] for each in report["calibration"]["bins"]) == CHECKS
    kept = report["short_list"]
    assert (kept["promise"], kept["n"], kept["own"], kept["classes"]) == (0.9, CHECKS, 2, 2)
    assert kept["judged"] == CHECKS - 9 and (kept["low"], kept["high"]) == wilson(kept["inside"], kept["judged"])
    assert sum(kept["sizes"]) == pytest.approx(1) and len(kept["sizes"]) == 4
    assert [each[:2] for each in kept["by_class"]] == [[cat.pk, 30], [dog.pk, 30]]
    assert sum(each[2] for each in kept["by_class"]) == kept["inside"]
    assert sum(each[3] for each in kept["by_class"]) == kept["judged"]
    lists = doubting.short_lists(taken, learned)
    assert lists is not None
    sizes = lists.of(learned.logits[taken.open_rows]).sum(axis=1)
    assert kept["mean_size"] == pytest.approx(sizes.mean())
    assert kept["sizes"] == pytest.approx([(sizes == 0).mean(), (sizes == 1).mean(), (sizes == 2).mean(), 0])


def test_a_model_keeps_what_it_takes_for_what_and_how_sure_it_is(
    project: Project, pictures: list[Item], tell: Answer
) -> None:
    tell(pictures[:CHECKS] + pictures[CHECKS : CHECKS + 20])
    taken, learned = learn(project, pictures)
    kept = refitting._metrics(project, taken, learned, "x", "label_spreading")
    assert sum(kept["sure"]) == len(taken.open_rows) and len(kept["sure"]) == 10
    surest = learned.probs[taken.open_rows].max(axis=1)
    assert kept["sure"][9] == int((surest >= 0.9).sum())
    assert kept["labels"]["n"] == 20
    wrong = int((learned.probs[taken.train.rows].argmax(axis=1) != taken.train.targets).sum())
    assert sum(n for _given, _said, n in kept["labels"]["confused"]) == wrong
    assert sum(n for _given, _said, n in kept["audit"]["confused"]) == CHECKS - kept["audit"]["correct"]
    dogs = sum(is_dog(each) for each in pictures[: CHECKS + 20])
    assert kept["by_class"] == [CHECKS + 20 - dogs, dogs]


def test_checks_are_told_in_the_order_they_were_answered(project: Project, pictures: list[Item], tell: Answer) -> None:
    order = [int(number) for number in np.random.default_rng(3).permutation(CHECKS)]
    tell([pictures[number] for number in order] + pictures[CHECKS : CHECKS + 20])
    taken, learned = learn(project, pictures)
    told = conformal.in_turn(learned.logits[order], np.array([is_dog(pictures[number]) for number in order], int))
    kept = doubting.report(project, taken, learned)["short_list"]
    assert (kept["inside"], kept["judged"]) == (int(told.inside.sum()), len(told.inside))
    assert doubting._oldest_first(project, taken).tolist() == order


def test_the_lists_and_their_promise_are_what_the_review_gets(
    project: Project, pictures: list[Item], tell: Answer, model: ModelVersion
) -> None:
    tell(pictures[:CHECKS] + pictures[CHECKS : CHECKS + 20])
    taken, learned = learn(project, pictures)
    refitting._propose(project, taken, learned, model, {})
    lists = doubting.short_lists(taken, learned)
    assert lists is not None
    proposals = {each.item_id: each for each in Proposal.objects.filter(project=project, state="pending")}
    assert len(proposals) == len(taken.open_rows)
    for row in taken.open_rows.tolist():
        proposal = proposals[int(taken.embedded.item_ids[row])]
        listed = np.flatnonzero(lists.of(learned.logits[row : row + 1])[0])
        assert {class_id for class_id, _ in proposal.short_list} == {taken.class_ids[column] for column in listed}
        probs = [prob for _, prob in proposal.short_list]
        assert probs == sorted(probs, reverse=True)
        assert proposal.label_class_id == taken.class_ids[learned.probs[row].argmax()]
    # Some are ambiguous, or the test would say little.
    assert len({len(each.short_list) for each in proposals.values()}) > 1


def test_without_a_promise_the_four_likeliest_are_named(project: Project, pictures: list[Item]) -> None:
    taken = taken_of(project, pictures)
    object.__setattr__(taken, "class_ids", list(range(100, 120)))
    probs = np.arange(1, 21, dtype=np.float32) / 210
    plain = refitting._predicted(taken, probs, 0, None)
    assert [class_id for class_id, _ in plain.short_list] == [119, 118, 117, 116]
    none = refitting._predicted(taken, probs, 0, np.zeros(20, bool))
    assert none.short_list == [] and none.class_id == 119
    every = refitting._predicted(taken, probs, 0, np.ones(20, bool))
    assert len(every.short_list) == refitting.LISTED_AT_MOST + 1  # one more: it was cut
    some = refitting._predicted(taken, probs, 0, np.arange(20) < 3)
    assert [class_id for class_id, _ in some.short_list] == [102, 101, 100] and some.class_id == 119


def test_a_class_that_came_after_the_network_spoils_nothing(
    project: Project, pictures: list[Item], tell: Answer, alice: User
) -> None:
    bird = LabelClass.objects.create(project=project, name="bird", colour="#112233", position=2)
    tell(pictures[: CHECKS - 3] + pictures[CHECKS : CHECKS + 20])
    for item in pictures[CHECKS - 3 : CHECKS]:
        labeling.record_annotation(
            project=project, annotator=alice, item_id=item.pk, uuid=uuid.uuid4(), kind="label",
            raw_value={"class": bird.pk},
        )  # fmt: skip
    taken, learned = learn(project, pictures, n_classes=3)
    logits = learned.logits.copy()
    logits[:, 2] = -np.inf
    report = doubting.report(project, taken, Learned(softmax(logits), logits, 1.0, None, {}))
    # The birds are wrong and count; but no temperature is stretched to explain them.
    assert report["calibration"]["n"] == CHECKS and report["calibration"]["accuracy"] <= (CHECKS - 3) / CHECKS
    assert report["calibration"]["confidence"] > 0.75
    assert report["calibration"]["class_temperatures"] == []
    lists = doubting.short_lists(taken, Learned(softmax(logits), logits, 1.0, None, {}))
    assert lists is not None and lists.own.tolist() == [True, True, False]


def test_no_image_is_shown_as_both(
    project: Project, pictures: list[Item], tell: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(pictures[CHECKS : CHECKS + 20])
    monkeypatch.setattr(doubting, "SHOWN", 60)  # of 130: the two rankings have some in common
    found = doubting.study(project, taken_of(project, pictures))
    newest, hardest = ({item_id for item_id, *_ in found[name]} for name in ("newest", "hardest"))
    assert len(newest) == len(hardest) == 60 and not newest & hardest


def test_a_study_takes_the_doubt_apart(
    project: Project, pictures: list[Item], tell: Answer, model: ModelVersion
) -> None:
    tell(pictures[CHECKS : CHECKS + 20])
    few = doubting.study(project, taken_of(project, pictures))
    assert (few["n"], few["members"]) == (POOL - 20, 5)
    shown = [item_id for item_id, *_ in few["newest"] + few["hardest"]]
    open_ids = {item.pk for item in pictures[CHECKS + 20 :]}
    assert len(shown) == 10 == len(set(shown)) and set(shown) <= open_ids  # never a random check
    shares = [share for _, share, _ in few["newest"]]
    assert shares == sorted(shares, reverse=True) and shares[0] > few["epistemic"]
    assert all(0 < likeliest[0][1] < 1 for _, _, likeliest in few["newest"])
    tell(pictures[CHECKS + 20 : CHECKS + 120])
    many = doubting.study(project, taken_of(project, pictures))
    # More answers take from what the members contradict each other about, not from what is ambiguous.
    assert many["epistemic"] < few["epistemic"] / 2
    assert many["aleatoric"] > 0.5 * few["aleatoric"]


def test_a_study_with_nothing_to_say_says_why(
    project: Project, pictures: list[Item], tell: Answer, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell([each for each in pictures[CHECKS:] if is_dog(each)][:5])
    assert "two classes" in doubting.study(project, taken_of(project, pictures))["left_out"]
    tell(pictures[CHECKS : CHECKS + 1])
    monkeypatch.setattr(doubting, "ROWS_AT_MOST", 100)
    assert doubting.study(project, taken_of(project, pictures))["n"] == POOL - 6  # a head that looks at answers alone
    projects.save_settings(project=project, actor=alice, raw={"head": "label_spreading"})
    project.refresh_from_db()
    assert "more than 100 images" in doubting.study(project, taken_of(project, pictures))["left_out"]


def test_near_copies_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a line at 0, 0.1, 0.2, 10, 10.1 and 20, in the order of their doubt. Two of them drawn at random are some 10
    apart in the median, so that 5 is far enough."""
    monkeypatch.setattr(doubting, "SHOWN", 3)
    line = np.array([0, 0.1, 0.2, 10, 10.1, 20], np.float32)[:, None]
    assert doubting._apart(line, np.arange(6)).tolist() == [0, 3, 5]
    assert doubting._apart(line, np.array([4, 2, 3, 1, 5, 0])).tolist() == [4, 2, 5]
    monkeypatch.setattr(doubting, "SHOWN", 4)
    assert doubting._apart(line, np.arange(6)).tolist() == [0, 1, 3, 5]  # nothing else is left
    assert doubting._apart(line[:2], np.arange(2)).tolist() == [0, 1]


def test_a_large_pool_is_sampled_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubting, "SAMPLE", 50)
    rows = np.arange(0, 400, 2)
    some = doubting._some(rows)
    assert len(some) == 50 == len(np.unique(some)) and np.isin(some, rows).all()
    assert (some == doubting._some(rows)).all()


def test_an_annotation_superseded_counts_where_it_was_given_last(
    project: Project, pictures: list[Item], tell: Answer
) -> None:
    tell(pictures[:3])
    tell(pictures[:1])  # again
    assert Annotation.objects.filter(item=pictures[0]).count() == 2
    taken = taken_of(project, pictures)
    assert doubting._oldest_first(project, taken).tolist() == [1, 2, 0]
