"""CoIN (arXiv 2403.08350; used by ProgLoRA): eight tasks in a row, in three sets of instructions.

Read from the published files: `Instructions_Original`, `Instructions_Diverse` and `Instructions_10Type`, each with a
folder a task, and the pictures in `cl_dataset` (or beside them). Test rows are in test.json, but in val.json for
TextVQA, VizWiz and VQAv2.
"""

from __future__ import annotations

from lilora.benchmarks import Benchmark, Files, Framing, Paths, Task
from lilora.benchmarks._instructions import COIN

IMAGES = ("cl_dataset", "")


def _official(role: str, *paths: str) -> Paths:
    return (role, *(f"{images}/{path}".lstrip("/") for images in IMAGES for path in paths))


def _task(
    name: str, kind: str, scorer: str, tokens: int, train: int, test: int, test_file: str, image: Framing,
    *official: Paths,
) -> Task:  # fmt: skip
    files = Files((f"{{setting}}/{name}/train.json",), (f"{{setting}}/{name}/{test_file}",), IMAGES, official)
    return Task(
        name, kind, scorer, tokens, train, 1000, test, files=files, test_image=image, templates=COIN[name]
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="coin",
    revision=3,
    tasks=(
        _task("ScienceQA", "option", "scienceqa", 1024, 12000, 4000, "test.json", "crop",
              _official("scienceqa", "ScienceQA/problems.json"), _official("splits", "ScienceQA/pid_splits.json")),
        _task("TextVQA", "vqa", "textvqa", 128, 34000, 5000, "val.json", "pad",
              _official("textvqa", "TextVQA/TextVQA_0.5.1_val.json")),
        _task("ImageNet", "classification", "imagenet", 1024, 129000, 5000, "test.json", "crop"),
        _task("GQA", "vqa", "gqa", 128, 72000, 1000, "test.json", "pad",
              _official("gqa", "GQA/testdev_balanced_questions.json",
                        "GQA/questions1.2/testdev_balanced_questions.json")),
        _task("VizWiz", "vqa", "vqav2", 128, 20000, 8000, "val.json", "pad"),
        _task("Grounding", "grounding", "grounding", 1024, 55000, 31000, "test.json", "crop"),
        _task("VQAv2", "vqa", "vqav2", 1024, 82000, 107000, "val.json", "crop"),
        _task("OCRVQA", "vqa", "ocrvqa", 128, 165000, 100000, "test.json", "pad"),
    ),
    builder="",
    settings={
        "original": ("Instructions_Original",),
        "diverse": ("Instructions_Diverse",),
        "10type": ("Instructions_10Type",),
    },
    train_image="pad",
    home=(
        "The instruction files are the data set Zacks-Chen/CoIN on Hugging Face (repository zackschen/CoIN): keep its "
        "folders Instructions_Original, Instructions_Diverse and Instructions_10Type. Pictures go into cl_dataset/ "
        "(COCO2014/train2014, GQA/images, OCR-VQA/images, TextVQA/train_images, ...), with ScienceQA's problems.json "
        "and pid_splits.json, TextVQA_0.5.1_val.json and GQA's testdev_balanced_questions.json in "
        "cl_dataset/ScienceQA, cl_dataset/TextVQA and cl_dataset/GQA."
    ),
    sizes="CoIN, Table 4, in thousands",
)  # fmt: skip
