"""Every page there is, as a person with few eyes, a small screen, another colour scheme or another script meets it."""

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.urls import NoReverseMatch, reverse
from playwright.sync_api import Page

from annotator.models import Annotation, Job, Project, Proposal
from tests.browser.accessible import faults
from tests.test_access_matrix import ANYBODY, PAGES

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]

# Addresses that answer with something else than a page: files, pictures, numbers for machines.
NO_PAGES = ("download", "image", "thumbnail", "preview", "health", "metrics", "login-link", "numbers", "points")


# Scripts have run and said what they show.
PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def addresses(project: Project, job: Job) -> Iterator[str]:
    """Every page somebody who is logged in can open by its address."""
    for name, doors in PAGES.items():
        if "GET" not in doors or doors["GET"] == ANYBODY or any(name.endswith(each) for each in NO_PAGES):
            continue
        for given in ({}, {"project_id": project.pk}, {"project_id": project.pk, "job_id": job.pk}):
            try:
                address = reverse(name, kwargs=given)
            except NoReverseMatch:
                continue
            given_class, said_class = project.classes.all()[:2]
            yield address + (f"?label={given_class.pk}&said={said_class.pk}" if name == "confused" else "")
            break


@pytest.fixture
def busy(project: Project, proposals: list[Proposal], answer: Callable[..., Annotation], alice: User) -> Project:
    """A project in which something happened: answers, proposals, a model."""
    cat, dog = project.classes.all()
    answer(alice, proposals[0].item, cat)
    answer(alice, proposals[1].item, dog)
    answer(alice, proposals[2].item, kind="none_of_these")
    return project


@pytest.mark.parametrize(
    ("width", "scheme", "language"), [(360, "dark", "en"), (1280, "light", "en"), (360, "light", "de")]
)
def test_every_page_is_accessible_and_fits(
    visit: Visit, busy: Project, alice: User, width: int, scheme: str, language: str
) -> None:
    job = Job.objects.create(project=busy, kind=Job.Kind.EMBED, state=Job.State.FAILED, error="the disk is full")
    size = {"width": width, "height": 800}
    page = visit(alice, "/", viewport=size, color_scheme=scheme, reduced_motion="reduce", locale=language)
    assert page.evaluate("document.documentElement.lang") == language
    found: dict[str, list[str]] = {}
    seen = 0
    for address in addresses(busy, job):
        answered = page.goto(address)
        assert answered is not None and answered.status == 200, (address, answered and answered.status)
        page.evaluate(PAINTED)
        wrong = faults(page)
        wrong += [f"{width} px wide, but {needed} px are needed" for needed in _too_wide(page)]
        page.evaluate("document.documentElement.dir = 'rtl'")
        wrong += [f"read from the right, {needed} px are needed" for needed in _too_wide(page)]
        if wrong:
            found[address] = wrong
        seen += 1
    assert seen >= 12
    assert not found, "\n".join(f"{address}\n  " + "\n  ".join(wrong) for address, wrong in found.items())


def _too_wide(page: Page) -> list[int]:
    """The width a page needs, where that is more than the screen has."""
    needed, given = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return [needed] if needed > given else []
