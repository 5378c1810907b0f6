"""CVIT (SMoLoRA, arXiv 2411.13949; used by LiLoRA): six tasks in a row, with one instruction template a task or five.

Read from the published files. Beside the stream are its unseen tasks: Places365 with 5 or 10 shots a class, and VizWiz,
TextCaps and OCRVQA, which have test rows alone. The folder of the five-type files is not named in the release's
scripts: any of the names below will do.
"""

from __future__ import annotations

from lilora.benchmarks import Benchmark, Files, Framing, Paths, Task
from lilora.benchmarks._instructions import PLACES_FIVE, PLACES_SINGLE
from lilora.benchmarks._kinds import kind_named

IMAGES = ("dataset", "datasets")


def _below(folder: str, *names: str) -> Paths:
    return tuple(
        f"{root}{{setting}}/{folder}/{name}" for root in ("CVIT_benchmark/", "") for name in names
    )  # fmt: skip


def _official(role: str, *paths: str) -> Paths:
    return (role, *(f"{images}/{path}" for images in IMAGES for path in paths))


def _task(
    name: str, kind: str, scorer: str, tokens: int, train: int, test: int, test_file: str, image: Framing,
    *official: Paths, train_file: str = "train.json", folder: str = "",
) -> Task:  # fmt: skip
    places = name.startswith("Places365")
    return Task(
        name, kind, scorer, tokens, train, 1000 if train else 0, test,
        files=Files(
            train=_below(folder or name, train_file) if train else (),
            test=_below(folder or name, test_file),
            images=IMAGES,
            official=official,
        ),
        test_image=image,
        templates={
            "single": (PLACES_SINGLE,) if places else (kind_named(kind).single,),
            "five": PLACES_FIVE if places else kind_named(kind).five,
        },
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="cvit",
    revision=3,
    tasks=(
        _task("ScienceQA", "option", "scienceqa", 1024, 12726, 4241, "test.json", "crop",
              _official("scienceqa", "ScienceQA/problems.json"), _official("splits", "ScienceQA/pid_splits.json")),
        _task("TextVQA", "vqa", "textvqa", 128, 34602, 5000, "val.json", "pad",
              _official("textvqa", "TextVQA/TextVQA_0.5.1_val.json")),
        _task("Flickr30k", "caption", "flickr30k", 128, 29000, 1014, "val.json", "pad"),
        _task("ImageNet", "classification", "imagenet_cvit", 1024, 129000, 5000, "test.json", "crop"),
        _task("GQA", "vqa", "gqa", 128, 72000, 12578, "test.json", "pad",
              _official("gqa", "GQA/testdev_balanced_questions.json",
                        "GQA/questions1.2/testdev_balanced_questions.json")),
        _task("VQAv2", "vqa", "vqav2", 1024, 82000, 107000, "val.json", "crop"),
    ),
    builder="",
    unseen=(
        _task("Places365-5shot", "classification", "imagenet_cvit", 1024, 1825, 36500, "val.json", "crop",
              train_file="train_5shot.json", folder="Places365"),
        _task("Places365-10shot", "classification", "imagenet_cvit", 1024, 3650, 36500, "val.json", "crop",
              train_file="train_10shot.json", folder="Places365"),
        _task("VizWiz", "vqa", "vqav2", 128, 0, 8000, "val.json", "pad"),
        _task("TextCaps", "caption", "textcaps", 128, 0, 3166, "val.json", "pad"),
        _task("OCRVQA", "vqa", "ocrvqa", 128, 0, 100000, "test.json", "pad"),
    ),
    settings={
        "single": ("Instructions_Single",),
        "five": ("Instructions_Five", "Instructions_Multi", "Instructions_5Type"),
    },
    train_image="pad",
    home=(
        "The instruction files are the data set zackie29/SMoLoRA on Hugging Face (repository Minato-Zackie/SMoLoRA): "
        "put them in CVIT_benchmark/. Pictures come from each data set's own site and go into dataset/, with "
        "ScienceQA's problems.json and pid_splits.json, TextVQA_0.5.1_val.json and GQA's "
        "testdev_balanced_questions.json in dataset/ScienceQA, dataset/TextVQA and dataset/GQA."
    ),
    sizes=(
        "CVIT publishes no counts; these are those of the data sets it is made of (CoIN's, Flickr30k's Karpathy split)"
    ),
)  # fmt: skip
