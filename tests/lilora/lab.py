"""Train and predict on the tiny backbone; finished stages are kept by what they are made of."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import torch

from lilora import stages
from lilora.adapters.adapters import Adapters
from lilora.adapters.state import State
from lilora.backbones import Backbone
from lilora.core import registry
from lilora.core.identity import digest_of
from lilora.core.stage_run import Placement, StageRun
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.smolora import SMoLoRA
from lilora.model.features import Features, load_features
from lilora.model.logits import AnswerModel
from lilora.model.tokens import TaskData, load_task
from lilora.pretraining.config import TinyArchitecture
from lilora.stages.configs import EmbedConfig, PredictConfig
from lilora.training import TrainConfig, Training
from lilora.training.stage import prepare_stage
from tests.lilora.tiny import SIZES, make_backbone, make_task

SMALL = {"rank": 4, "lora_alpha": 8.0, "experts": 2, "threshold": 1.0, "phi": 8, "width": 4}
TRAINING = Training(epochs=4, batch_size=8, learning_rate=1e-2)
TASKS = ("Colour", "Place")


def small(name: str, **fields: Any) -> Method:
    """The method called `name`, with ranks that fit the tiny backbone."""
    kind = registry.load("methods", name)
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in SMALL.items() if key in known}, **fields)


def cases() -> dict[str, Method]:
    """Every method of the folder that is trained, and LiLoRA's switches."""
    trained = {name: small(name) for name in registry.names("methods") if small(name).schedule not in ("none", "joint")}
    lilora = {
        "alpha-0": {"alpha": 0.0},
        "alpha-half": {"alpha": 0.5},
        "alpha-1": {"alpha": 1.0},
        "basis-frozen": {"basis": "frozen"},
        "a-frozen": {"shared_a": "frozen"},
        "a-slow": {"shared_a": 0.1},
        "own-a": {"share_a": False},
        "whole-b": {"decompose_b": False},
        "sim-global": {"similarity": "global", "similarity_gradient": True},
        "both-held": {"regularise": "both", "compared": "mean"},
        "plain-l2": {"weighting": "none", "alpha_rate": 10.0, "init_by_task": False},
        "dropout": {"dropout": 0.2},
    }
    trained |= {f"{name}-nearest": small(name, route="nearest") for name in ("lilora", "dirlora")}
    trained |= {"smolora-every": SMoLoRA(rank=4, experts=4, routers="every", instruction="whole", balance=0.1)}
    trained |= {"smolora-centred": SMoLoRA(rank=4, experts=4, centred=True)}
    trained |= {"smolora-4": SMoLoRA(rank=4, experts=4), "smolora-hard": SMoLoRA(rank=4, experts=4, router="hard")}
    return {**trained, **{f"lilora-{name}": LiLoRA(rank=4, lora_alpha=8, **fields) for name, fields in lilora.items()}}


class Lab:
    """A folder with a backbone, its tasks and every stage made so far."""

    device = "cpu"

    def __init__(self, root: Path, sizes: TinyArchitecture = SIZES, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        self.root, self.device = root, device
        self.backbone = make_backbone(root / "backbone", sizes)
        self.data = {name: make_task(root / "tasks" / name, name) for name in ("Colour", "Place", "Caption")}
        self.model = self.backbone.load_model(device=device)
        self.sites = self.backbone.find_sites(self.model)
        self._fresh = itertools.count()

    def on(self, backbone: Backbone) -> Lab:
        """The same model, data and folders, with the layers adapted or trained in full that `backbone` names."""
        other = object.__new__(Lab)
        other.__dict__.update(self.__dict__)
        other.backbone, other.sites = backbone, backbone.find_sites(self.model)
        return other

    def folder(self) -> Path:
        """A new empty folder."""
        folder = self.root / f"run-{next(self._fresh)}"
        folder.mkdir()
        return folder

    def config(self, method: Method, stage: int, training: Training = TRAINING, seed: int = 0) -> TrainConfig:
        """Stage 0 or 1 of `TASKS`."""
        earlier = TASKS[:stage] if method.schedule == "sequential" else ()
        return TrainConfig(method.stage_method(), self.backbone, TASKS[stage], earlier, training, seed)

    def stage(self, method: Method, stage: int = 0, training: Training = TRAINING, seed: int = 0) -> Path:
        """State folder of a stage, trained once; the stages before it too."""
        config = self.config(method, stage, training, seed)
        out = self.root / "artifacts" / digest_of(config)
        if not out.exists():
            previous = self.stage(method, stage - 1, training, seed) if config.earlier else None
            self.train(config, previous, out)
        return out

    def train(self, config: TrainConfig, previous: Path | None, out: Path, **run: Any) -> dict[str, Any]:
        """One training stage into `out`."""
        out.mkdir(parents=True, exist_ok=True)
        return stages.train(config, self.inputs(config, previous), out, self.run(**run))

    def inputs(self, config: TrainConfig, previous: Path | None) -> dict[str, Path]:
        """What a stage reads."""
        inputs = {"data": self.data[config.task], **({"previous": previous} if previous else {})}
        inputs |= {f"data-{task}": self.data[task] for task in config.method.revisits(config.earlier)}
        needed = config.method.embeds(config.earlier, config.task)
        return inputs | {f"embedding-{task}": self.embedding(task) for task in needed}

    def prepared(self, method: Method, stage: int) -> State | None:
        """The state that a stage of `TASKS` starts from, as its method has prepared it."""
        config = self.config(method, stage)
        previous = self.stage(method, stage - 1) if config.earlier else None
        preparation, _ = prepare_stage(config, self.inputs(config, previous), self.run())
        return config.method.prepare(preparation)

    def embedding(self, task: str) -> Path:
        """Folder of a task's mean embeddings, made once."""
        out = self.root / "embeddings" / task
        if not out.exists():
            out.mkdir(parents=True)
            stages.embed(EmbedConfig(self.backbone, task), {"data": self.data[task]}, out, self.run())
        return out

    def run(
        self,
        scratch: Path | None = None,
        report: Callable[[int, int, dict[str, float]], None] = lambda *_: None,
        checkpoint_seconds: float = 1e9,
        micro_batch: int | None = None,
    ) -> StageRun:
        """A handle for one stage."""
        placement = Placement(micro_batch=micro_batch, device=self.device)
        find = (self.root / "artifacts").joinpath
        return StageRun(scratch or self.folder(), report, placement, find, checkpoint_seconds)

    def predict(self, method: Method, state: Path | None, task: str, data: Path | None = None, **fields: Any) -> Path:
        """Predictions of a task's test split."""
        config = PredictConfig(method.stage_method(), self.backbone, task, "test", 8, **fields)
        inputs = {"data": data or self.data[task], **({"state": state} if state else {})}
        out = self.folder()
        stages.predict(config, inputs, out, self.run())
        return out / "predictions.parquet"

    def route(
        self, method: Method, task: str, data: Path | None = None, run: StageRun | None = None, **fields: Any
    ) -> tuple[polars.DataFrame, dict[str, Any]]:
        """Predictions of a routed method after both stages of `TASKS`, and their summary."""
        config = PredictConfig(
            method.answer_method(), self.backbone, task, "test", 8, candidates=tuple(method.candidates(TASKS)), **fields
        )
        made = {f"state-{name}": self.stage(method, place) for place, name in enumerate(TASKS)}
        inputs = made if method.schedule == "independent" else {"state": made[f"state-{TASKS[-1]}"]}
        inputs |= {f"embedding-{name}": self.embedding(name) for name in config.candidates}
        out = self.folder()
        summary = stages.predict(config, {"data": data or self.data[task], **inputs}, out, run or self.run())
        return polars.read_parquet(out / "predictions.parquet"), summary

    def mixed(self) -> Path:
        """A test split of both of `TASKS`, row by row in turn, the ids behind their tasks' names."""
        folder = self.root / "mixed"
        if not folder.exists():
            folder.mkdir()
            tables = [
                polars.read_parquet(self.data[task] / "test.parquet")
                .with_row_index("place")
                .with_columns(polars.concat_str(polars.lit(f"{task}-"), "id").alias("id"))
                for task in TASKS
            ]
            polars.concat(tables).sort("place", maintain_order=True).drop("place").write_parquet(
                folder / "test.parquet"
            )
        return folder

    def partly_without_pictures(self, task: str = "Colour") -> Path:
        """`task`'s data with every second row's picture taken away."""
        folder = self.root / "partly" / task
        for path in () if folder.exists() else self.data[task].glob("*.parquet"):
            folder.mkdir(parents=True, exist_ok=True)
            rows = polars.read_parquet(path).with_row_index()
            image = polars.when(polars.col("index") % 2 == 0).then(polars.col("image"))
            rows.with_columns(image.alias("image")).drop("index").write_parquet(folder / path.name)
        return folder

    def rows(self, task: str) -> tuple[TaskData, Features]:
        """`task`'s training rows and their pictures' features, from memory where they are there."""
        data = load_task(self.backbone, self.data[task], "train")
        return data, load_features(self.model, self.backbone.load_processor(), data)

    def logits(self, task: str = "Colour", method: Method | None = None) -> torch.Tensor:
        """Answer logits of the model as it is now, on a batch of `task`; `method` says which way its rows go."""
        data, features = self.rows(task)
        batch = data.training_batch(range(8)).to(self.device)
        images = features.of(batch.images)
        if method is not None:
            modules = {site: self.model.get_submodule(site) for site in self.sites}
            layers = {site: module for site, module in modules.items() if not isinstance(module, torch.nn.Linear)}
            beside = {name: module for name, module in self.model.named_children() if name.startswith("lilora_")}
            method.before_forward(Adapters(self.model, layers=layers, modules=beside), batch, images)
        logits, _ = AnswerModel(self.model, whole_rows=True)(batch, images)
        return logits

    def adapted_logits(
        self, method: Method, state: State | None, task: str, seed: int | None = None, rows: str = "Colour"
    ) -> torch.Tensor:
        """Answer logits with `method`'s adapters on, on a batch of the task `rows`, detached."""
        # Features are made before adapters are put on: whatever ran before may have pushed them out of memory.
        self.rows(rows)
        adapters = method.stage_method().attach(self.model, list(self.sites), state, task, seed)
        try:
            return self.logits(rows, method.stage_method()).detach()
        finally:
            adapters.remove()

    def backbone_bytes(self) -> dict[str, bytes]:
        """Every tensor of the model, as bytes."""
        return {name: tensor.cpu().numpy().tobytes() for name, tensor in self.model.state_dict().items()}


def num_in_memory(state: State) -> int:
    """Elements of every tensor that a state keeps of single tasks to learn further ones."""
    return sum(tensor.numel() for tensors in state.memory.values() for tensor in tensors.values())


def files(folder: Path) -> dict[str, bytes]:
    """A folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
