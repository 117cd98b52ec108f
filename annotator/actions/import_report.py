"""What became of the files of an import."""

from dataclasses import dataclass, field

LISTED_AT_MOST = 500


@dataclass
class Report:
    """What became of the files: what a page and a command show, and ``Job.result`` keeps.

    labels: files whose label now stands, ``new_labels`` of them written by this attempt. refused: {name, reason} of
    files that did not go in. ignored: litter of operating systems. unlabelled: files whose labels were not taken, with
    the reason. merged: labels that went into a class of a slightly different name. Each lists LISTED_AT_MOST; the
    counts are of all.
    """

    files: int = 0
    imported: int = 0
    duplicates: int = 0
    labels: int = 0
    new_labels: int = 0
    refused_count: int = 0
    ignored_count: int = 0
    unlabelled_count: int = 0
    merged_count: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    unlabelled: list[dict[str, str]] = field(default_factory=list)
    merged: list[dict[str, str]] = field(default_factory=list)
    is_complete: bool = False

    def add(self, kind: str, name: str, reason: str) -> None:
        """Count it, and list it while there is room."""
        setattr(self, f"{kind}_count", getattr(self, f"{kind}_count") + 1)
        listed = getattr(self, kind)
        if len(listed) < LISTED_AT_MOST:
            listed.append({"name": name, "reason": reason})
