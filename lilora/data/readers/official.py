"""The data sets' own files beside the instruction files: what the published test rows leave out.

ScienceQA: options and the right one (`problems.json`) and which questions are the test split (`pid_splits.json`).
TextVQA: ten raters' answers. GQA: the kind of each question. UCIT's captions: every caption of a picture, in COCO's
form, found by the picture's file name where the file has names, else by its number.

Example: {"7": {"choices": ["red", "blue"], "answer": 1}} completes {"question_id": "7"} with {"answer": "B",
"references": ["B"], "options": ["red", "blue"]}.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lilora.data.readers.json_list import read_value
from lilora.data.readers.row import Row, RowError, option_of, outside_options

#: How many people answered each of TextVQA's questions.
RATERS = 10
ROLES = ("scienceqa", "splits", "textvqa", "gqa", "captions")


class Official:
    """What one task's official files say, by question."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Read the files.

        Args:
            paths: role -> file.

        Raises:
            ValueError: a file is not JSON, or not of its data set's form; the message names it.
        """
        self.problems: dict[str, Any] = {}
        self.test_questions: frozenset[str] = frozenset()
        self.raters: dict[str, Any] = {}
        self.raters_by_text: dict[tuple[str, str], Any] = {}
        self.questions: dict[str, Any] = {}
        self.captions: dict[str, list[str]] = {}
        self.captions_by_name: dict[str, list[str]] = {}
        self.roles = tuple(paths)
        for role, path in paths.items():
            if role not in ROLES:
                raise ValueError(f"no official file '{role}'; there are: {', '.join(ROLES)}")
            try:
                getattr(self, f"_read_{role}")(read_value(path))
            except (KeyError, TypeError, AttributeError, IndexError, RecursionError, ValueError) as error:
                raise ValueError(f"{path} is not {_FORMS[role]} ({type(error).__name__}: {error})") from error

    def complete(self, row: Row) -> None:
        """Put into a test row what the official files say of it.

        Raises:
            RowError: they do not know it, or they say something else.
        """
        if "scienceqa" in self.roles:
            self._complete_scienceqa(row)
        if "textvqa" in self.roles:
            self._complete_textvqa(row)
        if "gqa" in self.roles:
            self._complete_gqa(row)
        if "captions" in self.roles:
            self._complete_captions(row)
        if not row.references:
            raise RowError("answer", "no answer")
        if outside_options(row.answer, row.options):
            raise RowError("answer", f"answer {row.answer!r} is none of its {len(row.options)} options")

    def missing(self, question_ids: set[str]) -> list[str]:
        """Questions of the official test split that are not among `question_ids`; evaluators count them as wrong."""
        return sorted(self.test_questions - question_ids)

    def _complete_scienceqa(self, row: Row) -> None:
        problem = self._known(self.problems, row, "problems.json")
        choices, right = problem["choices"], problem["answer"]
        if not isinstance(choices, list) or not choices or any(isinstance(one, (dict, list)) for one in choices):
            raise RowError("official", f"problems.json has no list of choices for it, but {_short(choices)}")
        if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
            raise RowError("official", f"problems.json has answer {_short(right)} of {len(choices)} choices")
        letter = chr(ord("A") + right)
        row.options = [str(choice) for choice in choices]
        row.type = str(problem.get("subject") or row.type)
        named = option_of(row.answer, row.options)
        if row.references and named not in (None, right):
            raise RowError("answer", f"answer {row.answer!r}, but problems.json has {letter}")
        # Evaluators read this file alone; the row's "B." for its "B" would never be right. What is none of the options
        # stays, to be refused by name.
        if not row.references or named is not None:
            row.references, row.answer = [letter], letter

    def _complete_textvqa(self, row: Row) -> None:
        lines = [row.instruction, *row.instruction.split("\n")]
        pairs = [(row.question_id, line.strip().lower()) for line in lines]
        places = [self.raters_by_text[pair] for pair in pairs if pair in self.raters_by_text]
        if row.question_id not in self.raters and not places:
            raise RowError("official", f"question {row.question_id!r} is not in TextVQA_0.5.1_val.json")
        found = self.raters[row.question_id] if row.question_id in self.raters else places[0]
        if not isinstance(found, list) or len(found) != RATERS or not all(isinstance(text, str) for text in found):
            count = f"{len(found)} answers" if isinstance(found, list) else _short(found)
            raise RowError("official", f"TextVQA_0.5.1_val.json has {count} of people, not {RATERS} texts")
        row.raters = found
        if not row.references:
            row.references = [text for text, _ in Counter(found).most_common()]
            row.answer = row.references[0]

    def _complete_gqa(self, row: Row) -> None:
        question = self._known(self.questions, row, "testdev_balanced_questions.json")
        types = question.get("types")
        row.type = str((types.get("structural") if isinstance(types, dict) else "") or row.type)
        answer = question["answer"]
        if not isinstance(answer, str) or not answer.strip():
            raise RowError("official", f"testdev_balanced_questions.json has the answer {_short(answer)}")
        if row.references and row.answer.strip().rstrip(".").lower() != answer.strip().rstrip(".").lower():
            raise RowError("answer", f"answer {row.answer!r}, but testdev_balanced_questions.json has {answer!r}")
        row.references, row.answer = [answer], answer

    def _complete_captions(self, row: Row) -> None:
        name = PurePosixPath(row.image).name if row.image else ""
        found = self.captions_by_name.get(name) or self._known(self.captions, row, "captions")
        # Pictures that are numbered from another number on would give each row its neighbour's captions.
        if row.references and not {text.strip() for text in row.references} & {text.strip() for text in found}:
            what = f"the {len(found)} captions of {name or row.question_id!r}"
            raise RowError("answer", f"answer {row.answer!r} is none of {what} in the caption file")
        row.references, row.answer = found, found[0]

    def _known(self, table: Mapping[str, Any], row: Row, file: str) -> Any:
        if row.question_id not in table:
            raise RowError("official", f"question {row.question_id!r} is not in {file}")
        return table[row.question_id]

    def _read_scienceqa(self, data: Any) -> None:
        for problem in data.values():
            problem["choices"], problem["answer"]
        self.problems = data

    def _read_splits(self, data: Any) -> None:
        self.test_questions = frozenset(str(name) for name in data["test"])

    def _read_textvqa(self, data: Any) -> None:
        for entry in data["data"]:
            answers = entry["answers"]
            self.raters[str(entry["question_id"])] = answers
            self.raters_by_text[str(entry["image_id"]), str(entry["question"]).strip().lower()] = answers

    def _read_gqa(self, data: Any) -> None:
        for question in data.values():
            question["answer"]
        self.questions = data

    def _read_captions(self, data: Any) -> None:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for entry in data["annotations"]:
            found[str(entry["image_id"])].append(str(entry["caption"]))
        self.captions = dict(found)
        named = [
            (PurePosixPath(str(entry["file_name"])).name, str(entry["id"]))
            for entry in data.get("images", ())
            if entry.get("file_name")
        ]
        twice = {name for name, count in Counter(name for name, _ in named).items() if count > 1}
        self.captions_by_name = {name: found[number] for name, number in named if number in found and name not in twice}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


_FORMS = {
    "scienceqa": "ScienceQA's problems.json: {id: {'choices': [...], 'answer': number}}",
    "splits": "ScienceQA's pid_splits.json: {'test': [ids]}",
    "textvqa": "TextVQA's annotation file: {'data': [{'question_id', 'image_id', 'question', 'answers'}]}",
    "gqa": "GQA's question file: {id: {'answer', 'types'}}",
    "captions": "a caption file in COCO's form: {'annotations': [{'image_id', 'caption'}]}",
}
