"""UCIT (HiDe-LLaVA, arXiv 2503.12941; used by MCITlib): six tasks in a row that LLaVA's own training data do not cover.

Read from the published files: `instructions/TASK/*.json` and the pictures in `datasets`. The two captioning tasks keep
all captions of a test picture in a file of COCO's form; their score is the mean of seven metrics, as in the release
(`lilora.scorers.ucit_caption`, which says how far our METEOR is from its).
"""

from __future__ import annotations

from lilora.benchmarks import Benchmark, Files, Task


def _task(
    name: str, kind: str, scorer: str, tokens: int, train: int, train_file: str, folder: str = "", captions: str = ""
) -> Task:
    folder = folder or name
    files = Files(
        train=(f"{{setting}}/{folder}/{train_file}",),
        test=(f"{{setting}}/{folder}/test_3000.json",),
        images=("datasets", "dataset"),
        official=((("captions", f"{{setting}}/{folder}/{captions}"),) if captions else ()),
    )
    return Task(name, kind, scorer, tokens, train, 1000, 3000, files=files, test_image="pad")


BENCHMARK = Benchmark(
    name="ucit",
    revision=3,
    tasks=(
        _task("ImageNet-R", "classification", "ucit", 128, 24000, "train.json"),
        _task("ArxivQA", "option", "ucit", 128, 40000, "train_4w.json"),
        _task("VizWiz-caption", "caption", "ucit_caption", 128, 40000, "train.json", "VizWiz",
              "val_coco_type_3000.json"),
        _task("IconQA", "vqa", "ucit", 128, 30000, "train.json"),
        _task("CLEVR-Math", "vqa", "ucit", 128, 40000, "train_4w.json", "CLEVR"),
        _task("Flickr30k", "caption", "ucit_caption", 128, 40000, "train_brief_4w.json",
              captions="val_coco_type_3000.json"),
    ),
    builder="",
    settings={"single": ("instructions", "UCIT/instructions", ".")},
    train_image="pad",
    home=(
        "The instruction files and some pictures are the data set HaiyangGuo/UCIT on Hugging Face (repository "
        "Ghy0501/HiDe-LLaVA): put the instruction files in instructions/TASK/ and pictures in datasets/ (ArxivQA, "
        "CLEVR, Flickr30k, IconQA, ImageNet-R, VizWiz)."
    ),
    sizes="from the published files' names (4w is 40,000), else rounded; not counted",
)  # fmt: skip
