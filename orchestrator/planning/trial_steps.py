"""The steps of one trial: its tasks' data, its stages, predictions and scores, each made once whoever asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from lilora.benchmarks import BuildConfig, Stream
from lilora.core.identity import digest_of
from lilora.data.build import build_config
from lilora.methods import Method
from lilora.methods.zeroshot import ZeroShot
from lilora.scorers import version_of
from lilora.stages.configs import EmbedConfig, PredictConfig, ScoreConfig
from lilora.stages.scores import step_version
from lilora.training import TrainConfig
from orchestrator.steps.step import Resources, Step
from orchestrator.study import Trial
from orchestrator.study.trial import BoundTrial


@cache
def _data_step(config: BuildConfig) -> Step:
    return Step(f"build {config.benchmark} {config.task}", "lilora.stages:build_task", config)


@dataclass(frozen=True)
class Memo:
    """The steps of a study so far, shared by all its trials: the first that asks for one makes it.

    Attributes:
        steps: by digest.
        asked: by what they were asked for with, so that most of a step's repetitions never come to be: two orders with
            the same first tasks ask for the same stages.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    asked: dict[tuple[Any, ...], Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialSteps:
    """One trial's steps, as a schedule asks for them.

    Attributes:
        bound: the trial.
        group: its name without the seed, for labels.
        memo: shared by all trials of the study.
    """

    bound: BoundTrial
    group: str
    memo: Memo

    @property
    def trial(self) -> Trial:
        """The trial as it was written."""
        return self.bound.trial

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks, in the order learned."""
        return self.bound.tasks

    @cached_property
    def alike(self) -> str:
        """The same for trials that differ in nothing but the order of their tasks."""
        return digest_of(dataclasses.replace(self.trial, stream=dataclasses.replace(self.trial.stream, tasks=())))

    @cached_property
    def drawn(self) -> Stream:
        """What of the stream the data of its tasks depend on."""
        return dataclasses.replace(self.trial.stream, tasks=(), scores=Stream().scores)

    def columns(self, row: int) -> range:
        """The tasks that are scored after stage `row`: all that are learned, all, or none, by what the trial asks."""
        if self.trial.scores_unlearned:
            return range(len(self.tasks))
        wanted = self.trial.scored != "last" or row == len(self.tasks) - 1
        return range(row + 1 if wanted else 0)

    def once(self, step: Step) -> Step:
        """The step, or the equal one that an earlier trial of the study made."""
        return self.memo.steps.setdefault(step.digest, step)

    def data(self, task: str) -> Step:
        """The task's data; the same for all trials."""
        key = ("data", self.drawn, self.trial.split, task)
        if key not in self.memo.asked:
            config = build_config(
                self.bound.benchmark, self.bound.benchmark.task(task), self.trial.stream, self.trial.split
            )
            self.memo.asked[key] = _data_step(config)
        step: Step = self.memo.asked[key]
        return step

    def train(self, place: int, earlier: tuple[str, ...], previous: Step | None) -> Step:
        """The stage that learns task number `place` (from 0), from `previous`."""
        key = ("train", self.alike, self.tasks[place], earlier, previous.digest if previous else "")
        if key not in self.memo.asked:
            self.memo.asked[key] = self._train(place, earlier, previous)
        step: Step = self.memo.asked[key]
        return step

    def _train(self, place: int, earlier: tuple[str, ...], previous: Step | None) -> Step:
        trial, task = self.trial, self.tasks[place]
        method = trial.method.stage_method(first=previous is None)
        framing = self.bound.benchmark.train_image
        config = TrainConfig(method, trial.backbone, task, earlier, trial.training, trial.seed, framing)
        wanted = set(method.revisits(earlier))
        revisited = [name for name in earlier if name in wanted]
        inputs = (("data", self.data(task)), *((f"data-{name}", self.data(name)) for name in revisited))
        inputs += tuple((f"embedding-{name}", self.embedding(name)) for name in method.embeds(earlier, task))
        inputs += (("previous", previous),) if previous else ()
        label = f"train {self.group} {place + 1}/{len(self.tasks)} {task}, seed {trial.seed}"
        return self.once(Step(label, "lilora.stages:train", config, inputs, config.method.version, trial.resources))

    def train_together(self) -> Step:
        """The one stage that learns all tasks at once; of a single task, the stage that learns it alone.

        Its rows are shuffled, so the order of the stream makes no other stage: the tasks are named in the benchmark's.
        """
        if len(self.tasks) == 1:
            return self.train(0, (), None)
        trial, benchmark = self.trial, self.bound.benchmark
        tasks = tuple(task.name for task in (*benchmark.tasks, *benchmark.unseen) if task.name in self.tasks)
        config = TrainConfig(
            trial.method.stage_method(first=True), trial.backbone, "+".join(tasks), (), trial.training, trial.seed,
            benchmark.train_image, tasks,
        )  # fmt: skip
        inputs = tuple((f"data-{name}", self.data(name)) for name in tasks)
        label = f"train {self.group} on {len(tasks)} tasks, seed {trial.seed}"
        return self.once(Step(label, "lilora.stages:train", config, inputs, config.method.version, trial.resources))

    def embedding(self, task: str) -> Step:
        """The task's mean embeddings under the bare backbone; the same for all methods, rates and seeds."""
        # Asked for by every later stage, and by every routed answer after it.
        key = ("embedding", self.alike, task)
        if key not in self.memo.asked:
            self.memo.asked[key] = self._embedding(task)
        step: Step = self.memo.asked[key]
        return step

    def _embedding(self, task: str) -> Step:
        trial = self.trial
        config = EmbedConfig(
            trial.backbone, task, trial.method.embedder(), trial.training.dtype, self.bound.benchmark.train_image
        )
        where = f"{self.bound.benchmark.name} {task}, {trial.backbone.name}"
        data, resources = (("data", self.data(task)),), self.answer_resources
        return self.once(Step(f"embed {where}", "lilora.stages:embed", config, data, resources=resources))

    def candidates(self, row: int, task: str) -> tuple[str, ...]:
        """The tasks among which that of `task`'s items is looked for after stage `row`; none where it is told, or of no
        matter.
        """
        learned = self.tasks[: row + 1]
        method = self.trial.method
        return tuple(method.candidates(learned) if task in learned else method.candidates(learned, own=False))

    def bare(self, task: str) -> tuple[Step, Step]:
        """Predictions of the backbone as it is, those of a zero-shot trial, and their scores."""
        return self.evaluate(task, None, "nothing", method=ZeroShot())

    def evaluate(
        self,
        task: str,
        state: Step | Mapping[str, Step] | None,
        after: str,
        candidates: tuple[str, ...] = (),
        method: Method | None = None,
    ) -> tuple[Step, Step]:
        """Predictions on `task` from `state` (None: the backbone as it is), and their scores.

        Args:
            state: one for all tasks, or where each task is learned alone those of `candidates`.
            candidates: the tasks among which each row's is looked for.
            method: that answers, if not the trial's.
        """
        states = {"state": state} if isinstance(state, Step) else {}
        if isinstance(state, Mapping):
            states = {f"state-{name}": own for name, own in state.items()}
        key = ("evaluate", self.alike, task, tuple(step.digest for step in states.values()), candidates, method)
        if key not in self.memo.asked:
            answering = self.trial.method if method is None else method
            self.memo.asked[key] = self._evaluate(task, states, after, candidates, answering)
        pair: tuple[Step, Step] = self.memo.asked[key]
        return pair

    def _evaluate(
        self, task: str, states: Mapping[str, Step], after: str, candidates: tuple[str, ...], method: Method
    ) -> tuple[Step, Step]:
        trial = self.trial
        begun = [state for state in states.values() if "previous" not in dict(state.inputs)]
        config = self._answering(task, candidates, method, bool(begun) and not candidates)
        data = ("data", self.data(task))
        where = f"{self.group} {task} after {after}, seed {trial.seed}"
        inputs = (data, *states.items(), *((f"embedding-{name}", self.embedding(name)) for name in candidates))
        predict = self.once(
            Step(f"predict {where}", "lilora.stages:predict", config, inputs, resources=self.answer_resources)
        )
        scoring, version = self._scoring(task)
        where += f", {scoring.scores} scores" if scoring.scores else ""
        read = (data, ("predictions", predict))
        return predict, self.once(Step(f"score {where}", "lilora.stages:score", scoring, read, version))

    @cached_property
    def answer_resources(self) -> Resources:
        """What an answer may use: one worker of the trial's."""
        return Resources(self.trial.resources.cpus, self.trial.resources.gpus)

    # One object for each config: its part of a digest is then made once, not once a step.

    def _answering(self, task: str, candidates: tuple[str, ...], method: Method, first: bool) -> PredictConfig:
        key = ("answering", self.alike, task, candidates, type(method), first)
        if key not in self.memo.asked:
            trial, about = self.trial, self.bound.benchmark.task(task)
            self.memo.asked[key] = PredictConfig(
                method.answer_method(first=first),
                trial.backbone,
                task,
                trial.split,
                about.max_new_tokens,
                dtype=trial.answer_dtype or trial.training.dtype,
                framing=about.test_image,
                candidates=candidates,
                decoding="" if trial.backbone.plain_generation else "greedy",
            )
        config: PredictConfig = self.memo.asked[key]
        return config

    def _scoring(self, task: str) -> tuple[ScoreConfig, int]:
        """The config of a task's scores, and the version of their step."""
        trial = self.trial
        key = ("scoring", trial.stream.benchmark, trial.stream.scores, trial.split, task)
        if key not in self.memo.asked:
            about = self.bound.benchmark.task(task)
            scorer, scores = version_of(self.bound.scorers[task], trial.stream.scores)
            config = ScoreConfig(task, about.scorer, about.kind, trial.split, scores)
            self.memo.asked[key] = config, step_version(scorer, about.kind)
        found: tuple[ScoreConfig, int] = self.memo.asked[key]
        return found
