"""pretrain_tiny: make the tiny LLaVA from nothing but the mini benchmark's training pictures, as LLaVA's stage 1 does.

The result is the checkpoint that ships with the package (`make adopt-tiny` copies it there). It took 28 minutes
on two busy cores; a killed run goes on from its last checkpoint.
"""

from lilora.benchmarks import AlignmentConfig, BuildConfig
from lilora.benchmarks.mini import BENCHMARK
from lilora.pretraining.config import PretrainConfig, TinyArchitecture
from orchestrator.steps.step import Resources, Step

CONFIG = PretrainConfig(TinyArchitecture(), tower_steps=800, steps=2400)
IMAGES = 24_000


def pretraining(name: str, config: PretrainConfig) -> Step:
    """The step that pre-trains tiny backbone `name`, and what it reads."""
    sizes = config.architecture
    alignment = Step(
        "build mini alignment corpus",
        "lilora.stages:build_alignment",
        AlignmentConfig(BENCHMARK.name, BENCHMARK.revision, IMAGES, sizes.patches, sizes.pixels),
    )
    tasks = tuple(
        (
            f"task-{task.name}",
            Step(
                f"build {BENCHMARK.name} {task.name}",
                "lilora.stages:build_task",
                BuildConfig(BENCHMARK.name, task.name, "single", BENCHMARK.revision),
            ),
        )
        for task in BENCHMARK.tasks
    )
    return Step(
        f"pretrain {name}",
        "lilora.stages:pretrain",
        config,
        (("alignment", alignment), *tasks),
        resources=Resources(workers=2),
    )


def pretrain_tiny() -> Step:
    """The pre-training step and what it reads."""
    return pretraining("tiny_llava", CONFIG)
