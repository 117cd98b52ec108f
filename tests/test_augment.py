"""Views of a batch: what each operation does, what chance decides, and what a policy forbids."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ml_worker import augment
from ml_worker.augment import OPERATIONS, TONES, Policy, harder, strong, weak

EVERYTHING = Policy(flip=True, shift=0.25, rotate_deg=30, shear=0.3, translate=0.3, tone=True, colour=True, cutout=0.5)
NOTHING = Policy(flip=False, shift=0, rotate_deg=0, shear=0, translate=0, tone=False, colour=False, cutout=0)
VIEWS = (weak, strong, harder)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int = 16, side: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=seeded(seed))


def plane(rows: list[list[float]]) -> Tensor:
    """One image whose channels are all these levels, float32 (1, 3, H, W)."""
    return torch.tensor(rows, dtype=torch.float32).expand(1, 3, -1, -1).clone()


def toned(name: str, levels: Tensor, strength: float) -> Tensor:
    return TONES[name](levels.clone(), torch.full((len(levels), 1, 1, 1), strength))


def turned(levels: Tensor, rotate: float = 0, shear: Any = (0, 0), translate: Any = (0, 0)) -> Tensor:
    two = torch.tensor([shear, translate], dtype=torch.float32)
    return augment.transformed(levels.clone(), torch.tensor([float(rotate)]), two[:1], two[1:])


def close(found: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=torch.float32).expand_as(found), atol=2e-3, rtol=0)


# --- what every view keeps to


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "shape", [(0, 3, 8, 8), (1, 3, 1, 1), (3, 3, 1, 1), (5, 3, 2, 3), (9, 3, 16, 10), (2, 3, 33, 33)]
)
def test_a_view_is_float32_in_0_to_1_of_the_shape_it_was(view: Any, shape: tuple[int, ...]) -> None:
    for seed in range(5):
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))
        kept = images.clone()
        views = view(images, EVERYTHING, seeded(seed))
        assert views.shape == shape
        assert views.dtype == torch.float32
        assert torch.isfinite(views).all()
        assert ((views >= 0) & (views <= 1)).all()
        assert torch.equal(images, kept)


@pytest.mark.parametrize("view", VIEWS)
def test_the_same_seed_gives_the_same_views_whatever_the_input_looks_like(view: Any) -> None:
    images = photos()
    wanted = view(images, EVERYTHING, seeded(3))
    assert torch.equal(view(images, EVERYTHING, seeded(3)), wanted)
    assert not torch.equal(view(images, EVERYTHING, seeded(4)), wanted)
    as_stored = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # (B, H, W, 3) in memory
    assert torch.equal(view(as_stored, EVERYTHING, seeded(3)), wanted)
    torch.testing.assert_close(view(images / 255, EVERYTHING, seeded(3)), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view(images, EVERYTHING, seeded(3)), wanted)


@pytest.mark.parametrize("view", VIEWS)
def test_the_number_of_threads_does_not_show(view: Any) -> None:
    images, threads = photos(64, 32), torch.get_num_threads()
    views = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            views.append(view(images, EVERYTHING, seeded()))
            views.append(view(images[:1].repeat(1, 1, 8, 8), EVERYTHING, seeded(5)))  # one image, many pixels
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(views[0], views[2])
    assert torch.equal(views[1], views[3])


@pytest.mark.parametrize("view", VIEWS)
def test_an_accelerator_is_never_waited_for(view: Any) -> None:
    # Tensors on this device have no values: whoever reads one back, or mixes in one of the CPU's, raises.
    views = view(photos().to("meta"), EVERYTHING, seeded())
    assert views.device.type == "meta"
    assert views.shape == (16, 3, 12, 12)


@pytest.mark.parametrize("view", VIEWS)
def test_copies_of_one_image_become_different_views(view: Any) -> None:
    views = view(photos(1).expand(64, -1, -1, -1), EVERYTHING, seeded())
    assert len(torch.unique(views.flatten(1), dim=0)) >= (30 if view is weak else 60)  # weak has 2 x 7 x 7


@pytest.mark.parametrize("view", VIEWS)
def test_what_happens_to_an_image_does_not_depend_on_its_neighbours(view: Any) -> None:
    images, others = photos(32), photos(32, seed=1)
    others[7] = images[7]
    assert torch.equal(view(images, EVERYTHING, seeded())[7], view(others, EVERYTHING, seeded())[7])


@pytest.mark.parametrize("view", VIEWS)
def test_a_policy_that_allows_nothing_changes_nothing(view: Any) -> None:
    images = photos()
    torch.testing.assert_close(view(images, NOTHING, seeded()), images / 255)


def test_strong_starts_from_the_weak_view_of_the_same_seed() -> None:
    images = photos()
    policy = replace(NOTHING, flip=True, shift=0.25)
    torch.testing.assert_close(strong(images, policy, seeded(2)), weak(images, policy, seeded(2)))
    assert torch.equal(
        strong(images, replace(EVERYTHING, cutout=0), seeded(2), ops=0), weak(images, EVERYTHING, seeded(2))
    )


# --- weak


def test_weak_views_are_the_image_mirrored_and_shifted_with_a_reflected_border() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    policy = replace(NOTHING, flip=True, shift=0.25)  # one pixel
    found = {tuple(view[0].flatten().tolist()) for view in weak(image.expand(500, -1, -1, -1), policy, seeded()) * 255}
    padded = torch.nn.functional.pad(image[:, :1].float(), (1, 1, 1, 1), mode="reflect")[0, 0]
    wanted = set()
    for down in range(3):
        for right in range(3):
            window = padded[down : down + 4, right : right + 4]
            wanted |= {tuple(window.flatten().tolist()), tuple(window.flip(1).flatten().tolist())}
    assert {tuple(round(level, 3) for level in view) for view in found} == wanted
    assert len(wanted) == 18


@pytest.mark.parametrize("view", VIEWS)
def test_without_flip_nothing_is_ever_mirrored(view: Any) -> None:
    brighter_right = torch.arange(0, 240, 20).to(torch.uint8).expand(200, 3, 12, 12)
    policy = replace(EVERYTHING, colour=False, tone=False, translate=0, cutout=0, shift=0.125)

    def share_mirrored(policy: Policy) -> float:
        views = view(brighter_right, policy, seeded())
        return float((views[..., 6:].mean(dim=(1, 2, 3)) < views[..., :6].mean(dim=(1, 2, 3))).float().mean())

    assert share_mirrored(replace(policy, flip=False)) == 0
    assert 0.35 < share_mirrored(policy) < 0.65


# --- each operation, by hand


def test_turning_by_a_quarter_is_clockwise_and_exact() -> None:
    levels = plane([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    close(turned(levels, rotate=90)[0, 0], [[13, 9, 5, 1], [14, 10, 6, 2], [15, 11, 7, 3], [16, 12, 8, 4]])


def test_a_translation_moves_right_and_down_and_leaves_grey() -> None:
    levels, grey = plane([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]), augment.GREY
    right = turned(levels, translate=(0.25, 0))
    close(right[0, 1], [[grey, 1, 2, 3], [grey, 5, 6, 7], [grey, 9, 10, 11], [grey, 13, 14, 15]])
    down = turned(levels, translate=(0, 0.5))
    close(down[0, 2], [[grey] * 4, [grey] * 4, [1, 2, 3, 4], [5, 6, 7, 8]])


def test_a_shear_of_two_thirds_moves_the_outer_rows_by_one_pixel() -> None:
    levels, grey = plane([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]), augment.GREY
    # The outer rows stand 1.5 from the centre: 1.5 * 2/3 = 1 pixel; the inner ones 0.5: a third of a pixel.
    sheared = turned(levels, shear=(2 / 3, 0))[0, 0]
    close(sheared[0], [grey, 1, 2, 3])
    close(sheared[1, 1:], [5 + 2 / 3, 6 + 2 / 3, 7 + 2 / 3])
    close(sheared[3], [14, 15, 16, grey])
    close(turned(levels, shear=(0, 2 / 3))[0, 0, :, 0], [grey, 1, 5, 9])


def test_one_matrix_does_what_one_after_the_other_would() -> None:
    levels = plane([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    for shear in ((2 / 3, 0), (0, 2 / 3), (0.2, 0.1)):
        close(turned(levels, rotate=90, shear=shear), turned(turned(levels, rotate=90), shear=shear))
    close(turned(levels, rotate=90, translate=(0.25, 0)), turned(turned(levels, translate=(0.25, 0)), rotate=90))


def test_brightness_contrast_and_colour_go_towards_black_the_mean_and_grey() -> None:
    levels = plane([[0, 100], [200, 100]])  # mean 100
    close(toned("brightness", levels, 0.5), levels / 2)  # factor 0.05 + 0.9 * 0.5
    close(toned("brightness", levels, 1.0), levels * 0.95)
    close(toned("contrast", levels, 0.5)[0, 0], [[50, 100], [150, 100]])
    close(toned("colour", levels, 0.0), levels)  # nothing to lose
    red = torch.tensor([100.0, 0, 0]).view(1, 3, 1, 1)
    close(toned("colour", red, 0.5)[0, :, 0, 0], [64.95, 14.95, 14.95])  # luma 29.9, half way there
    close(toned("contrast", red, 0.5)[0, :, 0, 0], [65, 15, 15])  # mean luma 30


def test_sharpness_blurs_the_inside_and_leaves_the_border() -> None:
    levels = plane([[0, 0, 0, 0], [0, 130, 0, 0], [0, 0, 0, 0], [0, 0, 0, 130]])
    # Smooth: 5 * 130 / 13 = 50 in the middle (and nothing of the corner), 10 beside it, 20 between both points.
    # Half way: (130 + 50) / 2, 5, 10; the border as it was.
    close(toned("sharpness", levels, 0.5)[0, 0], [[0, 0, 0, 0], [0, 90, 5, 0], [0, 5, 10, 0], [0, 0, 0, 130]])
    assert torch.equal(toned("sharpness", levels[..., :2], 0.5), levels[..., :2])


def test_autocontrast_stretches_each_channel_and_leaves_a_flat_one() -> None:
    levels = plane([[50, 100], [150, 100]])
    levels[0, 1], levels[0, 2] = 77, levels[0, 2] / 2
    stretched = torch.tensor([[0, 127.5], [255, 127.5]])
    close(toned("autocontrast", levels, 0.3)[0], torch.stack([stretched, torch.full((2, 2), 77.0), stretched]))


def test_equalize_spreads_ranks_and_leaves_a_flat_channel() -> None:
    levels = plane([[10, 10, 20, 30], [10, 10, 20, 30]])
    levels[0, 1] = 9
    # Of 8 pixels 4 are at 10, 6 at or below 20, 8 at or below 30: (6 - 4) / (8 - 4) of 255.
    spread = torch.tensor([[0, 0, 127.5, 255], [0, 0, 127.5, 255]])
    close(toned("equalize", levels, 0.3)[0], torch.stack([spread, torch.full((2, 4), 9.0), spread]))


def test_solarize_turns_over_what_is_bright_and_posterize_keeps_the_high_bits() -> None:
    levels = plane([[0, 127, 128, 255]])
    close(toned("solarize", levels, 0.5)[0, 0, 0], [0, 127, 127, 0])  # from 128 on
    close(toned("solarize", levels, 0.0)[0, 0, 0], [255, 128, 127, 0])
    levels = plane([[0, 15, 15.9999, 31, 254, 255]])  # resampling leaves such levels
    close(toned("posterize", levels, 0.0)[0, 0, 0], [0, 0, 16, 16, 240, 240])  # 4 bits
    close(toned("posterize", levels, 0.99)[0, 0, 0], [0, 14, 16, 30, 254, 254])  # 7 bits


def test_each_image_is_darkened_by_its_own_factor() -> None:
    white = torch.full((200, 3, 2, 2), 255, dtype=torch.uint8)  # contrast and sharpness leave it alone
    levels = strong(white, replace(NOTHING, tone=True), seeded()).amax(dim=(1, 2, 3))
    assert 0.65 < (levels < 1).float().mean() < 0.85  # three of four operations
    assert len(levels.unique()) > 100
    assert 0.05 <= levels.min() < 0.1


def test_each_tone_of_an_image_is_its_own() -> None:
    levels = photos(6, 8).float()
    strengths = torch.linspace(0.1, 0.9, 6).view(-1, 1, 1, 1)
    for name, operation in TONES.items():
        together = operation(levels.clone(), strengths)
        alone = torch.cat([operation(levels[i : i + 1].clone(), strengths[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(together, alone, msg=name)


# --- what chance decides


def drawn(policy: Policy, monkeypatch: pytest.MonkeyPatch, ops: int, n: int = 300) -> dict[str, int]:
    """How many of n images each operation was run on."""
    counts = dict.fromkeys(TONES, 0) | {"geometric": 0}

    def counting(name: str, operation: Any) -> Any:
        def counted(levels: Tensor, *rest: Tensor) -> Tensor:
            counts[name] += len(levels)
            return operation(levels, *rest)

        return counted

    with monkeypatch.context() as patch:
        for name, operation in TONES.items():
            patch.setitem(TONES, name, counting(name, operation))
        patch.setattr(augment, "transformed", counting("geometric", augment.transformed))
        strong(photos(n, 4), policy, seeded(), ops)
    return counts


def test_every_operation_is_drawn_about_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = drawn(EVERYTHING, monkeypatch, ops=3)
    expected = 300 * 3 / len(OPERATIONS)
    assert len(OPERATIONS) == 14
    assert all(0.6 * expected < counts[name] < 1.4 * expected for name in TONES)
    # At least one of the five in three draws of fourteen: 1 - (9*8*7)/(14*13*12) = 0.769
    assert 0.69 < counts["geometric"] / 300 < 0.84
    assert set(drawn(EVERYTHING, monkeypatch, ops=99).values()) == {300}
    # Five colour operations forbidden, nine are left, and nine asked for: none of the draws is lost on the forbidden.
    assert sorted(drawn(replace(EVERYTHING, colour=False), monkeypatch, ops=9).values()) == [0] * 5 + [300] * 4


def test_what_a_policy_forbids_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = {"colour", "autocontrast", "equalize", "solarize", "posterize"}
    for policy, forbidden in (
        (replace(EVERYTHING, colour=False), colours),
        (replace(EVERYTHING, tone=False), {"brightness", "contrast", "sharpness"}),
        (replace(EVERYTHING, rotate_deg=0, shear=0, translate=0), {"geometric"}),
    ):
        counts = drawn(policy, monkeypatch, ops=3)
        assert {name for name, count in counts.items() if count == 0} == forbidden


def test_no_rotation_means_upright_and_fifteen_degrees_mean_fifteen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(augment, "transformed", lambda levels, *amounts: seen.append(amounts) or levels)
    strong(photos(300, 4), replace(EVERYTHING, rotate_deg=15, shear=0.2, translate=0.1), seeded())
    strong(photos(300, 4), replace(EVERYTHING, rotate_deg=0), seeded())
    (degrees, shear, translate), (none, _, _) = seen
    assert 13 < degrees.abs().max() <= 15
    assert 0.15 < shear.abs().max() <= 0.2
    assert 0.08 < translate.abs().max() <= 0.1
    assert degrees.min() < 0 < degrees.max()
    assert (none == 0).all()


def test_grey_images_stay_grey_with_colour_off() -> None:
    grey = photos(100)[:, :1].expand(-1, 3, -1, -1)
    for view in VIEWS:
        views = view(grey, replace(EVERYTHING, colour=False), seeded())
        torch.testing.assert_close(views[:, 0], views[:, 1])
        torch.testing.assert_close(views[:, 0], views[:, 2])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_cutout_covers_at_most_its_share_of_each_side(share: float) -> None:
    black = torch.zeros(400, 3, 10, 12, dtype=torch.uint8)
    holes = strong(black, replace(NOTHING, cutout=share), seeded()) > 0
    assert torch.equal(holes[:, 0], holes[:, 2])
    rows, columns = holes[:, 0].any(dim=2).sum(dim=1), holes[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(holes[:, 0].sum(dim=(1, 2)), rows * columns)  # a rectangle
    assert rows.max() == int(share * 10)
    assert columns.max() == int(share * 12)
    assert rows.min() == 0


def test_harder_views_paste_half_of_one_strong_view_over_another() -> None:
    white = torch.full((300, 3, 8, 8), 255, dtype=torch.uint8)
    # All that shows on white is whether a strong view was solarized, to black: the halves tell who is who.
    views = harder(white, replace(NOTHING, colour=True), seeded())
    halves = views.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean(dim=(1, 3, 5)) > 0.5  # (300, 2, 2)
    left_right = ((halves[:, 0] == halves[:, 1]).all(dim=1) & (halves[:, 0, 0] != halves[:, 0, 1])).sum()
    top_bottom = ((halves[:, :, 0] == halves[:, :, 1]).all(dim=1) & (halves[:, 0, 0] != halves[:, 1, 0])).sum()
    whole = (halves.flatten(1) == halves[:, :1, 0]).all(dim=1).sum()
    assert left_right + top_bottom + whole == 300
    assert min(left_right, top_bottom) > 0
    images = photos()
    assert not torch.equal(harder(images, EVERYTHING, seeded()), strong(images, EVERYTHING, seeded()))


# --- policies


def test_digits_are_neither_mirrored_nor_turned_far_nor_recoloured() -> None:
    grey = photos(20, 8)[:, :1].expand(-1, 3, -1, -1)
    for images in (grey, grey.permute(0, 2, 3, 1).numpy(), photos(20, 28)[:, :1].expand(-1, 3, -1, -1)):
        policy = Policy.for_images(images)
        assert not policy.flip
        assert not policy.colour
        assert 0 < policy.rotate_deg <= 15


def test_photographs_get_everything_and_tiny_ones_less_of_it() -> None:
    large, tiny = Policy.for_images(photos(20, 32)), Policy.for_images(photos(20, 12).permute(0, 2, 3, 1).numpy())
    assert large.flip
    assert all(large.allows(name) for name in OPERATIONS)
    assert tiny.flip
    assert tiny.rotate_deg < large.rotate_deg == 30


def test_compression_noise_does_not_make_grey_images_colourful() -> None:
    grey = photos(40, 20)[:, :1].expand(-1, 3, -1, -1).int()
    noise = torch.randint(-2, 3, grey.shape, generator=seeded(1))
    assert not Policy.for_images((grey + noise).clamp(0, 255).to(torch.uint8)).colour


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8), (2, 8, 8, 4)])
def test_a_sample_that_shows_nothing_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="wanted some of"):
        Policy.for_images(torch.zeros(shape, dtype=torch.uint8))


def test_a_policy_survives_json() -> None:
    for policy in (EVERYTHING, NOTHING):
        assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1}, "flip is 1; it must be true or false"),
        ({"shift": "much"}, "shift is 'much'; it must be a number"),
        ({"shear": True}, "shear is True; it must be a number"),
        ({"shift": 0.6}, "shift is 0.6; it must be from 0 to 0.5"),
        ({"rotate_deg": -1}, "rotate_deg is -1; it must be from 0 to 180"),
        ({"cutout": float("nan")}, "cutout is nan; it must be from 0 to 1"),
        ({"sparkle": 1}, "sparkle: unknown"),
    ],
)
def test_a_wrong_policy_says_which_field_and_what_is_wanted(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy.from_json(EVERYTHING.to_json() | change)


def test_an_incomplete_policy_is_refused() -> None:
    stored = EVERYTHING.to_json()
    del stored["tone"]
    with pytest.raises(ValueError, match="tone: missing"):
        Policy.from_json(stored)
    with pytest.raises(ValueError, match="wanted a mapping"):
        Policy.from_json([1])  # type: ignore[arg-type]
