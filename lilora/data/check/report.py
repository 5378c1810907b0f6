"""The findings of a check of data: problems with their file and row, files, notes, and pictures that were opened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: What can be wrong, and what to do about it.
REMEDIES = {
    "file": "get the file, and put it where it is looked for",
    "unreadable": "download the file again; it is damaged, or not what its name says",
    "malformed": "mend or remove the row; training refuses the file while it is there",
    "path": "mend the row; a path must be relative and stay below the image folder",
    "picture": "get the picture from its data set's site, under this name below the image folder, or leave its rows "
    'out: Stream(missing="drop")',
    "broken": 'download the picture again, or leave its rows out: Stream(missing="drop")',
    "duplicate": "remove all but one; evaluators that go by the id see one of them",
    "answer": "mend the row; its answer is not among its options, or not the official one",
    "official": "use the official file of the same release as the instruction file",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a kind of `REMEDIES`, the file below the benchmark's folder, the row from 0, and why."""

    kind: str
    file: str
    row: int | None
    text: str


@dataclass(frozen=True)
class FileReport:
    """A file that is there.

    Attributes:
        setting, task, role: what it is for; roles are "train", "test" and those of official files.
        rows: how many; None for official files.
        usable: rows that can be used.
        without_image, several_turns: how many of these rows.
    """

    setting: str
    task: str
    role: str
    file: str
    bytes: int
    sha256: str
    rows: int | None = None
    usable: int | None = None
    without_image: int = 0
    several_turns: int = 0


@dataclass(frozen=True)
class Sample:
    """A picture that was opened: its place, width, height, and SHA-256."""

    file: str
    width: int
    height: int
    sha256: str


@dataclass
class Report:
    """What was found; `problems` is empty if all is well.

    Attributes:
        num_pictures: pictures, each once: files, of which every header was read, and those in rows.
        num_decoded: of these, whose pixels were decoded, now or in an earlier check.
        odd_pictures: how many are odd in each way of `lilora.data.pictures.upright.MEANING`.
    """

    benchmark: str
    folder: str
    files: list[FileReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    num_pictures: int = 0
    num_decoded: int = 0
    odd_pictures: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[str]:
        """Problems by kind."""
        return Counter(problem.kind for problem in self.problems)
