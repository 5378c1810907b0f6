"""The cost of a study on real GPUs: samples, steps, tokens, FLOPs, memory, store and hours, by stage and in all.

Counted by `lilora.costs` from the backbone's sizes and the tasks' rows: those of the data where their step is done,
with texts as long as they are; else those of the files, or the declared ones, with texts as long as is assumed of their
kind of task (`lilora.benchmarks._kinds.TextLengths`). Stages that the store has are counted too: what is printed is the
study's cost, not what is left of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lilora.backbones import Backbone
from lilora.benchmarks import BuildConfig, Stream
from lilora.benchmarks._kinds import kind_named
from lilora.core.limits import EMBEDDED_ROWS
from lilora.costs.flops import Workload, answering_flops, embedding_flops, forward_flops, training_flops
from lilora.costs.gpus import GIB, Gpu, find_gpu, largest_that_fits, refusal
from lilora.costs.memory import Answering, AnswerMemory, Memory, Setting, answers_that_fit, stage_memory, store_bytes
from lilora.costs.sizes import PICTURE, ModelSizes, model_sizes
from lilora.data.location import Sizes, sizes
from lilora.stages.configs import EmbedConfig, PredictConfig
from lilora.training import TrainConfig
from orchestrator.planning.lowering import TrialPlan
from orchestrator.resolving.how_trained import HowTrained
from orchestrator.resolving.resolve import Resolved
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study.trial import load_benchmark

#: A later turn's template is "USER: ... ASSISTANT: ...".
TEMPLATE_TOKENS, TURN_TOKENS, CHARACTERS_A_TOKEN = 45, 8, 4
#: Of the rate of training, what answers of a few tokens in batches of 32 reach there.
ANSWERING = 0.6


@dataclass(frozen=True)
class StageCost:
    """One training stage; `setting` has the largest micro-batch that fits the GPU, or what was asked for if none does.

    Attributes:
        asked, asked_bytes: the micro-batch asked for, else a worker's whole share of the batch, and what it would take.
        search: of a study's search, and not of its table.
    """

    label: str
    method: str
    task: str
    backbone: str
    samples: float
    steps: int
    tokens: float
    flops: float
    memory: Memory
    setting: Setting
    hours: float
    asked: int
    asked_bytes: float
    search: bool = False


@dataclass(frozen=True)
class AnswerCost:
    """The dearest predictions of a method on a backbone; of `asked` rows a batch a GPU takes `memory.rows` at once."""

    method: str
    backbone: str
    asked: int
    memory: AnswerMemory

    def dearness(self) -> tuple[int, float]:
        """What compares: the fewest rows that fit, then the most bytes."""
        return -self.memory.rows, self.memory.total


@dataclass(frozen=True)
class StudyCost:
    """A study: its stages, what its predictions take, and why a stage does not fit, where one does not.

    Attributes:
        utilisation: the share of the peak that training reaches.
        answering_utilisation: and that answering reaches.
        answering: FLOPs, among them those of finding rows' tasks where a method is not told them.
        embedded: training rows that tasks are known by, where rows' tasks are found by them.
        embedding: FLOPs of these.
        answer_costs: by method and backbone.
    """

    gpu: Gpu
    utilisation: float
    answering_utilisation: float
    stages: tuple[StageCost, ...]
    answer_costs: tuple[AnswerCost, ...]
    answers: int
    answering: float
    answering_hours: float
    embedded: int
    embedding: float
    embedding_hours: float
    store_bytes: int
    refusals: tuple[str, ...]
    assumptions: tuple[str, ...]


def study_cost(resolved: Resolved, store: Store | None, how: HowTrained) -> StudyCost:
    """Count every distinct stage and prediction of the study once, its search's too.

    A backbone of the family "auto" is left out, and the assumptions say so; where there is no other, that is an error.

    Raises:
        ValueError: no backbone's costs are known, or a setting is impossible.
    """
    gpu = find_gpu(how.gpu)
    rate = gpu.teraflops * 1e12 * how.utilisation
    lowered = [part for part in (resolved.search, resolved.table) if part is not None]
    trials = [plan for part in lowered for plan in part.trials]
    known = [plan for plan in trials if plan.trial.backbone.family != "auto"] or trials
    stored = [store_bytes(model_sizes(plan.trial.backbone), plan.trial.method, len(plan.tasks)) for plan in known]
    works = _Works(store)
    of_table = resolved.table.plan.by_digest
    stages: list[StageCost] = []
    refusals: list[str] = []
    answering, answers = 0.0, 0
    embedding, embedded = 0.0, 0
    dearest: dict[tuple[str, str], AnswerCost] = {}
    for step in resolved.plan.steps:
        config = step.config
        if not isinstance(config, (TrainConfig, PredictConfig, EmbedConfig)) or config.backbone.family == "auto":
            continue
        if isinstance(config, TrainConfig):
            cost, refused = _stage(step, config, works, how, gpu, rate, step.digest not in of_table)
            stages.append(cost)
            refusals += [refused] if refused else []
            continue
        model, work = model_sizes(how.backbone(config.backbone)), works.of(step, config.backbone)
        if isinstance(config, EmbedConfig):
            count = min(work.rows, EMBEDDED_ROWS)
            embedded += count
            row = forward_flops(model, work)["tower"] + embedding_flops(model, work, config.encoder, answers=True)
            embedding += count * row
        else:
            count = works.answered(step, config.split)
            answers += count
            answering += count * answering_flops(model, work)
            if config.candidates:
                answering += count * embedding_flops(model, work, config.method.embedder(), answers=False)
            found = _answers(step, config, model, work, gpu)
            pair = found.method, found.backbone
            dearest[pair] = max(found, dearest.get(pair, found), key=AnswerCost.dearness)
    workers = max((cost.setting.workers for cost in stages), default=how.workers or 1)
    return StudyCost(
        gpu, how.utilisation, ANSWERING * how.utilisation, tuple(stages),
        tuple(dearest.values()), answers, answering, answering / (ANSWERING * rate) / workers / 3600,
        embedded, embedding, embedding / (ANSWERING * rate) / 3600, sum(stored),
        tuple(dict.fromkeys([*refusals, *_too_large(dearest.values(), gpu)])),
        (*works.assumptions(), *_left_out(trials), *_slower(stages)),
    )  # fmt: skip


def _left_out(trials: Sequence[TrialPlan]) -> list[str]:
    names = sorted({plan.trial.backbone.name for plan in trials if plan.trial.backbone.family == "auto"})
    return [f"not counted: {', '.join(names)}, of the family 'auto'"] if names else []


def _slower(stages: Sequence[StageCost]) -> list[str]:
    """What the GPU's peak rate, which is bfloat16's, is wrong for."""
    count = sum(stage.setting.dtype == "float32" for stage in stages)
    said = f"stages in float32, which take several times these hours, since the peak is bfloat16's: {count}"
    return [said] if count else []


def _stage(
    step: Step, config: TrainConfig, works: _Works, how: HowTrained, gpu: Gpu, rate: float, search: bool
) -> tuple[StageCost, str | None]:
    model, work = model_sizes(how.backbone(config.backbone)), works.of(step, config.backbone)
    asked, earlier, capacity = how.setting(step, config), len(config.earlier), gpu.gibibytes * GIB
    fits = largest_that_fits(model, work, config.method, asked, config.share(asked.workers), capacity, earlier)
    setting = fits or asked
    steps = config.num_steps(works.of_task(data).rows for data in data_of(step))
    samples = steps * (config.training.batch_size + config.rehearsed)
    flops = samples * training_flops(model, work, config.method, setting.gradient_checkpointing, earlier)
    cost = StageCost(
        step.label, type(config.method).__name__, config.task, config.backbone.name, samples, steps,
        samples * work.tokens(model), flops, stage_memory(model, work, config.method, setting, earlier), setting,
        flops / rate / setting.workers / 3600, asked.micro_batch,
        stage_memory(model, work, config.method, asked, earlier).total, search,
    )  # fmt: skip
    label, name = f"'{step.label}'", f"the {gpu.name}"
    return cost, None if fits else refusal(label, model, work, config.method, asked, capacity, name, earlier)


def _answers(step: Step, config: PredictConfig, model: ModelSizes, work: Workload, gpu: Gpu) -> AnswerCost:
    stage = dict(step.inputs).get("state")
    earlier = len(stage.config.earlier) if stage and isinstance(stage.config, TrainConfig) else 0
    answering = Answering(config.batch_size, config.max_new_tokens, config.dtype)
    memory = answers_that_fit(model, work, config.method, answering, gpu.gibibytes * GIB, earlier)
    return AnswerCost(type(config.method).__name__, config.backbone.name, config.batch_size, memory)


def _too_large(answers: Iterable[AnswerCost], gpu: Gpu) -> list[str]:
    return [
        f"{cost.method}'s answers on {cost.backbone} take {cost.memory.total / GIB:.1f} GiB, a row at a time, and the "
        f"{gpu.name} has {gpu.gibibytes:.0f} GiB: take a larger GPU or a smaller backbone"
        for cost in answers
        if cost.memory.total > gpu.gibibytes * GIB
    ]


def data_of(step: Step) -> list[Step]:
    """The steps that build what a stage learns or a prediction answers: one task's, or those of joined tasks."""
    inputs = dict(step.inputs)
    return [inputs[f"data-{task}"] for task in getattr(step.config, "joined", ())] or [inputs["data"]]


class _Works:
    """The rows of each task: of its data where the store has them, else of its files, or as its benchmark declares."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.works: dict[str, Workload] = {}
        self.sizes: dict[str, Sizes] = {}
        self.measured: set[str] = set()
        self.assumed: set[str] = set()
        self.backbones: dict[str, Backbone] = {}

    def of(self, step: Step, backbone: Backbone) -> Workload:
        """The workload of the task, or of the joined tasks, that `step` learns or answers."""
        self.backbones[backbone.name] = backbone
        return Workload.joined([self.of_task(data) for data in data_of(step)])

    def of_task(self, data: Step) -> Workload:
        """The workload of the task that the step `data` builds."""
        if data.digest not in self.works:
            self.works[data.digest] = self._read(data) or self._declared(data)
        return self.works[data.digest]

    def answered(self, step: Step, split: str) -> int:
        """Rows of the split that is predicted."""
        rows: int = sum(getattr(self._sizes(data), split) for data in data_of(step))
        return rows

    def _sizes(self, data: Step) -> Sizes:
        if data.digest not in self.sizes:
            config: BuildConfig = data.config
            stream = Stream(config.benchmark, (), config.instructions, config.limit, config.limit_seed)
            self.sizes[data.digest] = sizes(stream, config.task, "validation" if config.holdout else "test")
        return self.sizes[data.digest]

    def _declared(self, data: Step) -> Workload:
        kind = load_benchmark(data.config.benchmark).task(data.config.task).kind
        self.assumed.add(kind)
        lengths = kind_named(kind).lengths
        return Workload(self._sizes(data).train, lengths.prompt, lengths.answer, lengths.longest)

    def _read(self, data: Step) -> Workload | None:
        if self.store is None or not self.store.has(data.digest):
            return None
        import polars

        table = polars.scan_parquet(self.store.fetch(data.digest) / "train.parquet", glob=False)
        columns = table.collect_schema().names()
        asked, answered = (polars.col(column).str.len_chars() for column in ("instruction", "answer"))
        asked, answered = TEMPLATE_TOKENS + asked / CHARACTERS_A_TOKEN, 1 + answered / CHARACTERS_A_TOKEN
        if "turns" in columns:
            later = [
                polars.col("turns").list.eval(polars.element().list.get(place).str.len_chars()).list.sum()
                for place in (0, 1)
            ]
            count = polars.col("turns").list.len()
            asked += (TURN_TOKENS * count + later[0] / CHARACTERS_A_TOKEN).fill_null(0)
            answered += (count + later[1] / CHARACTERS_A_TOKEN).fill_null(0)
        picture = polars.col("image").is_not_null() if "image" in columns else polars.lit(True)
        row = table.select(
            polars.len().alias("rows"), asked.mean().alias("asked"), answered.mean().alias("answered"),
            (asked + answered).max().alias("longest"), picture.mean().alias("pictures"),
        ).collect().row(0, named=True)  # fmt: skip
        self.measured.add(data.config.task)
        return Workload(row["rows"], row["asked"], row["answered"], math.ceil(row["longest"]), row["pictures"])

    def assumptions(self) -> tuple[str, ...]:
        """What was taken for granted."""
        said = []
        if self.measured:
            said.append(f"texts of {', '.join(sorted(self.measured))}: {CHARACTERS_A_TOKEN} characters a token")
        if self.assumed:
            lengths = {name: kind_named(name).lengths for name in sorted(self.assumed)}
            texts = "; ".join(
                f"{name} {own.prompt} + {own.answer}, longest {own.longest}" for name, own in lengths.items()
            )
            said.append(f"tokens of text, prompt + answer, assumed since the data are not there: {texts}")
        for backbone in self.backbones.values():
            model = model_sizes(backbone)
            size = "a picture" if model.fixed_pictures else f"a picture, if it has {PICTURE[0]} x {PICTURE[1]} pixels"
            said.append(f"{backbone.name}: {model.image_tokens} tokens {size}")
        return tuple(said)
