"""Weights of the hub, without a network: what is cached is loaded, the rest is downloaded once or refused."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from lilora.backbones import Backbone, _hub, forget_models
from lilora.backbones._processor import load_processor
from lilora.backbones.tiny_llava import BACKBONE
from lilora.core.home import FEATURES_VARIABLE
from lilora.methods.seqlora import SeqLoRA
from lilora.stages.configs import PredictConfig
from orchestrator.cluster.session import worker_environment
from orchestrator.planning.data import absent_backbones
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store

NAME, COMMIT = "lab/tiny", "c" * 40
MODEL = Backbone("tiny", revision="main", location=NAME)
WHOLE = huggingface_hub.snapshot_download


class Hub:
    """A hub that has the tiny backbone or raises, in front of a cache in a folder; `calls`: those of its network."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.calls = cache / "models--lab--tiny", 0
        self.error: Callable[[], Exception] | None = None
        self.names = [path.name for path in Path(BACKBONE.location).iterdir()]

    def put(self, *names: str) -> str:
        """Have these files in the cache, as the hub's library lays them down."""
        folder = self.cache / "snapshots" / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(Path(BACKBONE.location) / name, folder / name)
        (self.cache / "refs").mkdir(exist_ok=True)
        (self.cache / "refs" / "main").write_text(COMMIT)
        return str(folder)

    def download(self, name: str, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            return WHOLE(name, local_files_only=True, **options)
        self.calls += 1
        if self.error is not None:
            raise self.error()
        return self.put(*self.names)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)

    def no_network(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(httpx2.Client, "send", no_network)
    forget_models()
    load_processor.cache_clear()
    return made


def answered(kind: type[errors.HfHubHTTPError], status: int, text: str = "no") -> Callable[[], Exception]:
    response = httpx2.Response(status, request=httpx2.Request("GET", "https://hub.test/lab/tiny"))
    return lambda: kind(text, response=response)


def test_a_model_is_downloaded_once_and_then_loaded_from_the_cache(hub: Hub) -> None:
    assert not MODEL.is_here()
    MODEL.fetch()
    assert MODEL.is_here() and hub.calls == 1
    model, processor = MODEL.load_model(), MODEL.load_processor()
    assert hub.calls == 1
    assert processor.tokenizer.get_vocab() == BACKBONE.load_processor().tokenizer.get_vocab()
    assert model.config.text_config.hidden_size == BACKBONE.load_model().config.text_config.hidden_size


def test_a_cached_model_asks_nobody_offline_or_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(*hub.names)
    MODEL.fetch()
    assert MODEL.load_model() is MODEL.load_model()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    MODEL.load_processor()
    assert hub.calls == 0


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_what_is_cached_in_part_is_completed(hub: Hub, lacking: str) -> None:
    hub.put(*(set(hub.names) - {lacking}))
    MODEL.load_model()
    MODEL.load_processor()
    assert hub.calls == 1


def test_a_part_of_the_weights_is_no_model(hub: Hub) -> None:
    folder = Path(hub.put(*(set(hub.names) - {"model.safetensors"})))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    (folder / "1.safetensors").touch()
    assert not MODEL.is_here()
    (folder / "2.safetensors").touch()
    assert MODEL.is_here()


REFUSALS: dict[str, tuple[Callable[[], Exception], str]] = {
    "gated": (answered(errors.GatedRepoError, 403), "is gated.*Accept it at .*/lab/tiny.*`hf auth login`, or set HF_T"),
    "gated, not logged in": (answered(errors.GatedRepoError, 401), "is gated.*`hf auth login`, or set HF_TOKEN"),
    "a token without the right": (
        answered(errors.HfHubHTTPError, 403, "403 Forbidden: enable access to gated repositories"),
        "does not let this user read.*ask for access at .*/lab/tiny.*enable access to gated",
    ),
    "a wrong token": (answered(errors.HfHubHTTPError, 401), "does not let this user read.*`hf auth login`"),
    "no such model": (answered(errors.RepositoryNotFoundError, 401), "no model 'lab/tiny' on the hub, or it is"),
    "no such revision": (answered(errors.RevisionNotFoundError, 404), "no revision 'main'"),
    "no network": (lambda: errors.LocalEntryNotFoundError("no route"), r"\(no route\): give `location` a.*network"),
    "a full disk": (lambda: OSError(errno.ENOSPC, "No space left"), "no room for 'lab/tiny'.*set HF_HOME"),
    "a read-only home": (lambda: OSError(errno.EROFS, "Read-only file system"), "set HF_HOME to a folder that"),
    "no right to the cache": (lambda: PermissionError(errno.EACCES, "denied"), "set HF_HOME"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_its_cause_and_the_remedy(hub: Hub, name: str) -> None:
    hub.error, message = REFUSALS[name]
    for load in (MODEL.fetch, MODEL.load_model, MODEL.load_processor):
        with pytest.raises(ValueError, match=message):
            load()


def test_a_refusal_that_transformers_wrapped_is_known_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import hub as transformers_hub

    def gated(*_: Any, **__: Any) -> str:
        raise answered(errors.GatedRepoError, 403)()

    monkeypatch.setattr(transformers_hub, "hf_hub_download", gated)
    with pytest.raises(ValueError, match="is gated.*Accept it at"):
        MODEL.meta_model()


def test_offline_says_that_the_user_said_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", WHOLE)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set, so only the cache .* was asked: unset it"):
        MODEL.load_model()


def test_a_model_without_safetensors_is_refused(hub: Hub) -> None:
    hub.names = ["config.json"]
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        MODEL.fetch()


def test_workers_are_offline_only_if_the_user_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert not any("OFFLINE" in name for name, _ in worker_environment())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert dict(worker_environment())["HF_HUB_OFFLINE"] == "1"


def test_workers_keep_features_where_the_user_named_a_folder_as_a_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FEATURES_VARIABLE, raising=False)
    assert FEATURES_VARIABLE not in dict(worker_environment())
    monkeypatch.setenv(FEATURES_VARIABLE, "features")
    assert dict(worker_environment())[FEATURES_VARIABLE] == str(Path("features").absolute())


def test_a_plan_names_the_models_that_are_not_here_each_once(hub: Hub, tmp_path: Path) -> None:
    steps = [
        Step(f"predict {task}", "lilora.stages:predict", PredictConfig(SeqLoRA(), model, task, "test", 8))
        for task in ("a", "b")
        for model in (MODEL, BACKBONE)
    ]
    store = Store(tmp_path / "store")
    assert absent_backbones(Plan.of(steps).missing(store)) == [MODEL]
    hub.put(*hub.names)
    assert absent_backbones(Plan.of(steps).missing(store)) == []
    assert _hub.is_here(BACKBONE.location, "any") and hub.calls == 0
