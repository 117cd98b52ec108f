"""What a filter of the review grid chooses, through its address: each part, parts together, and what does not fit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotator import queries
from annotator.actions import flagging, proposing, queueing
from annotator.models import (
    Annotation,
    Item,
    Job,
    LabelClass,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
)
from tests.cast import bare_items, make_item

Login = Callable[[User], Client]
SCRIPTED = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def both(project: Project, items: list[Item], model: ModelVersion, cat: LabelClass, dog: LabelClass) -> list[Proposal]:
    """Six cats, then six dogs, each class from 0.50 to 0.75; the first of each hesitates between the two."""
    predictions = [
        proposing.Predicted(item.pk, own.pk, 0.5 + place * 0.05, [(own.pk, 0.6), (other.pk, 0.3)][: 1 + (place == 0)])
        for own, other, some in ((cat, dog, items[:6]), (dog, cat, items[6:]))
        for place, item in enumerate(some)
    ]
    proposing.store_proposals(project=project, model_version=model, predictions=predictions)
    return list(Proposal.objects.order_by("item_id"))


@pytest.fixture
def embedded(project: Project, settings: Any) -> Callable[[list[tuple[Item, list[float]]]], None]:
    """Give these items these vectors, as an embedding would have: ``embedded([(item, [0.0, 1.0]), ...])``."""

    def put(places: list[tuple[Item, list[float]]]) -> None:
        places = sorted(places, key=lambda place: place[0].pk)
        points = np.array([point for _item, point in places], np.float32)
        far = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(far, np.inf)
        order = far.argsort(axis=1)[:, :2]
        folder = Path(settings.ARTIFACT_ROOT) / "embedding"
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in {
            "item_ids": np.array([item.pk for item, _point in places], np.int64),
            "embeddings": points,
            "neighbours": order.astype(np.int32),
            "distances": np.take_along_axis(far, order, 1).astype(np.float32),
        }.items():
            np.save(folder / f"{name}.npy", array)
        Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result={"folder": "embedding"})

    return put


def names(client: Client, project: Project, **filter: str) -> list[str]:
    """The images in the grid under this filter, in order, without their endings."""
    response = client.get(reverse("review", args=[project.pk]), filter, **SCRIPTED)
    assert response.status_code == 200, response.content.decode()
    return [name.removeprefix("image-") for name in re.findall(r'title="([\w-]+)\.png', response.content.decode())]


def refusal(client: Client, project: Project, **filter: str) -> str:
    response = client.get(reverse("review", args=[project.pk]), filter)
    assert response.status_code == 422
    page = response.content.decode()
    assert "data-tile=" not in page
    return page


@pytest.fixture
def carols(login: Login, carol: User, both: list[Proposal]) -> Client:
    return login(carol)


def test_small_classes_share_a_screen_and_a_large_one_has_its_own(
    carols: Client, project: Project, cat: LabelClass
) -> None:
    assert names(carols, project) == [str(n) for n in range(12)]
    assert names(carols, project, **{"class": str(cat.pk)}) == ["0", "1", "2", "3", "4", "5"]


def test_confidence_from_and_to(carols: Client, project: Project) -> None:
    assert names(carols, project, low="60", high="70") == ["2", "3", "4", "8", "9", "10"]
    page = carols.get(reverse("review", args=[project.pk]), {"low": "60", "high": "70"}).content.decode()
    assert "confidence from 60\xa0%" in page and "<strong>6</strong>" in page


def test_the_surest_first(carols: Client, project: Project, dog: LabelClass) -> None:
    assert names(carols, project, sort="confidence", **{"class": str(dog.pk)}) == ["11", "10", "9", "8", "7", "6"]


def test_a_pair_the_model_hesitates_between(
    carols: Client, project: Project, cat: LabelClass, dog: LabelClass
) -> None:
    assert names(carols, project, pair=f"{dog.pk}-{cat.pk}") == ["0", "6"]
    page = carols.get(reverse("review", args=[project.pk])).content.decode()
    assert f'<option value="{cat.pk}-{dog.pk}">cat or dog</option>' in page


def test_flagged_ones_of_anybody(carols: Client, project: Project, items: list[Item], bob: User) -> None:
    flagging.raise_flag(project=project, item_id=items[4].pk, actor=bob)
    assert names(carols, project, flagged="1") == ["4"]
    flagging.lower_own(project=project, item_id=items[4].pk, actor=bob)
    assert names(carols, project, flagged="1") == []


def test_by_model_by_import_and_by_folder(
    carols: Client, project: Project, items: list[Item], model: ModelVersion
) -> None:
    assert len(names(carols, project, source="label_spreading")) == 12
    assert names(carols, project, source="zero_shot") == []
    job = Job.objects.create(project=project, kind=Job.Kind.IMPORT, state=Job.State.DONE)
    Item.objects.filter(pk__in=[items[1].pk, items[7].pk]).update(import_job=job)
    assert names(carols, project, **{"import": str(job.pk)}) == ["1", "7"]
    assert names(carols, project, folder="image-1") == ["1", "10", "11"]


def test_lists_that_name_other_classes(carols: Client, project: Project, model: ModelVersion) -> None:
    assert names(carols, project, disagree="list") == []  # no list has a promise yet
    model.metrics["short_list"] = {
        "promise": 0.9, "n": 40, "own": 2, "classes": 2, "inside": 28, "judged": 31, "low": 0.75, "high": 0.97,
        "sizes": [0.0, 0.8, 0.2, 0.0], "test": None, "by_class": [],
    }  # fmt: skip
    model.save()
    assert names(carols, project, disagree="list") == ["0", "6"]


def test_labelled_look_alikes_that_disagree_and_no_random_check_among_them(
    carols: Client,
    project: Project,
    items: list[Item],
    embedded: Callable[..., None],
    answer: Callable[..., Annotation],
    bob: User,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    labelled = [make_item(project, 100 + n) for n in range(3)]
    checks = [make_item(project, 110 + n, "audit") for n in range(3)]
    # Cats are on the left but for image 3, which lies among the dogs on the right.
    left, right = [0.0, 0.0], [10.0, 0.0]
    places = [(item, left if n < 6 and n != 3 else right) for n, item in enumerate(items)]
    embedded([*places, *((item, right) for item in labelled), *((item, left) for item in checks)])
    queueing.fill_queue(project=project, entries=[queueing.Ranked(i.pk, 0.0, "random") for i in labelled + checks])
    for item in labelled:
        answer(bob, item, dog)
    # With dogs alone labelled, every cat's look-alikes are dogs; but none of the checks may say so first.
    for item in checks:
        answer(bob, item, dog)
    with CaptureQueriesContext(connection) as asked:
        assert names(carols, project, disagree="neighbours") == ["0", "1", "2", "3", "4", "5"]
    assert len(asked) < 40
    for n in range(120, 123):
        item = make_item(project, n)
        queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random")])
        answer(bob, item, cat)
        places.append((item, left))
    embedded([*places, *((item, right) for item in labelled), *((item, left) for item in checks)])
    queries.vectors.__globals__["_load"].cache_clear()
    assert names(carols, project, disagree="neighbours") == ["3"]


def test_more_like_this_puts_the_likest_first_and_goes_on(
    carols: Client, project: Project, items: list[Item], embedded: Callable[..., None]
) -> None:
    embedded([(item, [float((n * 5) % 12), 0.0]) for n, item in enumerate(items)])
    order = sorted(range(1, 12), key=lambda n: (n * 5) % 12)
    assert names(carols, project, like=str(items[0].pk)) == [str(n) for n in order]
    assert names(carols, project, like=str(items[0].pk), low="60") == [str(n) for n in order if n % 6 >= 2]
    assert names(carols, project, like=str(items[0].pk), after=str(items[order[3]].pk)) == [str(n) for n in order[4:]]


def test_more_like_a_random_check_a_test_image_or_one_asked_blind_is_refused_as_unknown(
    carols: Client, project: Project, items: list[Item], embedded: Callable[..., None], answer: Callable[..., Any],
    bob: User, cat: LabelClass,
) -> None:  # fmt: skip
    check, test = make_item(project, 50, "audit"), make_item(project, 51, "test")
    answer(bob, items[0], cat)
    embedded([(item, [float(n), 0.0]) for n, item in enumerate([*items, check, test])])
    assert names(carols, project, like=str(items[0].pk))
    QueueEntry.objects.create(project=project, item=items[0], rank=0, reason_code="second_opinion")
    for item in (check, test, items[0]):
        for show in ("", "labels"):
            said = refusal(carols, project, like=str(item.pk), show=show)
            assert f"There is no image {item.pk} in this project." in said


def test_near_copies_and_look_alikes_side_by_side(
    carols: Client, project: Project, items: list[Item], embedded: Callable[..., None], cat: LabelClass
) -> None:
    points = 100 * np.eye(12)
    points[3], points[4] = points[0] + 1, points[1] + 1
    embedded([(item, list(point)) for item, point in zip(items, points, strict=True)])
    only = {"class": str(cat.pk)}
    assert names(carols, project, near="1", **only) == ["0", "1", "3", "4"]
    alike = names(carols, project, sort="similar", **only)
    assert sorted(alike) == ["0", "1", "2", "3", "4", "5"]
    for one, other in (("0", "3"), ("1", "4")):
        assert abs(alike.index(one) - alike.index(other)) == 1


def test_a_group_and_a_part_of_the_map_are_asked_of_those_who_know(
    carols: Client, project: Project, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def group_items(project: Project, job_id: int, number: int) -> Any:
        asked.append((job_id, number))
        return np.array([items[2].pk, items[8].pk], np.int64)

    monkeypatch.setattr("annotator.queries.item_sets.group_items", group_items)
    assert names(carols, project, group="7.3") == ["2", "8"]
    assert asked == [(7, 3)]
    monkeypatch.setattr(
        "annotator.queries.item_sets.items_inside", lambda project, polygon: np.array([items[8].pk], np.int64)
    )
    assert names(carols, project, inside="0,0;1,0;1,1") == ["8"]


def test_parts_work_together(carols: Client, project: Project, items: list[Item], bob: User, cat: LabelClass) -> None:
    for n in (2, 3, 9):
        flagging.raise_flag(project=project, item_id=items[n].pk, actor=bob)
    assert names(carols, project, flagged="1", low="65") == ["3", "9"]
    assert names(carols, project, flagged="1", low="65", **{"class": str(cat.pk)}) == ["3"]


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ({"low": "x"}, "“x” is not between 0 and 100"),
        ({"high": "101"}, "“101” is not between 0 and 100"),
        ({"low": "nan"}, "“nan” is not between"),
        ({"low": "80", "high": "20"}, "lowest confidence is above the highest"),
        ({"pair": "1-2"}, "1-2 are not two classes of this project"),
        ({"sort": "size"}, "sort is “size”; it can be doubt, confidence, similar"),
        ({"disagree": "me"}, "disagree is “me”"),
        ({"disagree": "study"}, "choose labels instead"),
        ({"by": "3"}, "Nobody has labelled what waits"),
        ({"import": "x"}, "import is “x”, which is no number"),
        ({"near": "2"}, "near is “2”"),
        ({"near": "1"}, "before the images are embedded"),
        ({"like": "1"}, "before the images are embedded"),
        ({"group": "3"}, "3 is no group, such as 12.3"),
        ({"group": "999999.1"}, "there is no grouping 999999"),
        ({"inside": "a"}, "is not a corner on the map"),
        ({"inside": "0,0;1,0;1,1"}, "map of these images is not drawn yet"),
        ({"like": "1", "group": "1.1"}, "choose one of them"),
        ({"tiles": "19"}, "20 to 200 images, not 19"),
        ({"after": "x"}, "“x” is no place to go on from"),
        ({"after": "1~0.5~2", "before": "1~0.5~3"}, "not both"),
        ({"folder": "x" * 501}, "folder has 501 characters"),
        ({"show": "labels", "low": "5"}, "have no confidence"),
        ({"show": "labels", "sort": "confidence"}, "have no confidence"),
        ({"show": "labels", "source": "mlp"}, "No model gave these labels"),
        ({"show": "everything"}, "show is “everything”"),
    ],
)
def test_what_does_not_fit_says_why_and_shows_no_image(
    carols: Client, project: Project, filter: dict[str, str], said: str
) -> None:
    assert said in refusal(carols, project, **filter)


def test_the_form_shows_what_was_sent_and_one_click_takes_a_part_out(carols: Client, project: Project) -> None:
    page = carols.get(reverse("review", args=[project.pk]), {"low": "60", "folder": "image"}).content.decode()
    assert 'name="low" maxlength="6" inputmode="decimal" value="60"' in page
    assert 'href="?folder=image"' in page and 'href="?low=60"' in page


# --- screens -------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(project: Project, model: ModelVersion, cat: LabelClass, dog: LabelClass) -> list[Proposal]:
    """45 cats and 30 dogs, many of them at the same confidence."""
    made = bare_items(project, ["pool"] * 75)
    predictions = [
        proposing.Predicted(item.pk, (cat if n < 45 else dog).pk, 0.5 + (n % 7) / 20, [])
        for n, item in enumerate(made)
    ]
    proposing.store_proposals(project=project, model_version=model, predictions=predictions)
    return list(Proposal.objects.order_by("label_class_id", "confidence", "id"))


def tiles_and_links(client: Client, project: Project, query: str) -> tuple[list[int], str, str]:
    page = client.get(f"{reverse('review', args=[project.pk])}?{query}", **SCRIPTED).content.decode()
    links = {rel: href for href, rel in re.findall(r'href="\?([^"]*)"[^>]*rel="(prev|next)"', page)}
    shown = [int(pk) for pk in re.findall(r'data-proposal="(\d+)"', page)]
    return shown, links.get("next", "").replace("&amp;", "&"), links.get("prev", "").replace("&amp;", "&")


def test_screens_follow_each_other_without_a_gap_and_lead_back(
    login: Login, carol: User, project: Project, many: list[Proposal]
) -> None:
    client, query, seen, screens = login(carol), "class=all&tiles=20", [], []
    while query:
        shown, following, _before = tiles_and_links(client, project, query)
        seen += shown
        screens.append((query, shown))
        query = following
    assert seen == [each.pk for each in many]
    _shown, _next, before = tiles_and_links(client, project, screens[2][0])
    assert tiles_and_links(client, project, before)[0] == screens[1][1]


def test_the_end_of_a_class_leads_to_the_next_class(
    login: Login, carol: User, project: Project, many: list[Proposal], cat: LabelClass, dog: LabelClass
) -> None:
    client = login(carol)
    _shown, query, _before = tiles_and_links(client, project, f"class={cat.pk}&tiles=40")
    shown, query, _before = tiles_and_links(client, project, query)
    assert shown == [each.pk for each in many[40:45]]
    assert query == f"class={dog.pk}&tiles=40"


def test_what_is_left_undecided_comes_again_behind_everything_else(
    login: Login, carol: User, project: Project, many: list[Proposal], cat: LabelClass
) -> None:
    client, address = login(carol), reverse("review", args=[project.pk])
    place = f"class={cat.pk}&tiles=20"
    page = client.get(f"{address}?{place}", **SCRIPTED).content.decode()
    shown = re.findall(r'data-proposal="(\d+)"', page)
    last = re.search(r'name="last" value="([^"]*)"', page)
    assert last is not None
    fields = {"place": place, "last": last[1], "shown": shown, "left": shown[:2]}
    after = client.post(address, fields, **SCRIPTED).content.decode()
    assert "18 accepted" in after
    assert re.findall(r'data-proposal="(\d+)"', after) == [str(each.pk) for each in many[20:40]]
    waiting = Proposal.objects.filter(label_class=cat, state="pending").order_by("confidence", "id")
    assert [str(each.pk) for each in waiting[:2]] == shown[:2]


def test_undo_leads_back_to_where_it_was_decided(
    login: Login, carol: User, project: Project, many: list[Proposal], cat: LabelClass
) -> None:
    client, address = login(carol), reverse("review", args=[project.pk])
    _shown, query, _before = tiles_and_links(client, project, f"class={cat.pk}&tiles=20")
    second, _next, _before = tiles_and_links(client, project, query)
    page = client.post(address, {"place": query, "here": query, "shown": second}, **SCRIPTED).content.decode()
    event = page.split('name="event" value="')[1].split('"')[0]
    undone = client.post(reverse("review-undo", args=[project.pk]), {"event": event}, **SCRIPTED).content.decode()
    assert [int(pk) for pk in re.findall(r'data-proposal="(\d+)"', undone)] == second


@pytest.mark.parametrize("query", ["class=all", "class={cat}", "class={cat}&sort=confidence", "class={cat}&low=55"])
def test_a_screen_costs_as_many_queries_however_much_waits(
    login: Login, carol: User, project: Project, many: list[Proposal], cat: LabelClass, query: str
) -> None:
    client, address = login(carol), reverse("review", args=[project.pk])
    counts = []
    for tiles in ("20", "60"):
        with CaptureQueriesContext(connection) as asked:
            client.get(f"{address}?{query.format(cat=cat.pk)}&tiles={tiles}", **SCRIPTED)
        counts.append(len(asked))
        assert not [each for each in asked if re.search(r"\bOFFSET\b", each["sql"])]
    assert counts[0] == counts[1] <= 32


def test_the_order_by_doubt_is_read_off_the_index(project: Project, many: list[Proposal], cat: LabelClass) -> None:
    chosen = queries.read_selection(project, {"class": str(cat.pk), "after": f"{cat.pk}~0.55~1"})
    with CaptureQueriesContext(connection) as asked:
        queries.screen(project, chosen)
    keys = next(each["sql"] for each in asked if "LIMIT" in each["sql"])
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute(f"EXPLAIN {keys}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "pending_proposals_by_doubt" in plan and "Sort" not in plan, plan
    assert re.search(r"Index Cond:.*ROW\(", plan), plan


def test_what_a_running_round_checks_is_in_no_grid(
    carols: Client, project: Project, both: list[Proposal], items: list[Item], model: ModelVersion, cat: LabelClass
) -> None:
    running = Round.objects.create(
        project=project, number=1, model_version=model, threshold=0.9, share=0.5, size=100, target=0.9,
        confidence=0.95, spent=0.01, stages=[[40, 0, 0.01]],
    )  # fmt: skip
    RoundCheck.objects.create(round=running, item=items[1], position=0, predicted=cat, place=0.1)
    Item.objects.filter(pk=items[2].pk).update(split="audit")
    assert not {"1", "2"} & set(names(carols, project))
    assert not {"1", "2"} & set(names(carols, project, low="1"))


def test_an_outsider_and_a_labeller_get_no_filtered_grid(
    login: Login, project: Project, both: list[Proposal], bob: User, charlie: User
) -> None:
    address = reverse("review", args=[project.pk])
    assert login(charlie).get(address, {"low": "10"}).status_code == 404
    assert login(bob).get(address, {"show": "labels"}).status_code == 403
