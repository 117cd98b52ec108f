"""Labelled sources: folders and zips as people have them, and what is said about what cannot be used."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from annotator.algorithms import clean_parameters
from ml_worker import loop, nets, simulated_person
from ml_worker.augment import Policy
from ml_worker.backtest import run
from ml_worker.backtest_plan import SCREENFUL
from ml_worker.batches import Examples
from ml_worker.labelled import BadSource, load_source
from ml_worker.simulated_project import audit_size


def picture(bright_left: bool, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 60, (8, 8), dtype=np.uint8)
    pixels[:, slice(0, 4) if bright_left else slice(4, 8)] += np.uint8(150)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def files(n: int, first_seed: int = 0) -> dict[str, bytes]:
    """n images a class, by path."""
    return {
        f"{name}/{seed}.png": picture(name == "cat", first_seed + seed + 1000 * (name == "dog"))
        for name in ("cat", "dog")
        for seed in range(n)
    }


def write_folder(root: Path, given: dict[str, bytes]) -> str:
    for name, data in given.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


def write_zip(path: Path, given: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in given.items():
            archive.writestr(name, data)
    return str(path)


def back_test(source: str, test: str | None = None, **plan: Any) -> tuple[dict[str, Any], list[str]]:
    """The result and the lines of progress."""
    lines: list[str] = []
    wanted: dict[str, Any] = {
        "encoder": "pca_pixels",
        "encoder_parameters": clean_parameters("encoder", "pca_pixels", {}),
        "head": ["label_spreading"],
        "head_parameters": {"label_spreading": clean_parameters("head", "label_spreading", {})},
        "acquisition": ["margin"],
        "seeds": 1,
        "budget": 20,
    } | plan
    return run(source, test=test, progress=lines.append, **wanted), lines


def test_a_folder_and_a_zip_of_it_read_the_same(tmp_path: Path) -> None:
    folder = load_source(write_folder(tmp_path / "set", files(5)))
    archive = load_source(write_zip(tmp_path / "set.zip", files(5)))
    assert folder.classes == archive.classes == ["cat", "dog"]
    assert folder.images.shape == (10, 8, 8, 3)
    np.testing.assert_array_equal(folder.images, archive.images)
    np.testing.assert_array_equal(folder.targets, archive.targets)
    assert folder.skipped == []


def test_a_folder_around_the_class_folders_is_seen_through(tmp_path: Path) -> None:
    given = {f"pets/train/{name}": data for name, data in files(3).items()}
    assert load_source(write_zip(tmp_path / "pets.zip", given)).classes == ["cat", "dog"]


def test_whatever_cannot_be_used_is_named_and_the_rest_goes_in(tmp_path: Path) -> None:
    given = files(3) | {
        "cat/broken.png": b"not an image",
        "cover.png": picture(True, 77),
        "dog/again.png": files(1)["cat/0.png"],
        "cat/notes.txt": b"read me",
        "dog/.hidden.png": b"x",
        "__MACOSX/cat/._0.png": b"x",
        "../../evil/1.png": picture(True, 78),
    }
    source = load_source(write_zip(tmp_path / "set.zip", given))
    assert source.classes == ["cat", "dog"]
    assert len(source.images) == 6
    assert sorted(source.skipped) == [
        ("cat/broken.png", "not an image of a known kind"),
        ("cover.png", "lies in no class folder"),
        ("dog/again.png", "a copy of cat/0.png"),
    ]


def test_an_export_of_the_product_can_be_back_tested(tmp_path: Path) -> None:
    loose = {f"{folder}/1.png": picture(True, 90 + len(folder)) for folder in ("_unlabelled", "_none_of_these")}
    source = load_source(
        write_zip(tmp_path / "export.zip", files(3) | loose | {"labels.csv": b"", "classes.txt": b""})
    )
    assert source.classes == ["cat", "dog"]
    assert sorted(source.targets) == [-1, 0, 0, 0, 1, 1, 1]  # that of none of these belongs to no class
    assert source.skipped == [("_unlabelled", "1 images without a class")]


def test_an_entry_damaged_in_the_zip_is_named(tmp_path: Path) -> None:
    path = Path(write_zip(tmp_path / "set.zip", files(3)))
    data = bytearray(path.read_bytes())
    at = data.index(b"dog/1.png") + 60  # in the image behind the entry's own header
    data[at] ^= 0xFF
    path.write_bytes(data)
    assert [name for name, _ in load_source(str(path)).skipped] == ["dog/1.png"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "holds no class folders with images in them"),
        ({"1.png": picture(True, 1)}, "holds no class folders with images in them"),
        ({"cat/notes.txt": b"x"}, "holds no class folders with images in them"),
        ({"cat/1.png": b"x", "dog/1.png": b"y"}, "holds no image that can be read"),
        ({f"cat/{n}.png": picture(True, n) for n in range(9)}, "all images are in the class 'cat'; at least 2"),
        (files(1), "1 images to label are too few for a back-test; at least 4"),
    ],
    ids=["empty", "no folder", "no image", "all broken", "one class", "too few"],
)
def test_what_cannot_be_back_tested_gets_one_sentence(tmp_path: Path, given: dict[str, bytes], sentence: str) -> None:
    (tmp_path / "set").mkdir()
    for source in (write_folder(tmp_path / "set", given), write_zip(tmp_path / "set.zip", given)):
        with pytest.raises(BadSource, match=sentence):
            back_test(source)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="neither 'digits' nor a folder or zip"):
        load_source(str(tmp_path / "nothing"))
    (tmp_path / "fake.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadSource, match="neither 'digits' nor a folder or zip"):
        load_source(str(tmp_path / "fake.zip"))


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"budget": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"seeds": 0}, "at least 1"),
        ({"test_fraction": 1.0}, "between 0 and 1"),
        ({"test_fraction": 0.0}, "between 0 and 1"),
        ({"review": -1}, "wanted 0 or more"),
        ({"minutes": 0.0}, "wanted more than 0"),
        ({"minutes": float("nan")}, "wanted more than 0"),
        ({"train_at": [0, 10]}, "from 1 to 20"),
        ({"train_at": [21]}, "from 1 to 20"),
        ({"train_at": [81], "review": 1}, "from 1 to 80"),
        ({"target_precision": [0.9, 1.5]}, "between 0 and 1"),
        ({"confidence": [0.0]}, "between 0 and 1"),
        ({"head": []}, "wanted at least one acquisition function, head"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path, plan: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadSource, match=sentence):
        back_test(write_folder(tmp_path, files(5)), **plan)


def test_a_second_source_is_tested_on_and_never_asked_about(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "a", files(15))
    test = write_folder(tmp_path / "b", {"cat/1.png": picture(True, 501), "cat/2.png": picture(True, 502)})
    result, _ = back_test(source, test, budget=1000)
    assert (result["n_pool"], result["n_test"]) == (30, 2)
    curve = result["runs"][0]["curve"]
    assert curve[-1]["labels"] == 30
    assert curve[-1]["test_accuracy"] == 1.0


def test_a_second_source_with_other_classes_is_refused(tmp_path: Path) -> None:
    test = write_folder(tmp_path / "b", {"cat/1.png": picture(True, 501), "emu/2.png": picture(True, 502)})
    with pytest.raises(BadSource, match="classes the pool does not: emu"):
        back_test(write_folder(tmp_path / "a", files(15)), test)


def test_a_budget_beyond_the_pool_ends_when_everything_is_answered(tmp_path: Path) -> None:
    result, lines = back_test(
        write_folder(tmp_path, files(10)), budget=10_000, batch=7, acquisition=["random_sampling"]
    )
    curve = result["runs"][0]["curve"]
    assert [point["labels"] for point in curve] == [7, 14, 16]
    assert result["n_pool"] == 16
    assert curve[-1]["pseudo_label_accuracy"] is None
    assert len(lines) == 3


def test_the_audit_split_is_a_twentieth_and_at_least_fifty_and_at_most_half() -> None:
    assert [audit_size(n) for n in (4, 60, 1000, 1597, 10_000)] == [2, 30, 50, 80, 500]


def test_a_back_test_gives_the_same_result_twice(tmp_path: Path) -> None:
    source = write_folder(tmp_path, files(20))

    def curves() -> list[Any]:
        return [
            [{k: v for k, v in point.items() if k != "seconds"} for point in one["curve"]]
            for one in back_test(source, seeds=2, acquisition=["margin", "typiclust"])[0]["runs"]
        ]

    assert curves() == curves()


def test_auto_acceptance_appears_with_a_certificate_and_its_true_precision(tmp_path: Path) -> None:
    result, _ = back_test(write_folder(tmp_path, files(300)), budget=160, target_precision=[0.6])
    curve = result["runs"][0]["curve"]
    opened = [point for point in curve if point["auto_accepted"]]
    assert opened
    assert all(point["auto_accepted"] <= 1 and point["auto_accepted_precision"] >= 0.6 for point in opened)
    # The two audit answers among the first ten certify nothing.
    assert (curve[0]["auto_accepted"], curve[0]["auto_accepted_precision"]) == (0, None)


# --- images of none of the classes


def test_images_of_none_of_the_classes_are_strangers_of_the_pool_and_never_tested_on(tmp_path: Path) -> None:
    loose = {f"_none_of_these/{seed}.png": picture(seed % 2 == 0, 5000 + seed) for seed in range(40)}
    result, _ = back_test(write_folder(tmp_path, files(40) | loose), budget=1000, acquisition=["random_sampling"])
    assert (result["n_pool"], result["n_test"], result["classes"]) == (120 - 24, 24, ["cat", "dog"])
    curve = result["runs"][0]["curve"]
    assert curve[-1]["labels"] == 96
    assert curve[-1]["test_accuracy"] == 1.0
    # Of what is open at first, 40 of 96 are strangers: whatever the model says of them is wrong.
    assert 0.45 < curve[0]["pseudo_label_accuracy"] < 0.7


# --- several of everything


def test_every_combination_gets_a_run_and_every_gate_its_curve(tmp_path: Path) -> None:
    heads = ["label_spreading", "prototype"]
    result, lines = back_test(
        write_folder(tmp_path, files(60)),
        acquisition=["margin", "random_sampling"],
        head=heads,
        head_parameters={name: clean_parameters("head", name, {}) for name in heads},
        target_precision=[0.9, 0.6],
        confidence=[0.95, 0.8],
        seeds=2,
    )
    found = [(one["seed"], one["acquisition"], one["head"]) for one in result["runs"]]
    assert found == [(seed, name, head) for seed in (0, 1) for name in ("margin", "random_sampling") for head in heads]
    for one in result["runs"]:
        promises = [(gate["target_precision"], gate["confidence"]) for gate in one["gates"]]
        assert promises == [(0.9, 0.95), (0.9, 0.8), (0.6, 0.95), (0.6, 0.8)]
        first = [(point["labels"], point["auto_accepted"]) for point in one["gates"][0]["curve"]]
        assert first == [(point["labels"], point["auto_accepted"]) for point in one["curve"]]
    assert [curve["head"] for curve in result["summary"]["curves"]] == heads * 2
    assert lines[0].startswith("margin, label_spreading, seed 0: 10 answers")


def test_the_first_questions_of_a_seed_are_the_same_whatever_is_compared(tmp_path: Path) -> None:
    source = write_folder(tmp_path, files(60))
    both = back_test(source, acquisition=["margin", "typiclust"], seeds=2, budget=10)[0]["runs"]
    for seed in (0, 1):
        (margin, typical) = (run["curve"][0] for run in both if run["seed"] == seed)
        assert margin | {"seconds": 0} == typical | {"seconds": 0}


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    for run_ in result["runs"]:
        for point in run_["curve"]:
            point["seconds"] = 0
    return result


@pytest.mark.slow
def test_the_result_is_the_same_with_one_process_and_with_two(tmp_path: Path) -> None:
    source = write_folder(tmp_path, files(60))
    plan: dict[str, Any] = {"acquisition": ["margin", "bald"], "seeds": 2, "budget": 40, "target_precision": [0.7]}
    one, lines = back_test(source, **plan)
    two, said = back_test(source, processes=2, **plan)
    assert without_seconds(one) == without_seconds(two)
    assert sorted(line.rsplit(",", 1)[0] for line in said) == sorted(line.rsplit(",", 1)[0] for line in lines)


def test_what_was_finished_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = write_folder(tmp_path / "set", files(30)), tmp_path / "work"
    plan: dict[str, Any] = {"acquisition": ["margin", "random_sampling"], "seeds": 2, "folder": folder}
    shares: list[float] = []

    def stop(share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_test(source, advance=stop, **plan)
    finished = sorted(path.name for path in (folder / "runs").glob("*.json"))
    assert len(finished) == 2
    sat: list[str] = []
    runs = simulated_person.runs
    monkeypatch.setattr(simulated_person, "runs", lambda *given: sat.append(given[2].key) or runs(*given))  # type: ignore[func-returns-value]
    shares.clear()
    result, _ = back_test(source, advance=shares.append, **plan)
    assert len(sat) == 2
    assert shares[0] == 0.5  # it goes on from where it was
    assert not {f"{key}.json" for key in sat} & set(finished)
    assert without_seconds(result) == without_seconds(back_test(source, **plan | {"folder": None})[0])
    assert shares[-1] == 1.0


# --- review


def accuracies(curve: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(point["labels"], point["test_accuracy"]) for point in curve]


def test_the_review_takes_one_class_after_another_and_leaves_the_random_checks_alone(tmp_path: Path) -> None:
    source = write_folder(tmp_path, files(100))  # 160 in the pool, 50 of them random checks
    plan: dict[str, Any] = {"budget": 20, "propose_above": 0.5}
    before = back_test(source, **plan)[0]["runs"][0]["curve"]
    curve = back_test(source, review=9, **plan)[0]["runs"][0]["curve"]
    assert accuracies(curve[:2]) == accuracies(before)
    screenfuls = np.diff([point["labels"] for point in curve[1:]])
    # Both classes are easily told apart: one screenful for each, neither of them full, and nothing is left to propose.
    assert len(screenfuls) == 2
    assert screenfuls.max() < SCREENFUL
    assert 20 + screenfuls.sum() == 160 - 50 + 4  # four of the twenty questions were random checks
    assert curve[-1]["test_accuracy"] == 1.0


def test_without_anything_sure_enough_there_is_nothing_to_review(tmp_path: Path) -> None:
    curve = back_test(write_folder(tmp_path, files(20)), review=9, propose_above=1.0)[0]["runs"][0]["curve"]
    assert [point["labels"] for point in curve] == [10, 20]


# --- networks


def test_a_network_is_trained_on_the_pool_without_its_random_checks_and_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Examples, loop.Recipe]] = []

    def train(examples: Examples, recipe: loop.Recipe, policy: Policy, **ignored: Any) -> loop.Trained:
        given.append((examples, recipe))
        net = nets.build("quick", examples.n_classes, 8, mean=torch.zeros(3), std=torch.ones(3))
        return loop.Trained(net, [], 0, 0, "", "")

    monkeypatch.setattr(loop, "train", train)
    result, lines = back_test(
        write_folder(tmp_path, files(50)),
        trainer=["fixmatch"],
        trainer_parameters={"fixmatch": clean_parameters("trainer", "fixmatch", {"threshold": 0.7})},
        minutes=2.0,
        train_at=[5, 20],
    )
    assert [(one["trainer"], [point["labels"] for point in one["curve"]]) for one in result["runs"]] == [
        ("none", [10, 20]),
        ("fixmatch", [10, 20]),  # 5 answers are reached with the first batch
    ]
    assert [line.split(":")[0] for line in lines] == ["margin, seed 0", "margin, fixmatch, seed 0"] * 2
    examples, recipe = given[-1]
    assert (recipe.trainer, recipe.trainer_parameters["threshold"], recipe.seconds) == ("fixmatch", 0.7, 120.0)
    assert len(examples.images) == 80
    assert len(examples.labeled) + len(examples.audit) == 20
    assert len(examples.unlabeled) == 80 - audit_size(80)
    assert np.isin(examples.labeled, examples.unlabeled).all()
    # The class of a picture can be seen: a cat is bright on the left.
    for rows, targets in ((examples.labeled, examples.targets), (examples.audit, examples.audit_targets)):
        left, right = (examples.images[rows][:, :, half].mean(axis=(1, 2, 3)) for half in (slice(0, 4), slice(4, 8)))
        np.testing.assert_array_equal(left < right, targets)


def test_no_network_is_trained_while_one_class_is_labelled(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"trainer": ["supervised"], "budget": 1, "batch": 1}
    (network,) = (
        one for one in back_test(write_folder(tmp_path, files(10)), **plan)[0]["runs"] if one["trainer"] != "none"
    )
    assert [point["test_accuracy"] for point in network["curve"]] == [None]
