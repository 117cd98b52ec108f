"""How much of people's time each need gets: which one the next question should serve.

Counted in answers, not in places of a ranking: the ranking is written anew every few answers, people hold several
images at once, and no two are equally fast. Each need has an account. An answer to whatever question pays its share
into it, an answer to one of its own takes 1 out; the need that is owed most is served next. What people hold counts
for less than an answer, since nobody knows when it is given.

The account is no table but worked out anew from the newest answers. Old entries fade, so that the oldest answer that
is looked at weighs next to nothing when it falls out, and nothing is owed beyond MOST_OWED: a need that had nothing to
ask for a week gives its share to the informative questions and does not come back as a flood.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import F

from annotator.models import Annotation, Project, ProjectSettings, QueueEntry

Reason = QueueEntry.Reason
# Every other reason is informative: it has what these leave.
NEEDS = (Reason.AUDIT, Reason.BASELINE, Reason.SECOND_OPINION, Reason.SUSPECT, Reason.AUTOMATIC)
# Shares are promised for so many answers in a row.
WINDOW = 200
ROUND_SHARE = 0.5

# So many rows are looked at; after so many answers an entry weighs 1 / e of what it did.
NEWEST, FADES_IN = 3 * WINDOW, WINDOW
DUE, MOST_OWED = 0.5, 3.0
# Of 0.4 to 1, what keeps three people closest to their shares: 1 waits for whoever has left the desk, 0.4 serves a
# need again that two others are about to answer.
HELD_COUNTS = 0.6


def shares(settings: ProjectSettings, *, is_round_running: bool = False) -> dict[str, float]:
    """What each need is to get of the answers, 0..1.

    A running certification round raises that of automatic labels to ROUND_SHARE, or what the others leave: somebody
    started it to have it done, and its 300 checks would take 6,000 answers at a share of 5 %.
    """
    wanted: dict[str, float] = {
        Reason.AUDIT: settings.audit_share,
        Reason.BASELINE: settings.baseline_share,
        Reason.SECOND_OPINION: settings.second_opinion_share,
        Reason.SUSPECT: settings.suspect_share,
        Reason.AUTOMATIC: settings.automatic_share,
    }
    if is_round_running:
        left = 1.0 - sum(wanted.values()) + wanted[Reason.AUTOMATIC]
        wanted[Reason.AUTOMATIC] = max(wanted[Reason.AUTOMATIC], min(ROUND_SHARE, left))
    return wanted


@dataclass(frozen=True)
class Given:
    """One answer to a question of the queue."""

    annotation_id: int
    annotator_id: int
    reason: str


def newest_answers(project: Project) -> list[Given]:
    """Answers that stand among the project's NEWEST rows, oldest first; what was taken back is none, nor is a
    decision, which nobody was asked for. One query.

    Rows are counted, not answers: behind a large import the last answers may lie a million rows back.
    """
    rows = (
        Annotation.objects.filter(project=project)
        .order_by("-id")
        .annotate(then=F("superseded_by__kind"), copied=F("supersedes__created_at"))
    )
    columns = rows.values_list(
        "id", "annotator_id", "reason_code", "kind", "source", "settles_id", "then", "created_at", "copied"
    )
    answers = (Annotation.Kind.LABEL, Annotation.Kind.SKIP, Annotation.Kind.NONE_OF_THESE)
    return [
        Given(pk, annotator_id, reason)
        for pk, annotator_id, reason, kind, source, settles_id, then, given_at, copied in reversed(columns[:NEWEST])
        if reason not in ("", Annotation.DECISION)
        and kind in answers
        and source == Annotation.Source.PERSON
        and settles_id is None
        and then != Annotation.Kind.RETRACTION
        and given_at != copied  # an old answer that was moved with its class is no new one
    ]


class Ledger:
    """The accounts of one moment. held: the reason of each question that is out, and who holds it."""

    def __init__(
        self, shares: dict[str, float], answers: Iterable[str], held: Iterable[tuple[str, int]], annotator_id: int
    ) -> None:
        self.shares = shares
        self.owed = dict.fromkeys(shares, 0.0)
        for reason in answers:
            self._pass(1.0 - 1.0 / FADES_IN, reason)
        out = list(held)
        count = Counter(reason for reason, _ in out)
        people = len({person for _, person in out} | {annotator_id})
        # Each person answers about once before what is handed out now is answered.
        self.ahead = {need: share * people - HELD_COUNTS * count[need] for need, share in shares.items()}

    def _pass(self, kept: float, reason: str) -> None:
        for need, share in self.shares.items():
            self.owed[need] = min(MOST_OWED, kept * self.owed[need] + share) - (need == reason)

    def due(self) -> list[str]:
        """The needs that are to be served now if they have anything to ask, the one that is owed most first."""
        balance = {need: self.owed[need] + self.ahead[need] for need, share in self.shares.items() if share > 0}
        return sorted((need for need in balance if balance[need] >= DUE), key=lambda need: -balance[need])

    def hand_out(self, reason: str) -> None:
        """Another question goes to the same person, to be answered after those already handed out."""
        self._pass(1.0, reason)
