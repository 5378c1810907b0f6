"""EWC and EWC+TIR: the Fisher information and the penalty against plain formulas, and what they do to a stage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lilora import stages
from lilora.adapters.embedding import TaskEmbedding
from lilora.adapters.fisher import QuadraticPenalty, diagonal_fisher
from lilora.adapters.preparation import TaskRows
from lilora.adapters.state import State, Tensors, load_state
from lilora.core.identity import digest_of
from lilora.core.stage_run import Placement
from lilora.data.sampling import chosen_rows
from lilora.methods import Method
from lilora.methods.ewc import EWC
from lilora.methods.ewc_tir import EWCTIR
from lilora.methods.seqlora import SeqLoRA
from lilora.model.features import load_features
from lilora.model.tokens import load_task
from tests.lilora.lab import TASKS, TRAINING, Lab, files, num_in_memory
from tests.lilora.methods.reference import ewc as reference
from tests.lilora.methods.reference.plain_lora import PlainLora

_INSTRUCTIONS = ([4.0, 0.0], [2.0, 0.0], [0.0, 3.0])
METHODS = {"ewc": EWC(rank=4, lora_alpha=8, weight=3), "ewc+tir": EWCTIR(rank=4, lora_alpha=8, weight=3)}


@pytest.fixture(params=METHODS, name="method")
def _method(request: pytest.FixtureRequest) -> EWC:
    return METHODS[request.param]


def _task_rows(lab: Lab, task: str) -> TaskRows:
    data = load_task(lab.backbone, lab.data[task], "train")
    return TaskRows(data, load_features(lab.model, lab.backbone.load_processor(), data))


def _fisher(lab: Lab, rows: list[int], placement: Placement | None = None, **options: str) -> Tensors:
    """Of SeqLoRA's parameters after its first task."""
    method = SeqLoRA(rank=4, lora_alpha=8)
    adapters = method.attach(lab.model, list(lab.sites), load_state(lab.stage(method)), "Colour", 0)
    settings = {"answers": "empirical", "seed": "0", **options}
    try:
        return diagonal_fisher(adapters, _task_rows(lab, "Colour"), rows, placement or Placement(), **settings)
    finally:
        adapters.remove()


def _plain(lab: Lab) -> PlainLora:
    state = load_state(lab.stage(SeqLoRA(rank=4, lora_alpha=8)))
    return PlainLora(lab.model, dict(state.shared), scaling=2.0)


def _third_stage(lab: Lab, method: Method) -> Path:
    """A stage on Caption, after Colour and Place."""
    config = stages.TrainConfig(method, lab.backbone, "Caption", TASKS, TRAINING, 0)
    out = lab.root / "artifacts" / digest_of(config)
    if not out.exists():
        lab.train(config, lab.stage(method, 1), out)
    return out


def _penalties(folder: Path) -> list[float]:
    return [row["penalty"] for row in json.loads((folder / "history.json").read_text())]


def test_the_fisher_information_is_that_of_loops_over_rows_on_the_whole_model_in_float64(lab: Lab) -> None:
    rows = [3, 11, 20]
    plain, data = _plain(lab), _task_rows(lab, "Colour").data
    processor = lab.backbone.load_processor()
    likelihoods = (sum(plain.token_likelihoods(processor, data, row)) for row in rows)
    wanted = reference.fisher(likelihoods, list(plain.values.values()))
    found = _fisher(lab, rows)
    assert list(found) == list(plain.values)
    for name, values in zip(found, wanted, strict=True):
        # float32 gradients, squared; the least entries are differences of far larger numbers.
        torch.testing.assert_close(found[name].double(), values, rtol=1e-3, atol=1e-5 * values.max().item())


def test_sampled_answers_give_the_expectation_under_the_model(lab: Lab) -> None:
    row, draws = 5, 60
    plain, data = _plain(lab), _task_rows(lab, "Colour").data
    name = "model.language_model.layers.1.mlp.down_proj.B"
    distributions = plain.token_distributions(lab.backbone.load_processor(), data, row)
    exact = reference.exact_fisher(distributions, plain.values[name]).sum().item()
    found = [_fisher(lab, [row], answers="sampled", seed=str(seed))[name].sum().item() for seed in range(draws)]
    mean = sum(found) / draws
    error = (sum((value - mean) ** 2 for value in found) / (draws - 1) / draws) ** 0.5
    assert abs(mean - exact) < 3 * error < exact
    assert found[0] == _fisher(lab, [row], answers="sampled", seed="0")[name].sum().item()


def test_workers_share_the_rows_of_the_fisher_information(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    rows = [1, 2, 3, 4, 5]
    shares = [_fisher(lab, rows, Placement(rank, 2)) for rank in range(2)]
    for name, whole in _fisher(lab, rows).items():
        torch.testing.assert_close(shares[0][name] + shares[1][name], whole, rtol=1e-5, atol=0)


def test_the_penalty_is_that_of_loops_over_tasks_and_entries(lab: Lab) -> None:
    method = SeqLoRA(rank=4, lora_alpha=8)
    adapters = method.attach(lab.model, list(lab.sites)[:1], load_state(lab.stage(method)), "Colour", 0)
    generator = torch.Generator().manual_seed(0)
    weights = {"one": 1.0, "two": 0.25, "three": 0.0}
    sizes = {name: tensor.shape for name, tensor in adapters.parameters().items()}
    memory = {
        task: {
            **{f"{name}.fisher": torch.rand(*shape, generator=generator) for name, shape in sizes.items()},
            **{f"{name}.anchor": torch.randn(*shape, generator=generator) for name, shape in sizes.items()},
        }
        for task in weights
    }
    try:
        ours = QuadraticPenalty(adapters, memory, weights, list(weights))()
        ours.backward()
        names = list(sizes)
        gradient = torch.cat([adapters.tensors[name].grad.flatten() for name in names])  # type: ignore[union-attr]
        theta = torch.cat([adapters.tensors[name].detach().flatten() for name in names]).tolist()
    finally:
        adapters.remove()

    def flat(task: str, kind: str) -> list[float]:
        return torch.cat([memory[task][f"{name}.{kind}"].flatten() for name in names]).tolist()

    anchors, fishers = ([flat(task, kind) for task in weights] for kind in ("anchor", "fisher"))
    assert ours.item() == pytest.approx(reference.penalty(theta, anchors, fishers, list(weights.values())), rel=1e-5)
    for place in (0, 17, len(theta) - 1):
        columns = [[[values[place]] for values in group] for group in (anchors, fishers)]

        def of_one(at: list[float], columns: list[list[list[float]]] = columns) -> float:
            return reference.penalty(at, columns[0], columns[1], list(weights.values()))

        # The penalty is a sum over entries, so an entry's derivative needs no other; float32 against float64.
        assert gradient[place].item() == pytest.approx(reference.derivative(of_one, [theta[place]], 0), rel=1e-4)


def test_a_stage_begins_without_penalty_and_pays_as_it_leaves(lab: Lab) -> None:
    penalties = _penalties(lab.stage(METHODS["ewc"], 1))
    assert penalties[0] == 0 < penalties[-1]


def test_the_printed_penalty_of_a_third_stage_is_the_formulas(lab: Lab) -> None:
    method = METHODS["ewc"]
    before = load_state(lab.stage(method, 1), memory=True)
    after = load_state(_third_stage(lab, method), memory=True)
    assert set(before.memory) == {"Colour"} and set(after.memory) == {"Colour", "Place"}
    names = list(before.shared)

    def flat(values: Tensors, ending: str = "") -> list[float]:
        return torch.cat([values[name + ending].flatten() for name in names]).tolist()

    anchors = [flat(after.memory[task], ".anchor") for task in TASKS]
    assert anchors[0] == flat(load_state(lab.stage(method, 0)).shared)
    assert anchors[1] == flat(before.shared)
    fishers = [flat(after.memory[task], ".fisher") for task in TASKS]
    # The first step is taken at the second task's anchor: it pays for what the second task did to the first.
    first = method.weight * reference.penalty(flat(before.shared), anchors, fishers, [1, 1])
    assert first > 0
    assert _penalties(_third_stage(lab, method))[0] == pytest.approx(first, rel=1e-4)


def test_an_earlier_tasks_memory_is_referenced_not_copied(lab: Lab, method: EWC) -> None:
    folder = _third_stage(lab, method)
    assert set(files(folder)) == {"history.json", "shared.safetensors", "state.json", "memory-Place.safetensors"}
    entries = json.loads((folder / "state.json").read_text())["memory"]
    assert entries["Colour"]["artifact"] == lab.stage(method, 1).name
    assert num_in_memory(load_state(folder)) == 0, "predicting must not load what only learning needs"
    count = method.count(lab.sites)
    assert num_in_memory(load_state(folder, memory=True)) == 2 * count.memory_per_task


def test_a_heavy_penalty_holds_what_the_first_task_needs(lab: Lab) -> None:
    moves = []
    for weight in (0.0, 1e4):
        method = dataclasses.replace(METHODS["ewc"], weight=weight)
        before, after = load_state(lab.stage(method, 0)), load_state(lab.stage(method, 1), memory=True)
        fisher = {name: after.memory["Colour"][f"{name}.fisher"] for name in before.shared}
        moves.append(sum((fisher[n] * (after.shared[n] - before.shared[n]).square()).sum().item() for n in fisher))
    assert moves[1] < 0.1 * moves[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_at_weight_zero_a_stage_is_seqloras_to_the_bit_over_two_tasks(lab: Lab, method: EWC, dropout: float) -> None:
    free = dataclasses.replace(method, weight=0, dropout=dropout)
    seqlora = SeqLoRA(rank=4, lora_alpha=8, dropout=dropout)
    for stage in (0, 1):
        one, other = lab.stage(seqlora, stage), lab.stage(free, stage)
        assert digest_of(lab.config(free, stage)) != digest_of(lab.config(seqlora, stage)), "trained by its own path"
        for name in ("shared.safetensors", "history.json"):
            assert files(one)[name] == files(other)[name]
    assert set(load_state(lab.stage(free, 1), memory=True).memory) == {"Colour"}


def test_the_first_stage_is_seqloras(lab: Lab, method: EWC) -> None:
    assert method.stage_method(first=True) == SeqLoRA(rank=4, lora_alpha=8)
    assert files(lab.stage(method)) == files(lab.stage(SeqLoRA(rank=4, lora_alpha=8)))


def test_with_weights_of_one_tir_is_ewc_to_the_bit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EWCTIR, "weigh", lambda self, new, earlier: [1.0] * len(earlier))
    method, out = METHODS["ewc+tir"], lab.folder()
    lab.train(lab.config(method, 1), lab.stage(method, 0), out)
    for name in ("shared.safetensors", "history.json", "memory-Colour.safetensors"):
        assert files(out)[name] == files(lab.stage(METHODS["ewc"], 1))[name]


def test_tir_weighs_each_earlier_task_and_its_two_directions_add_up_to_ewc(lab: Lab) -> None:
    weights = {}
    for toward in ("dissimilar", "similar"):
        state = load_state(_third_stage(lab, EWCTIR(rank=4, lora_alpha=8, weight=3, toward=toward)))
        weights[toward] = state.values["task_weights"]
        assert set(state.values["task_embeddings"]) == set(TASKS)
    assert set(weights["similar"]) == set(TASKS)
    assert 0 < weights["similar"]["Colour"] != weights["similar"]["Place"] < 1
    for task in TASKS:
        assert weights["similar"][task] + weights["dissimilar"][task] == pytest.approx(1)


def test_centred_weights_worked_by_hand() -> None:
    """Instructions (4, 0) against (2, 0) and (0, 3), whose mean is (2, 1): (2, -1) against (0, -1) and (-2, 2)."""
    new, one, other = (TaskEmbedding(torch.zeros(1), torch.tensor(x), torch.zeros(2)) for x in _INSTRUCTIONS)
    method = EWCTIR(scale="centred", parts=("instructions",))
    assert method.weigh(new, [one, other]) == pytest.approx([1 - 1 / 5**0.5, 1.0])
    assert dataclasses.replace(method, toward="similar").weigh(new, [one, other]) == pytest.approx([1 / 5**0.5, 0.0])
    assert method.weigh(new, [one]) == [1.0], "two tasks are opposite without their mean"
    plain = dataclasses.replace(method, scale="cosine")
    assert plain.weigh(new, [one, other]) == pytest.approx([0.0, 1.0])


def test_tirs_penalty_is_its_weight_times_ewcs(lab: Lab) -> None:
    method, plain = METHODS["ewc+tir"], METHODS["ewc"]
    after = load_state(lab.stage(method, 1), memory=True)
    state = dataclasses.replace(load_state(lab.stage(plain, 0)), memory=after.memory, values=after.values)
    values = []
    for one in (method, plain):
        adapters = one.attach(lab.model, list(lab.sites), state, "Place", 0)
        one.begin(adapters, state)
        with torch.no_grad():
            for tensor in adapters.parameters().values():
                tensor.add_(0.1)
        penalty = one.penalty(adapters)
        adapters.remove()
        assert penalty is not None
        values.append(penalty.item())
    assert values[0] == pytest.approx(after.values["task_weights"]["Colour"] * values[1], rel=1e-5)


def test_a_stage_whose_memory_was_not_made_is_caught(lab: Lab) -> None:
    state: State = load_state(lab.stage(METHODS["ewc"]))
    adapters = METHODS["ewc"].attach(lab.model, list(lab.sites), state, "Place", 0)
    METHODS["ewc"].begin(adapters, state)
    adapters.remove()
    with pytest.raises(AssertionError, match="no Fisher information of .*Colour"):
        METHODS["ewc"].penalty(adapters)


def test_the_chosen_rows_do_not_depend_on_the_files_order() -> None:
    ids = [f"row-{place}" for place in range(30)]
    chosen = [ids[place] for place in chosen_rows(ids, "0/GQA/fisher", 5)]
    assert chosen == [ids[::-1][place] for place in chosen_rows(ids[::-1], "0/GQA/fisher", 5)]
    assert len(set(chosen)) == 5
    assert chosen != [ids[place] for place in chosen_rows(ids, "1/GQA/fisher", 5)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": -1}, "cannot be negative"),
        ({"fisher_rows": 0}, "at least one row"),
        ({"fisher": "true"}, "there are: empirical, sampled"),
        ({"toward": "both"}, "there are: dissimilar, similar"),
        ({"scale": "log"}, "there are: standardised, cosine, centred"),
        ({"text": "bert"}, "there are: input, hidden"),
        ({"parts": ("sounds",)}, "choose from: images, instructions, answers"),
    ],
)
def test_fields_that_mean_nothing_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EWCTIR(rank=4, **fields)  # type: ignore[arg-type]


def test_a_row_without_a_picture_has_no_fisher_information_in_the_projector(lab: Lab) -> None:
    method = EWC(rank=4, lora_alpha=8)
    config = lab.config(method, 1, dataclasses.replace(TRAINING, max_steps=2, epochs=1))
    mixed = lab.partly_without_pictures(TASKS[0])
    inputs = {"data": lab.data[TASKS[1]], f"data-{TASKS[0]}": mixed, "previous": lab.stage(method, 0)}
    out = lab.folder()
    stages.train(config, inputs, out, lab.run())
    fisher = load_state(out, lab.root.joinpath("artifacts").joinpath, memory=True).memory[TASKS[0]]
    projector = [name for name in fisher if "projector" in name and name.endswith(".fisher")]
    assert projector
    assert all(bool(fisher[name].any()) for name in projector)
