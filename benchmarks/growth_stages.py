"""The parts of `growth.py` that train and answer: chains of states on tiny_llava, one stage of each taken apart.

A chain's states are attached and saved as a stage saves them, and not trained: what a state holds hangs on its shapes.
A first stage, or answers after one, is gone through before: what a process loads once is not the piece's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lilora.backbones import Backbone
from lilora.backbones.tiny_llava import BACKBONE
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from lilora.methods.clora import CLoRA
from lilora.methods.ewc import EWC
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import TrainConfig, Training

Call = Callable[[], Any]
#: A state of each, by what it keeps: nothing, a part or a memory of each task, or a block of each that takes part.
METHODS: dict[str, Method] = {"SeqLoRA": SeqLoRA(), "LiLoRA": LiLoRA(), "EWC": EWC(), "C-LoRA": CLoRA()}
NUM_ROWS, NUM_STEPS = 16, 4
TRAINING = Training(batch_size=8, max_steps=NUM_STEPS)


def name_of(place: int) -> str:
    return f"T{place:03}"


def data(folder: Path) -> Path:
    """A task's few rows, which all tasks have."""
    from lilora import stages
    from lilora.benchmarks import BuildConfig

    out = folder / "data"
    out.mkdir(parents=True, exist_ok=True)
    stages.build_task(BuildConfig("mini", "TextVQA", "single", 1, limit=NUM_ROWS), {}, out, StageRun(folder))
    return out


def warm() -> None:
    """What each process would load: done once, by the process that starts them."""
    import torch

    import lilora.stages.answers
    import lilora.training.stage  # noqa: F401

    torch.set_num_threads(1)
    BACKBONE.load_model()
    BACKBONE.load_processor()


def chain(method: Method, backbone: Backbone, number: int, folder: Path) -> Path | None:
    """The state after `number` tasks of this method; its parts lie with the states that they were new in."""
    from lilora.adapters.fisher import remembered
    from lilora.adapters.state import load_state, save_state
    from lilora.methods._blocks import blocks_of

    model, last = backbone.load_model(), None
    sites = list(backbone.find_sites(model))
    for place in range(number):
        state = None if last is None else load_state(last, folder.joinpath, memory=True)
        if state is not None and isinstance(method, CLoRA):
            parts, shared = blocks_of(state)
            state = replace(state, parts=parts, shared=shared)
        if state is not None and isinstance(method, EWC):
            ones = {name: tensor.new_ones(tensor.shape) for name, tensor in state.shared.items()}
            state = replace(state, memory={**state.memory, state.tasks[-1]: remembered(ones, state.shared)})
        adapters = method.stage_method(first=not place).attach(model, sites, state, name_of(place), 0)
        last = folder / f"state-{place}"
        last.mkdir()
        save_state(adapters.state_after(state, name_of(place)), last)
        adapters.remove()
    return last


def stage(method: Method, backbone: Backbone, number: int, folder: Path) -> tuple[TrainConfig, Any, StageRun]:
    """A stage after `number` tasks, as far as it hangs on none of them: its settings, what it reads, and its run."""
    inputs = {"data": data(folder)}
    earlier = tuple(name_of(place) for place in range(number))
    if (last := chain(method, backbone, number, folder)) is not None:
        inputs["previous"] = last
    inputs |= {f"data-{task}": inputs["data"] for task in method.revisits(earlier)}
    config = TrainConfig(method, backbone, name_of(number), earlier, TRAINING, 0)
    (folder / "scratch").mkdir()
    return config, inputs, StageRun(folder / "scratch", find=folder.joinpath)


def started(config: TrainConfig, inputs: Any, run: StageRun) -> tuple[Any, Any, Any]:
    """What a stage does before its first step."""
    from lilora.training.stage import prepare_stage

    preparation, _ = prepare_stage(config, inputs, run)
    state = config.method.prepare(preparation)
    adapters = config.method.attach(preparation.model, preparation.sites, state, config.task, 0)
    config.method.begin(adapters, state)
    return preparation, state, adapters


def start_of(method: Method) -> Callable[[int, Path], Call]:
    """The start of a stage after `size` tasks: its state loaded, prepared, put on; and taken off again."""

    def made(size: int, folder: Path) -> Call:
        first = stage(method.stage_method(first=True), BACKBONE, 0, folder / "first")
        started(*first)[2].remove()
        config, inputs, run = stage(method, BACKBONE, size, folder)
        return lambda: started(config, inputs, run)[2].remove()

    return made


def _steps(config: TrainConfig, inputs: Any, run: StageRun) -> Call:
    from lilora.training.loop import Loop

    preparation, _, adapters = started(config, inputs, run)
    rows = preparation.current
    return lambda: Loop(config, adapters, rows, len(rows.data), run, NUM_STEPS).run_all()


def steps_of(method: Method) -> Callable[[int, Path], Call]:
    """A few optimiser steps of a stage after `size` tasks."""
    return lambda size, folder: _steps(*stage(method, BACKBONE, size, folder))


def steps_of_rank(size: int, folder: Path) -> Call:
    return _steps(*stage(LiLoRA(rank=size), BACKBONE, 1, folder))


def steps_of_modules(size: int, folder: Path) -> Call:
    """Seven linear layers of each decoder layer are adapted, in as many layers as make `size`."""
    layers = "|".join(map(str, range(size // 7)))
    sites = (rf".*language_model\.layers\.(?:{layers})\.(?:self_attn|mlp)\.\w+_proj",)
    config, inputs, run = stage(LiLoRA(), replace(BACKBONE, sites=sites), 1, folder)
    found = len(list(config.backbone.find_sites(config.backbone.load_model())))
    assert found == size, f"{found} modules are adapted, not {size}"
    return _steps(config, inputs, run)


def cell_of(method: Method) -> Callable[[int, Path], Call]:
    """The answers to the first task after `size` tasks: the state loaded, put on, merged, and a few rows."""

    def made(size: int, folder: Path) -> Call:
        from lilora import stages
        from lilora.stages.configs import PredictConfig

        def answers(number: int, home: Path) -> Call:
            rows, last = data(home), chain(method, BACKBONE, number, home)
            assert last is not None
            config = PredictConfig(method.answer_method(first=number == 1), BACKBONE, name_of(0), "test", 2)
            (home / "out").mkdir()
            inputs, run = {"data": rows, "state": last}, StageRun(home, find=home.joinpath)
            return lambda: stages.predict(config, inputs, home / "out", run)

        answers(1, folder / "first")()
        return answers(size, folder)

    return made
