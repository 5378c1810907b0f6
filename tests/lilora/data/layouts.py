"""Small data in exactly the published layouts: a few rows a task with every quirk, and pictures drawn here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lilora.benchmarks._instructions import COIN, PLACES_FIVE, PLACES_SINGLE
from lilora.benchmarks._kinds import KINDS

COLOURS = ("red", "green", "blue", "white")
LETTERS = "ABCD"
Ask = Callable[[str, int], str]


def draw(path: Path, index: int) -> str:
    """A picture of a shape, another for each `index`; gives its colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.Random(f"{path.name} {index}")
    colour = COLOURS[index % 4]
    image = Image.new("RGB", (40 + index % 7, 32), (20, 20, 20))
    left, top = noise.randrange(4, 14), noise.randrange(4, 12)
    ImageDraw.Draw(image).rectangle((left, top, left + 18, top + 14), fill=colour)
    image.save(path)
    return colour


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def chat(text: str, answer: str, image: str | None = None, identity: str = "") -> dict[str, Any]:
    """A training row in LLaVA's form."""
    asked = f"<image>\n{text}" if image else text
    row: dict[str, Any] = {"id": identity, "conversations": [{"from": "human", "value": asked}]}
    row["conversations"].append({"from": "gpt", "value": answer})
    return row | ({"image": image} if image else {})


class Tree:
    """Writes a benchmark's tasks below `root`; `ask(kind or task, index)` is the template of a row."""

    def __init__(self, root: Path, instructions: Path, images: str, ask: Ask, rows: int, tests: int) -> None:
        self.root, self.instructions, self.images, self.ask = root, instructions, root / images, ask
        self.rows, self.tests = rows, tests

    def picture(self, name: str, index: int) -> str:
        return draw(self.images / name, index)

    def write(
        self, task: str, train: list[Any], test: list[Any], test_file: str, train_file: str = "train.json"
    ) -> None:
        if train:
            dump(self.instructions / task / train_file, train)
        dump(self.instructions / task / test_file, test)

    def science_qa(self) -> None:
        """Some rows without a picture; the right letter is in problems.json too."""
        problems, train, test = {}, [], []
        for index in range(self.rows + self.tests):
            part = "train" if index < self.rows else "test"
            name = f"ScienceQA/images/{part}/{index}/image.png"
            image = None if index % 3 == 2 else name
            colour = self.picture(name, index) if image else COLOURS[index % 4]
            options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, COLOURS, strict=True))
            text = f"Which colour is it?\n{options}\n{self.ask('ScienceQA', index)}"
            letter = LETTERS[COLOURS.index(colour)]
            problems[str(index)] = {
                "question": "Which colour is it?", "choices": list(COLOURS), "answer": COLOURS.index(colour),
                "hint": "", "image": "image.png" if image else None, "split": part, "subject": "natural science",
            }  # fmt: skip
            if part == "train":
                train.append(chat(text, letter, image, str(index)))
            else:
                test.append(
                    {"question_id": str(index), "text": text, "answer": letter} | ({"image": image} if image else {})
                )
        self.write("ScienceQA", train, test, "test.json")
        dump(self.images / "ScienceQA" / "problems.json", problems)
        ids = [str(index) for index in range(self.rows + self.tests)]
        splits = {"train": ids[: self.rows], "val": [], "test": [*ids[self.rows :], "9999"]}
        dump(self.images / "ScienceQA" / "pid_splits.json", splits)

    def text_vqa(self) -> None:
        """A picture's id is its questions' id; ten raters in the official file; one row of two turns."""
        train = []
        for index in range(self.rows):
            name = f"TextVQA/train_images/{index:016x}.jpg"
            colour = self.picture(name, index)
            train.append(chat(f"what word is it?\n{self.ask('TextVQA', index)}", colour, name))
        train[0]["conversations"] += [{"from": "human", "value": "is it dark?"}, {"from": "gpt", "value": "no"}]
        test, official = [], []
        for index in range(self.tests):
            picture = f"{1000 + index // 2:016x}"
            colour = self.picture(f"TextVQA/train_images/{picture}.jpg", 1000 + index // 2)
            question = ("what word is it?", "What is the sign?")[index % 2]
            text = f"{question}\nReference OCR token: {colour}\n{self.ask('TextVQA', index)}"
            test.append(
                {"question_id": picture, "image": f"TextVQA/train_images/{picture}.jpg", "text": text, "answer": colour}
            )
            official.append({
                "question_id": 34602 + index, "image_id": picture, "question": question,
                "answers": [colour] * 7 + ["sign", "sign", "unanswerable"],
            })  # fmt: skip
        self.write("TextVQA", train, test, "val.json")
        dump(self.images / "TextVQA" / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": official})

    def captions(self, task: str = "Flickr30k", folder: str = "Flickr30k/flickr30k-images", train: bool = True) -> None:
        """Five captions a test picture."""
        rows, test = [], []
        for index in range(self.rows if train else 0):
            name = f"{folder}/{index}.jpg"
            rows.append(chat(self.ask(task, index), f"A {self.picture(name, index)} box in the dark.", name))
        for index in range(self.tests):
            name = f"{folder}/{5000 + index}.jpg"
            colour = self.picture(name, index)
            texts = [
                f"A {colour} box in the dark.",
                f"One {colour} box.",
                f"A box of {colour}.",
                "A box.",
                "A dark picture.",
            ]
            test.append({"question_id": index, "image": name, "text": self.ask(task, index), "answer": texts})
        self.write(task, rows, test, "val.json")

    def names(self, task: str, folder: str, test_file: str, train_files: tuple[str, ...] = ("train.json",)) -> None:
        """A class a picture, the whole question in the template."""
        made = {}
        for part, count in (("train", self.rows), ("val", self.tests)):
            made[part] = []
            for index in range(count):
                name = f"{folder}/{part}/n{index % 4:08d}/{index}.JPEG"
                made[part].append((name, self.picture(name, index)))
        train = [chat(self.ask(task, index), colour, name) for index, (name, colour) in enumerate(made["train"])]
        test = [
            {"question_id": index, "image": f"./{name}", "text": self.ask(task, index), "answer": colour}
            for index, (name, colour) in enumerate(made["val"])
        ]
        for file in train_files:
            self.write(task, train, test, test_file, file)

    def questions(self, task: str, folder: str, test_file: str, train: bool = True) -> list[dict[str, Any]]:
        """Short answers; a test row's answer is one text. Gives the test rows."""
        rows = []
        for index in range(self.rows if train else 0):
            name = f"{folder}/{index}.jpg"
            rows.append(chat(f"What colour is the box?\n{self.ask(task, index)}", self.picture(name, index), name))
        test = []
        for index in range(self.tests):
            name = f"{folder}/{9000 + index}.jpg"
            text = f"What colour is the box?\n{self.ask(task, index)}"
            test.append(
                {"question_id": f"{task}{index}", "image": name, "text": text, "answer": self.picture(name, index)}
            )
        self.write(task, rows, test, test_file)
        return test

    def gqa(self) -> None:
        rows = self.questions("GQA", "GQA/images", "test.json")
        kinds = ("query", "verify")
        official = {
            row["question_id"]: {
                "question": "What colour is the box?", "answer": row["answer"], "fullAnswer": f"It is {row['answer']}.",
                "imageId": "1", "isBalanced": True, "types": {"structural": kinds[index % 2], "semantic": "attr"},
            }
            for index, row in enumerate(rows)
        }  # fmt: skip
        dump(self.images / "GQA" / "testdev_balanced_questions.json", official)

    def grounding(self) -> None:
        """Boxes on the padded square, as text; the picture's size beside them."""
        train, test = [], []
        for index in range(self.rows + self.tests):
            name = f"COCO2014/train2014/COCO_train2014_{index:012d}.jpg"
            colour = self.picture(name, index)
            box = [0.1, 0.25, round(0.5 + index % 4 / 10, 2), 0.75]
            text = f"{self.ask('Grounding', index)}: the {colour} box."
            if index < self.rows:
                train.append(chat(text, str(box), name))
            else:
                test.append(
                    {
                        "question_id": index,
                        "image": name,
                        "text": text,
                        "answer_bbox": str(box),
                        "size": [40 + index % 7, 32],
                    }
                )
        self.write("Grounding", train, test, "test.json")


_KINDS = {
    "ScienceQA": "option", "Flickr30k": "caption", "TextCaps": "caption", "ImageNet": "classification",
    "Places365": "classification",
}  # fmt: skip


def cvit(
    root: Path, rows: int = 12, tests: int = 8, settings: tuple[str, ...] = ("Single", "Five"), unseen: bool = True
) -> Path:
    """The CVIT benchmark's tree."""
    for setting in settings:

        def ask(task: str, index: int, single: bool = setting == "Single") -> str:
            kind = _KINDS.get(task, "vqa")
            if task == "Places365":
                return PLACES_SINGLE if single else PLACES_FIVE[index % 5]
            return KINDS[kind].single if single else KINDS[kind].five[index % 5]

        tree = Tree(root, root / "CVIT_benchmark" / f"Instructions_{setting}", "dataset", ask, rows, tests)
        tree.science_qa()
        tree.text_vqa()
        tree.captions()
        tree.names("ImageNet", "ImageNet_withlabel", "test.json")
        tree.gqa()
        tree.questions("VQAv2", "COCO2014/train2014", "val.json")
        if unseen:
            tree.names("Places365", "Places365", "val.json", ("train_5shot.json", "train_10shot.json"))
            tree.questions("VizWiz", "VizWiz/val", "val.json", train=False)
            tree.captions("TextCaps", "TextCaps/train_images", train=False)
            tree.questions("OCRVQA", "OCR-VQA/images", "test.json", train=False)
    return root


def coin(
    root: Path, rows: int = 12, tests: int = 8, settings: tuple[str, ...] = ("Original", "Diverse", "10Type")
) -> Path:
    """CoIN's tree."""
    for setting in settings:

        def ask(task: str, index: int, key: str = setting.lower()) -> str:
            texts = COIN[task].get(key) or COIN[task]["original"]
            return texts[index % len(texts)]

        tree = Tree(root, root / f"Instructions_{setting}", "cl_dataset", ask, rows, tests)
        tree.science_qa()
        tree.text_vqa()
        tree.names("ImageNet", "ImageNet_withlabel", "test.json")
        tree.gqa()
        tree.questions("VizWiz", "VizWiz/train", "val.json")
        tree.grounding()
        tree.questions("VQAv2", "COCO2014/train2014", "val.json")
        tree.questions("OCRVQA", "OCR-VQA/images", "test.json")
    return root


def ucit(root: Path, rows: int = 12, tests: int = 8) -> Path:
    """UCIT's tree: train files of three names, captions of the test pictures in COCO's form."""

    def ask(task: str, index: int) -> str:
        captions = task in ("Flickr30k", "VizWiz")
        return "Describe the picture in a sentence." if captions else KINDS["vqa"].single

    tree = Tree(root, root / "instructions", "datasets", ask, rows, tests)
    tree.names("ImageNet-R", "ImageNet-R", "test_3000.json")
    tree.questions("IconQA", "IconQA/iconqa_data/iconqa", "test_3000.json")
    for task, file in (("ArxivQA", "train_4w.json"), ("CLEVR", "train_4w.json")):
        tree.questions(task, f"{task}/images", "test_3000.json")
        (tree.instructions / task / "train.json").rename(tree.instructions / task / file)
    for task, file in (("VizWiz", "train.json"), ("Flickr30k", "train_brief_4w.json")):
        tree.captions(task, f"{task}/train")
        folder = tree.instructions / task
        (folder / "train.json").replace(folder / file)
        test = json.loads((folder / "val.json").read_text())
        notes = [{"image_id": row["question_id"], "caption": text} for row in test for text in row["answer"]]
        dump(folder / "val_coco_type_3000.json", {"images": [], "annotations": notes})
        dump(folder / "test_3000.json", [row | {"answer": row["answer"][0]} for row in test])
        (folder / "val.json").unlink()
    return root
