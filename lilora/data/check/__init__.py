"""A check of published data before anything is trained on them: every file, every row, every picture's place.

Nothing is mended and nothing is written. What is wrong is listed with its file and row; what is only worth knowing
(rows of training data that share an id, which nobody reads) is a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lilora.benchmarks import Benchmark, Task
from lilora.benchmarks._instructions import ends_with_template
from lilora.data.check.pictures import PictureCheck, nearly
from lilora.data.check.report import FileReport, Problem, Report
from lilora.data.fingerprints import cache_num_rows, fingerprints
from lilora.data.location import TaskFiles, task_files
from lilora.data.pictures.missing import missing_pictures
from lilora.data.pictures.upright import DEEP, MEANING, ROTATED, TRANSPARENT, UNCLEAR
from lilora.data.published import read_rows
from lilora.data.readers.official import Official
from lilora.data.readers.row import Row, RowError, outside_options

#: Official files whose questions are found by id alone.
BY_ID = {"scienceqa", "gqa", "captions"}
#: Characters of a row that are about 2,048 tokens, the default of `Training.max_tokens`.
LONG = 4 * 2048


def check(
    benchmark: Benchmark,
    folder: Path,
    settings: Sequence[str] = (),
    tasks: Sequence[str] = (),
    num_samples: int = 8,
    all_pictures: bool = False,
    note: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check the data of `benchmark` in `folder`.

    Args:
        settings: instruction settings that must be there; by default those that are, at least one.
        tasks: names; by default all of the stream, and unseen ones that are there.
        num_samples: pictures of each file that are decoded; of all others the header alone is read.
        all_pictures: decode every picture.
        note: told how many pictures of a file are decoded, and of how many, while all of them are.

    Raises:
        ValueError: the benchmark is drawn here, there is no such folder, setting or task.
    """
    if not benchmark.settings:
        raise ValueError(f"benchmark '{benchmark.name}' is drawn when it is needed: there are no files to check")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}. {benchmark.home}")
    for setting in settings:
        benchmark.check_setting(setting)
    checker = _Checker(benchmark, folder, num_samples, note if all_pictures else None)
    for setting in settings or _settings_there(benchmark, folder):
        wanted = [benchmark.task(name) for name in tasks] or [*benchmark.tasks, *benchmark.unseen]
        for task in wanted:
            checker.check_task(task, setting, optional=not tasks and task in benchmark.unseen)
    report, pictures = checker.report, checker.pictures
    report.samples = list(pictures.samples.values())
    report.num_pictures, report.num_decoded = len(pictures.known), pictures.num_decoded
    report.odd_pictures = {way: len(names) for way, names in pictures.odd().items()}
    report.notes += [
        f"{len(names):,} of {len(pictures.known):,} pictures {MEANING[way]} (first: {names[0]}), {_SHOWN_AS[way]}"
        for way, names in pictures.odd().items()
    ]
    return report


#: The two choices of `Stream(pictures=...)`, for a picture that is odd in one way.
_SHOWN_AS = {
    ROTATED: 'and are learned as they lie; Stream(pictures="upright") turns them',
    TRANSPARENT: 'and show the colours that are stored below; Stream(pictures="upright") puts them on white',
    DEEP: 'of which all above 255 is white; Stream(pictures="upright") scales them to 8',
    UNCLEAR: 'of which all above 255 is white; Stream(pictures="upright") refuses them',
}


def _num_characters(row: Row) -> int:
    return len(row.instruction) + len(row.answer) + sum(len(text) for turn in row.turns for text in turn)


def _settings_there(benchmark: Benchmark, folder: Path) -> list[str]:
    """Settings of which any file is there; the first where none is."""
    there = []
    for setting in benchmark.settings:
        files = [task_files(benchmark, task, setting, folder) for task in (*benchmark.tasks, *benchmark.unseen)]
        if any(found.train or found.test for found in files):
            there.append(setting)
    return there or list(benchmark.settings)[:1]


class _Checker:
    """Collects a report; what several files share is looked at once."""

    def __init__(
        self, benchmark: Benchmark, folder: Path, num_samples: int, note: Callable[[int, int], None] | None
    ) -> None:
        self.benchmark, self.folder = benchmark, folder
        self.report = Report(benchmark.name, str(folder))
        self.listings: dict[Path, dict[str, frozenset[str]]] = {}
        self.seen: set[str] = set()
        self.pictures = PictureCheck(self.name, num_samples, note)

    def check_task(self, task: Task, setting: str, optional: bool) -> None:
        """One task in one setting."""
        files = task_files(self.benchmark, task, setting, self.folder)
        if optional and files.train is None and files.test is None:
            self.note(f"{setting}: {task.name} is not there; only studies that name it need it")
            return
        for name in files.missing:
            if name not in self.seen:
                self.seen.add(name)
                self.problem("file", name, None, f"needed for {task.name} ({setting} instructions)")
        official = self.official(task, setting, files)
        for split, path in (("train", files.train), ("test", files.test)):
            if path is not None:
                self.check_rows(task, setting, split, path, files.images, official)

    def official(self, task: Task, setting: str, files: TaskFiles) -> Official | None:
        """The task's official files, read; None if one is broken."""
        for role, path in sorted(files.official.items()):
            if self.name(path) not in self.seen:
                self.seen.add(self.name(path))
                self.report.files.append(self.about(setting, task.name, role, path))
        try:
            return Official(files.official)
        except (ValueError, OSError) as error:
            place = next((self.name(path) for path in files.official.values() if str(path) in str(error)), task.name)
            if f"unreadable {place}" not in self.seen:
                self.seen.add(f"unreadable {place}")
                self.problem("unreadable", place, None, str(error))
            return None

    def check_rows(
        self, task: Task, setting: str, split: str, path: Path, images: Path | None, official: Official | None
    ) -> None:
        """Every row of a file."""
        rows: list[Row] = []
        number = 0
        try:
            for row in read_rows(path, split, task):
                number += 1
                if isinstance(row, Row):
                    self.check_answer(row, split, path, official)
                    rows.append(row)
                else:
                    self.problem(row[1].kind, self.name(path), row[0], str(row[1]))
        except (ValueError, OSError) as error:
            self.problem("unreadable", self.name(path), None, str(error))
            return
        if not number:
            self.problem("unreadable", self.name(path), None, "it has no rows")
        self.check_ids(task, split, path, rows)
        templates = task.templates.get(setting, ())
        odd = sum(not ends_with_template(row.instruction, templates) for row in rows) if templates else 0
        if odd and task.kind != "grounding":
            self.note(f"{self.name(path)}: {odd} of {len(rows)} rows end with no instruction known for '{setting}'")
        long = [row.number for row in rows if _num_characters(row) > LONG] if split == "train" else []
        if long:
            self.note(
                f"{self.name(path)}: {len(long)} rows have over {LONG:,} characters (first: row {long[0]}), about "
                "2,048 tokens; training cuts off what is beyond `training.max_tokens`"
            )
        if official is not None and split == "test":
            absent = official.missing({row.question_id for row in rows})
            if absent:
                self.note(
                    f"{self.name(path)}: {len(absent)} questions of the official test split are not in it (first: "
                    f"{absent[0]}); the published evaluator counts them as wrong"
                )
        if images is not None:
            self.check_pictures(path, rows, images)
        self.report.files.append(
            self.about(
                setting,
                task.name,
                split,
                path,
                number,
                len(rows),
                sum(row.image is None and row.picture is None for row in rows),
                sum(bool(row.turns) for row in rows),
            )
        )
        cache_num_rows(path, number)

    def check_answer(self, row: Row, split: str, path: Path, official: Official | None) -> None:
        """A test row against the official files; a training row's answer against its options."""
        if split == "test" and official is not None:
            try:
                official.complete(row)
            except RowError as error:
                self.problem(error.kind, self.name(path), row.number, str(error))
        elif outside_options(row.answer, row.options):
            text = f"answer {row.answer!r} is none of its {len(row.options)} options"
            self.problem("answer", self.name(path), row.number, text)
        if split == "train" and not row.answer and not any(answer for _, answer in row.turns):
            self.problem("answer", self.name(path), row.number, "the answer is empty")

    def check_ids(self, task: Task, split: str, path: Path, rows: Sequence[Row]) -> None:
        """Test questions that are there twice; of training rows, which nobody finds by id, only how many."""
        assert task.files is not None
        alone = any(role in BY_ID for role, *_ in task.files.official)
        first: dict[tuple[str, str], int] = {}
        repeated = 0
        for row in rows:
            key = (row.question_id, "" if alone or split == "train" else row.instruction)
            if not row.question_id:
                continue
            if key not in first:
                first[key] = row.number
            elif split == "train":
                repeated += 1
            else:
                text = f"question {row.question_id!r} is in row {first[key]} already"
                self.problem("duplicate", self.name(path), row.number, text)
        if repeated:
            self.note(f"{self.name(path)}: {repeated} rows share an id with an earlier one; training does not go by it")

    def check_pictures(self, path: Path, rows: Sequence[Row], images: Path) -> None:
        """That every picture is there and can be used (`lilora.data.check.pictures`)."""
        missing = missing_pictures(rows, images, self.listings.setdefault(images, {}))
        for row in missing:
            self.problem("picture", self.name(path), row.number, self.not_there(str(row.image), images))
        lost = {row.number for row in missing}
        there = [row for row in rows if (row.image or row.picture) and row.number not in lost]
        for row, why in self.pictures.faults(there, images, self.name(path)):
            self.problem("broken", self.name(path), row.number, why)

    def not_there(self, image: str, images: Path) -> str:
        """That a picture is missing, and what lies beside its place under nearly its name."""
        folder, _, name = image.rpartition("/")
        names = self.listings[images].get(folder)
        if names is None:
            names = (
                frozenset(item.name for item in (images / folder).iterdir())
                if (images / folder).is_dir()
                else frozenset()
            )
            self.listings[images][folder] = names
        other = nearly(name, names)
        return f"{image} is not in {self.name(images)}" + (f", but {other} is" if other else "")

    def about(self, setting: str, task: str, role: str, path: Path, *counts: int) -> FileReport:
        """A file's place, size, SHA-256 and counts."""
        size = path.stat().st_size if path.is_file() else sum(item.stat().st_size for item in path.rglob("*"))
        [digest] = fingerprints([path])
        return FileReport(setting, task, role, self.name(path), size, digest, *counts)

    def problem(self, kind: str, file: str, row: int | None, text: str) -> None:
        """Note something wrong."""
        self.report.problems.append(Problem(kind, file, row, text))

    def note(self, text: str) -> None:
        """Note what is only worth knowing, once."""
        if text not in self.report.notes:
            self.report.notes.append(text)

    def name(self, path: Path) -> str:
        """`path` below the benchmark's folder."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)
