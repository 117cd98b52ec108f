"""The map of the pool: how it is drawn, what lies inside a part of it, and that it goes with its embedding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness

from annotator import jobs, queries
from annotator.actions import mapping as asking
from annotator.errors import Conflict, InvalidSettings, JobCancelled
from annotator.models import Item, Job, Project
from annotator.queries.map import inside, polygon_text
from ml_worker import mapping, projection
from tests.cast import make_item

Places = NDArray[np.float64]


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def blobs(n: int = 60, d: int = 6, groups: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    named = np.arange(n) % groups
    return (rng.normal(size=(groups, d))[named] * 8 + rng.normal(size=(n, d))).astype(np.float32), named


def laid(points: NDArray[np.float32]) -> Places:
    return projection.lay_out(points, projection.beginning(points, 0), silent)


def embed(project: Project, items: list[Item], points: NDArray[np.float32], root: Path, number: int = 1) -> Job:
    """As an embedding job would have left it."""
    folder = root / f"{project.pk}/embedding-{number}-1"
    folder.mkdir(parents=True)
    order = np.argsort([item.pk for item in items])
    np.save(folder / "embeddings.npy", points[order])
    np.save(folder / "neighbours.npy", np.zeros((len(items), 0), np.int32))
    np.save(folder / "distances.npy", np.zeros((len(items), 0), np.float32))
    np.save(folder / "indexed.npy", np.ones(len(items), bool))
    np.save(folder / "item_ids.npy", np.array([item.pk for item in items], np.int64)[order])
    np.save(folder / "splits.npy", np.zeros(len(items), np.uint8))
    result = {"folder": f"{project.pk}/{folder.name}", "n": len(items), "image_px": 8, "encoder": "pca_pixels"}
    return Job.objects.create(project=project, kind=Job.Kind.EMBED, state="done", result=result)


@pytest.fixture
def embedded(project: Project, settings: Any) -> list[Item]:
    """Thirty images in three groups."""
    made = [make_item(project, seed) for seed in range(30)]
    embed(project, made, blobs(30)[0], settings.ARTIFACT_ROOT)
    return made


def run(project: Project) -> Job:
    job = jobs.claim(jobs.enqueue(project, Job.Kind.MAP).pk)
    assert job is not None
    with jobs.running(job) as running:
        mapping.run(running)
    job.refresh_from_db()
    return job


# --- the arithmetic ---


def test_the_push_of_all_points_is_what_summing_over_pairs_gives() -> None:
    places = np.random.default_rng(1).normal(size=(150, 2)) * 6
    apart = places[:, None] - places[None]
    k = 1 / (1 + np.square(apart).sum(axis=2))
    np.fill_diagonal(k, 0)
    exact = (np.square(k)[:, :, None] * apart).sum(axis=1) / k.sum()
    assert np.allclose(projection.push(places), exact)
    wrong = np.abs(projection.push_by_grid(places) - exact)
    assert wrong.mean() < 0.05 * np.abs(exact).mean()  # 2 % on average, more where two points nearly touch


def test_likeness_is_symmetric_and_sums_to_one() -> None:
    alike = projection.affinities(blobs()[0])
    assert alike.sum() == pytest.approx(1)
    assert abs(alike - alike.T).max() == 0


def test_groups_lie_apart_and_the_same_points_give_the_same_map() -> None:
    points, named = blobs()
    places = laid(points)
    assert np.array_equal(places, laid(points))
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (named[far.argmin(axis=1)] == named).all()


def test_a_layout_that_was_kept_goes_on_to_the_same_end() -> None:
    points = blobs()[0]
    kept: list[projection.Layout] = []
    whole = projection.lay_out(points, projection.beginning(points, 0), silent, kept.append)
    assert np.array_equal(projection.lay_out(points, kept[3], silent), whole)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
def test_few_images_and_copies_of_one_have_a_map_too(n: int) -> None:
    for points in (blobs(n)[0], np.zeros((n, 6), np.float32), np.ones((n, 1), np.float32)):
        sheet = projection.on_the_sheet(laid(points))
        assert sheet.shape == (n, 2) and np.isfinite(sheet).all()
        assert ((sheet >= 0) & (sheet <= 1)).all()


def test_what_is_not_laid_out_is_placed_beside_what_it_is_like() -> None:
    points, named = blobs(90)
    sample = np.arange(45)
    places = projection.place(points, sample, laid(points[sample]), silent)
    far = np.linalg.norm(places[45:, None] - places[None, :45], axis=2)
    assert (named[:45][far.argmin(axis=1)] == named[45:]).all()


@pytest.mark.slow
def test_the_map_of_the_digits_keeps_neighbours_as_well_as_the_reference() -> None:
    points = load_digits().data.astype(np.float32)
    # scikit-learn's own t-SNE, PCA start, seed 0: 0.990 in 19 s.
    assert trustworthiness(points, laid(points), n_neighbors=15) > 0.985


# --- the job ---


def test_the_map_lies_beside_its_embedding(project: Project, embedded: list[Item]) -> None:
    assert queries.image_map(project) is None
    job = run(project)
    assert job.state == "done" and job.result["images"] == 30
    drawn = queries.image_map(project)
    assert drawn is not None
    assert drawn.item_ids.tolist() == sorted(item.pk for item in embedded)
    assert drawn.places.dtype == np.float32 and drawn.places.shape == (30, 2)
    folder = Path(job.result["map"])
    assert folder.name == "embedding-1-1"


def test_a_new_embedding_has_no_map_until_one_is_drawn(project: Project, embedded: list[Item], settings: Any) -> None:
    run(project)
    embed(project, embedded, blobs(30)[0], settings.ARTIFACT_ROOT, number=2)
    assert queries.image_map(project) is None
    run(project)
    assert queries.image_map(project) is not None


def test_a_cancelled_map_stops_and_the_next_goes_on_where_it_was_kept(
    project: Project, embedded: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[int] = []
    laid_out = projection.lay_out

    def cut_off(points: Any, layout: Any, progress: Any, keep: Any) -> Any:
        def watched(step: int, steps: int) -> None:
            reached.append(step)
            if len(reached) == 121:
                raise JobCancelled("cancelled")

        return laid_out(points, layout, watched, keep)

    monkeypatch.setattr(projection, "lay_out", cut_off)
    assert run(project).state == "cancelled"
    assert queries.image_map(project) is None
    assert run(project).state == "done"
    assert reached[121] == 100


def test_what_cannot_be_drawn_is_said(project: Project, alice: User, settings: Any) -> None:
    with pytest.raises(Conflict, match="there are no images yet"):
        asking.request_map(project=project, actor=alice)
    made = [make_item(project, seed) for seed in range(4)]
    with pytest.raises(Conflict, match="not embedded yet; draw the map once they are"):
        asking.request_map(project=project, actor=alice)
    embed(project, made, blobs(4)[0], settings.ARTIFACT_ROOT)
    assert asking.request_map(project=project, actor=alice) == asking.request_map(project=project, actor=alice)
    run(project)
    with pytest.raises(Conflict, match="drawn already"):
        asking.request_map(project=project, actor=alice)


def test_a_small_pool_is_drawn_unasked_and_a_large_one_is_not(project: Project) -> None:
    mapping.follow(project, mapping.UNASKED_UP_TO + 1)
    assert not Job.objects.filter(kind=Job.Kind.MAP).exists()
    mapping.follow(project, mapping.UNASKED_UP_TO)
    assert Job.objects.filter(kind=Job.Kind.MAP).count() == 1


# --- parts of it ---


@pytest.mark.parametrize(
    ("corners", "holds"),
    [
        ("0,0;1,0;1,1;0,1", [True, True, True]),
        ("0,0;0.4,0;0.4,0.4;0,0.4", [True, False, False]),
        ("0,0;1,0;0,1", [True, False, False]),  # below the diagonal
        ("0,0;1,1;1,0;0,1", [False, True, False]),  # a bow tie: left and right of the middle
    ],
)
def test_a_polygon_holds_what_lies_inside(corners: str, holds: list[bool]) -> None:
    places = np.array([[0.3, 0.2], [0.9, 0.4], [0.6, 0.9]], np.float32)
    assert inside(places, queries.polygon(corners)).tolist() == holds


def test_items_inside_are_of_this_project_by_id(project: Project, embedded: list[Item]) -> None:
    with pytest.raises(InvalidSettings, match="not drawn yet"):
        queries.items_inside(project, "0,0;1,0;1,1;0,1")
    run(project)
    everything = queries.items_inside(project, [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    assert everything.tolist() == sorted(item.pk for item in embedded)
    drawn = queries.image_map(project)
    assert drawn is not None
    x, y = (float(each) for each in drawn.places[7])
    around = [(x - 1e-4, y - 1e-4), (x + 1e-4, y - 1e-4), (x + 1e-4, y + 1e-4), (x - 1e-4, y + 1e-4)]
    assert queries.items_inside(project, polygon_text(around)).tolist() == [drawn.item_ids[7]]


@pytest.mark.parametrize(
    ("corners", "why"),
    [
        ("", "'' is not a corner"),
        ("0,0;1", "'1' is not a corner"),
        ("0,0;1,1;nan,0", "'nan,0' is not a corner"),
        ("0,0;1,1;1e9,0", "'1e9,0' is not a corner"),
        ("0,0;1,1;2,0", "the corner 2,0 is not on the map"),
        ("0,0;1,1", "has 3 to 200 corners, not 2"),
        (";".join(["0,0"] * 201), "at most 200 corners"),
        ("0,0;" * 100_000, "at most 200 corners"),
        ("0,0;1,1;١,٢", "is not a corner"),
    ],
)
def test_a_bad_polygon_says_why(project: Project, corners: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=why):
        queries.items_inside(project, corners)
