"""Every address, every role, every method: who gets in, and what the others are told.

An address that is missing here fails the first test, so a new one cannot be forgotten.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from annotator.access import LABEL, OWN, REVIEW, VIEW, allows
from annotator.actions import projects, tokens
from annotator.models import Flag, Item, Job, Membership, ModelVersion, Project, Proposal, Role, Round
from tests.cast import make_item

ANYBODY = "anybody"  # nobody has to be logged in
ACCOUNT = "account"  # any account, member of a project or not
NOWHERE = "nowhere"  # there is nothing, whoever asks
OPERATOR = "operator"  # superusers alone, of which there is none here: the others are told to log in by token
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

# Name of the address -> method -> the door. A method that is not there is answered with 405.
PAGES: dict[str, dict[str, str]] = {
    "projects": {"GET": ACCOUNT},
    "login": {"GET": ANYBODY, "POST": ANYBODY},
    "login-link": {"GET": ANYBODY, "POST": ANYBODY},
    "logout": {"POST": ANYBODY},
    "language": {"POST": ANYBODY},
    "tokens": {"GET": ACCOUNT, "POST": ACCOUNT},
    "token-revoke": {"POST": ACCOUNT},
    "project-create": {"GET": ACCOUNT, "POST": ACCOUNT},
    "dashboard": {"GET": VIEW},
    "numbers": {"GET": VIEW},
    "map": {"GET": VIEW, "POST": REVIEW},
    "map-points": {"GET": VIEW},
    "map-choose": {"POST": LABEL},
    "confused": {"GET": REVIEW, "POST": REVIEW},
    "draw-checks": {"POST": OWN},
    "start-round": {"POST": OWN},
    "cancel-round": {"POST": OWN},
    "project-settings": {"GET": OWN, "POST": OWN},
    "project-classes": {"GET": VIEW, "POST": OWN},
    "class-undo": {"POST": LABEL},
    "class-groups": {"GET": REVIEW, "POST": REVIEW},
    "class-discover": {"GET": LABEL, "POST": LABEL},
    "project-members": {"GET": OWN, "POST": OWN},
    "import": {"GET": OWN, "POST": OWN},
    "import-files": {"POST": OWN},
    "item-image": {"GET": VIEW},
    "item-thumbnail": {"GET": VIEW},
    "label": {"GET": LABEL, "POST": LABEL},
    "label-next": {"POST": LABEL},
    "label-undo": {"POST": LABEL},
    "label-renew": {"POST": LABEL},
    "guide": {"GET": VIEW},
    "training": {"GET": VIEW, "POST": REVIEW},
    "training-preview": {"GET": VIEW},
    "job": {"GET": VIEW},
    "job-cancel": {"POST": REVIEW},
    "back-test": {"GET": VIEW, "POST": REVIEW},
    "back-test-download": {"GET": VIEW},
    "review": {"GET": REVIEW, "POST": REVIEW},
    "review-undo": {"POST": REVIEW},
    "flags": {"GET": REVIEW, "POST": REVIEW},
    "item-flag": {"POST": LABEL},
    "suspects": {"GET": REVIEW, "POST": REVIEW},
    "suspects-download": {"GET": REVIEW},
    "export": {"GET": VIEW},
    "export-download": {"GET": VIEW},
    "export-model": {"POST": REVIEW},
    "export-model-download": {"GET": VIEW},
    "health": {"GET": ANYBODY},
    "metrics": {"GET": OPERATOR},
}
API: dict[str, dict[str, str]] = {
    "api-schema": {"GET": ANYBODY},
    "api-docs": {"GET": ANYBODY},
    "api-elsewhere": dict.fromkeys(METHODS, NOWHERE),
    "api-tokens": {"GET": ACCOUNT, "POST": ACCOUNT},
    "api-token": {"DELETE": ACCOUNT},
    "api-projects": {"GET": ACCOUNT, "POST": ACCOUNT},
    "api-project": {"GET": VIEW, "PATCH": OWN},
    "api-classes": {"GET": VIEW, "POST": OWN},
    "api-class": {"PATCH": OWN},
    "api-class-archive": {"POST": OWN},
    "api-class-move": {"POST": OWN},
    "api-class-merge": {"POST": OWN},
    "api-class-examples": {"GET": VIEW, "POST": OWN},
    "api-class-history": {"GET": VIEW},
    "api-class-undo": {"POST": LABEL},
    "api-class-assign": {"POST": LABEL},
    "api-groups": {"POST": LABEL},
    "api-group": {"GET": REVIEW},
    "api-imports": {"POST": OWN},
    "api-items": {"GET": VIEW},
    "api-item": {"GET": VIEW},
    "api-item-image": {"GET": VIEW},
    "api-item-thumbnail": {"GET": VIEW},
    "api-queue": {"GET": LABEL},
    "api-queue-reserve": {"POST": LABEL},
    "api-queue-chosen": {"POST": LABEL, "DELETE": LABEL},
    "api-queue-renew": {"POST": LABEL},
    "api-queue-release": {"POST": LABEL},
    "api-annotations": {"GET": LABEL, "POST": LABEL},
    "api-annotations-undo": {"POST": LABEL},
    "api-jobs": {"GET": VIEW},
    "api-job": {"GET": VIEW},
    "api-job-cancel": {"POST": REVIEW},
    "api-refit": {"POST": REVIEW},
    "api-train": {"POST": REVIEW},
    "api-compare": {"POST": REVIEW},
    "api-models": {"GET": VIEW},
    "api-progress": {"GET": VIEW},
    "api-forecast": {"GET": VIEW},
    "api-back-tests": {"GET": VIEW, "POST": REVIEW},
    "api-back-test": {"GET": VIEW},
    "api-proposals": {"GET": REVIEW},
    "api-proposals-decide": {"POST": REVIEW},
    "api-proposals-undo": {"POST": REVIEW},
    "api-flags": {"GET": REVIEW},
    "api-flag-lower": {"POST": REVIEW},
    "api-item-flag": {"POST": LABEL, "DELETE": LABEL},
    "api-suspects": {"GET": REVIEW},
    "api-gate": {"GET": VIEW},
    "api-certificates": {"GET": VIEW},
    "api-checks": {"POST": OWN},
    "api-rounds": {"GET": VIEW, "POST": OWN},
    "api-round-cancel": {"POST": OWN},
    "api-export": {"GET": VIEW},
    "api-export-model": {"POST": REVIEW},
    "api-export-model-download": {"GET": VIEW},
}
MATRIX = PAGES | API
# Addresses with something inside a project.
WITH_THINGS = (
    "item-image", "item-thumbnail", "job", "job-cancel", "api-item", "api-item-image", "api-item-thumbnail", "api-job",
    "api-job-cancel", "api-class", "api-class-archive", "api-class-move",
    "api-class-merge", "api-class-examples", "api-group", "export-model-download", "api-export-model-download",
    "cancel-round", "api-round-cancel",
    "back-test-download", "api-back-test", "item-flag", "api-item-flag", "api-flag-lower",
)  # fmt: skip
# A POST without a body may be incomplete (422) or come at the wrong time (409): the door was open all the same.
LET_IN = {200, 201, 202, 204, 303, 409, 422}
# A login link that is not one, too many wrong passwords, a redirect to the right page, an upload that is none.
ALSO = {
    "login": {302, 429},
    "login-link": {302, 404},
    "logout": {302},
    "project-members": {302},
    "api-imports": {415},
}
# What is sent where an empty POST would be a question for something that is not there.
SENT = {"project-classes": "do=add&names=fox", "project-members": "do=set&username=vera&role=viewer"}


@dataclass(frozen=True)
class Place:
    """One named address and the names of its arguments."""

    name: str
    arguments: frozenset[str]


def addresses(patterns: list[Any] | None = None, above: frozenset[str] = frozenset()) -> Iterator[Place]:
    """Every address of the site, included ones too."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        arguments = above | set(pattern.pattern.converters)
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, arguments)
        elif isinstance(pattern, URLPattern):
            yield Place(pattern.name or str(pattern.pattern), arguments)


def places() -> dict[str, Place]:
    return {place.name: place for place in addresses()}


def test_every_address_is_in_the_matrix() -> None:
    names = [place.name for place in addresses()]
    assert len(names) == len(set(names)), "two addresses have the same name"
    assert set(names) == set(MATRIX)


# --- the people and the things ------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A project with something of every kind in it, the same again elsewhere, and one person for each role."""

    people: dict[str, User | None]
    here: dict[str, Any]
    elsewhere: dict[str, Any]

    def address(self, name: str, role: str, **other: Any) -> str:
        """The address with the ids of what is here; tokens are the person's own."""
        arguments = self.here | {"uid": "x", "token": "y", "address": "nothing/", "which": "accuracy"} | other
        user = self.people[role]
        if "token_id" in places()[name].arguments and "token_id" not in other:
            arguments["token_id"] = tokens.make_token(user=user, name="test")[0].pk if user else 1
        return reverse(name, kwargs={key: arguments[key] for key in places()[name].arguments})


def _things(project: Project, seed: int) -> dict[str, Any]:
    item = make_item(project, seed)
    label_class = project.classes.first()
    assert label_class is not None
    preview = {"key": item.storage_key, "sha256": item.sha256, "switches": {}}
    job = Job.objects.create(project=project, kind=Job.Kind.EXPORT, result={"preview": preview})
    return {
        "project_id": project.pk,
        "item_id": item.pk,
        "class_id": label_class.pk,
        "job_id": job.pk,
        "round_id": _round(project).pk,
        "flag_id": Flag.objects.create(project=project, item=item).pk,
    }


def _round(project: Project) -> Round:
    model = ModelVersion.objects.create(
        project=project, number=1000, encoder="x", algorithm="x", class_ids=[], label_watermark=0, label_count=0,
        answer_count=0,
    )  # fmt: skip
    return Round.objects.create(
        project=project, number=1, model_version=model, threshold=0.9, share=0.5, size=100, target=0.9,
        confidence=0.95, spent=0.01, stages=[[40, 0, 0.01]],
    )  # fmt: skip


@pytest.fixture
def world(project: Project, alice: User, bob: User, carol: User, vera: User, charlie: User) -> World:
    """alice owns the other project too, so that only the project in the address can refuse her."""
    other = projects.create_project(owner=alice, name="Elsewhere", class_names=["bird"])
    return World(
        people={
            "owner": alice,
            "reviewer": carol,
            "annotator": bob,
            "viewer": vera,
            "outsider": charlie,
            "anonymous": None,
        },
        here=_things(project, 100),
        elsewhere=_things(other, 200),
    )


@pytest.fixture(autouse=True)
def no_failed_logins() -> Iterator[None]:
    """Wrong passwords are counted in the cache, which outlives a test."""
    yield
    cache.clear()


@pytest.fixture
def ask(world: World, client: Client) -> Callable[..., Any]:
    """The answer to somebody: ``ask("viewer", "GET", "dashboard")``."""

    def answer(role: str, method: str, name: str, **other: Any) -> Any:
        user = world.people[role]
        client.logout()
        if user is not None:
            client.force_login(user)
        sent = SENT.get(name, "") if method == "POST" else ""
        response = client.generic(method, world.address(name, role, **other), sent, content_type=_content_type(name))
        if response.streaming:
            b"".join(response)  # read to its end, which closes the file
        return response

    return answer


def _content_type(name: str) -> str:
    return "application/json" if name in API else "application/x-www-form-urlencoded"


# --- the questions ------------------------------------------------------------------------------------------


def expected(name: str, method: str, role: str) -> str:
    """What somebody of this role is told: in, log in, 403, 404 or 405."""
    door = MATRIX[name].get(method)
    if door == NOWHERE:
        return "404"
    if door is None and name in API and name not in ("api-schema", "api-docs"):
        return "log in" if role == "anonymous" else "405"  # the API asks who it is before it says what there is
    if door is None:
        return "405"
    if door == OPERATOR:
        return "log in"
    if door == ANYBODY:
        return "in"
    if role == "anonymous":
        return "log in"
    if door == ACCOUNT:
        return "in"
    if role == "outsider":
        return "404"
    return "in" if allows(role, Role(door)) else "403"


def told(name: str, response: HttpResponse) -> str:
    """The same words for what came back."""
    status = response.status_code
    if name in PAGES and status == 302 and response["Location"].startswith("/login/?next="):
        return "log in"
    if status == 401 and (name in API or name == "metrics"):
        return "log in"
    return "in" if status in LET_IN | ALSO.get(name, set()) else str(status)


@pytest.mark.parametrize("name", MATRIX)
def test_who_gets_in(name: str, world: World, ask: Callable[..., Any]) -> None:
    wrong = []
    for method in METHODS:
        # A method there is not is refused before anybody's role is looked at: two people suffice.
        roles = world.people if method in MATRIX[name] else ("owner", "anonymous")
        for role in roles:
            got, wanted = told(name, ask(role, method, name)), expected(name, method, role)
            if got != wanted:
                wrong.append(f"{method} as {role}: {got}, not {wanted}")
    assert not wrong


@pytest.mark.parametrize("name", WITH_THINGS)
def test_a_thing_of_another_project_is_404_here(name: str, world: World, ask: Callable[..., Any]) -> None:
    for method in MATRIX[name]:
        foreign = {key: value for key, value in world.elsewhere.items() if key != "project_id"}
        assert ask("owner", method, name, **foreign).status_code == 404
        assert ask("owner", method, name, **world.elsewhere).status_code in LET_IN


def test_every_address_with_a_thing_is_asked_for_a_foreign_one() -> None:
    things = {"item_id", "job_id", "class_id", "round_id", "flag_id"}
    with_things = {place.name for place in addresses() if place.arguments & things}
    assert with_things == set(WITH_THINGS)


@pytest.mark.parametrize("name", ["token-revoke", "api-token"])
def test_a_token_of_somebody_else_is_404(name: str, world: World, ask: Callable[..., Any]) -> None:
    hers = tokens.make_token(user=world.people["viewer"], name="hers")[0]  # type: ignore[arg-type]
    (method,) = MATRIX[name]
    assert ask("owner", method, name, token_id=hers.pk).status_code == 404


@pytest.mark.parametrize(
    "name", [name for name in MATRIX if "POST" in MATRIX[name] and MATRIX[name]["POST"] != NOWHERE]
)
def test_a_post_from_another_site_is_refused(name: str, world: World) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.people["owner"])  # type: ignore[arg-type]
    assert client.post(world.address(name, "owner"), content_type=_content_type(name)).status_code == 403


@pytest.mark.parametrize("name", [name for name in MATRIX if {VIEW, LABEL, REVIEW, OWN} & set(MATRIX[name].values())])
def test_an_outsider_cannot_tell_a_project_from_none(name: str, world: World, ask: Callable[..., Any]) -> None:
    """The same words but for the number that was asked for."""
    method = next(iter(MATRIX[name]))
    there, nowhere = world.here["project_id"], 10**9
    seen = ask("outsider", method, name).content.decode()
    unseen = ask("outsider", method, name, project_id=nowhere).content.decode()
    assert _without_tokens(seen, there) == _without_tokens(unseen, nowhere)


def _without_tokens(html: str, project_id: int) -> str:
    html = re.sub(rf"(projects?[ /]){project_id}\b", r"\1N", html)
    return re.sub(r'"x-csrftoken": "\w+"|name="csrfmiddlewaretoken" value="\w+"', "", html)


def test_who_leaves_a_project_is_out_at_once(
    world: World, ask: Callable[..., Any], project: Project, bob: User
) -> None:
    assert ask("annotator", "GET", "dashboard").status_code == 200
    Membership.objects.filter(project=project, user=bob).delete()
    assert ask("annotator", "GET", "dashboard").status_code == 404
    assert ask("annotator", "GET", "api-project").status_code == 404


# --- ids in the body ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label", "api-annotations"])
def test_an_item_of_another_project_cannot_be_answered_here(
    name: str, world: World, client: Client, project: Project
) -> None:
    client.force_login(world.people["owner"])  # type: ignore[arg-type]
    foreign, once, label_class = world.elsewhere["item_id"], str(uuid.uuid4()), world.here["class_id"]
    address = reverse(name, args=[project.pk])
    if name == "label":
        body = {"item": foreign, "uuid": once, "answer": f"class:{label_class}"}
        answered = client.post(address, body)
    else:
        body = {"item": foreign, "uuid": once, "kind": "label", "value": {"class": label_class}}
        answered = client.post(address, body, content_type="application/json")
    assert answered.status_code == 404
    assert Item.objects.get(pk=foreign).state == Item.State.OPEN


def test_a_class_of_another_project_is_no_answer_here(world: World, client: Client, project: Project) -> None:
    client.force_login(world.people["owner"])  # type: ignore[arg-type]
    body = {
        "item": world.here["item_id"],
        "uuid": str(uuid.uuid4()),
        "kind": "label",
        "value": {"class": world.elsewhere["class_id"]},
    }
    address = reverse("api-annotations", args=[project.pk])
    assert client.post(address, body, content_type="application/json").status_code == 422


def test_a_proposal_of_another_project_cannot_be_decided_here(
    world: World, client: Client, project: Project, proposals: list[Proposal]
) -> None:
    client.force_login(world.people["owner"])  # type: ignore[arg-type]
    address = reverse("api-proposals-decide", args=[world.elsewhere["project_id"]])
    assert client.post(address, {"accepted": [proposals[0].pk]}, content_type="application/json").status_code == 404
    proposals[0].refresh_from_db()
    assert proposals[0].state == Proposal.State.PENDING
