"""One exported row, the same in every format.

label: empty for none of these and for images without a label. origin: human, consensus (several people, each without a
proposal), corrected, accepted, imported, auto-accepted, none_of_these, disputed or unlabelled. confidence and
model_version: of the proposal that was accepted, corrected or accepted automatically; without one, None. certificate:
number and words of the promise under which a label was accepted automatically. annotators: who stands behind the
label. seconds: the time they spent on it, where it is known.
"""

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Row:
    item_id: int
    file_name: str
    label: str
    split: str
    sha256: str
    origin: str
    confidence: float | None
    model_version: int | None
    annotators: list[str]
    labelled_at: datetime | None
    seconds: float | None
    certificate: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row with its time as ISO 8601 in UTC."""
        return asdict(self) | {"labelled_at": self.labelled_at.isoformat() if self.labelled_at else None}


COLUMNS = tuple(field.name for field in fields(Row))
