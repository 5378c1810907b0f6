"""What a stage notes of what kept it from forgetting, worked by hand, and what is said to do nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lilora import stages
from lilora.adapters.initial import initial_normal
from lilora.adapters.state import State, load_state
from lilora.methods._mechanisms import agreement, drifts, inert, put_back, shared_groups
from lilora.methods.eproj import Eproj
from lilora.methods.ewc_tir import EWCTIR
from lilora.methods.lilora import LiLoRA
from lilora.methods.moelora import MoeLoRA
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.smolora import SMoLoRA
from lilora.stages.configs import InspectConfig
from lilora.training import Training
from tests.lilora.lab import TASKS, TRAINING, Lab, files

LILORA = LiLoRA(rank=4, lora_alpha=8)


def test_drift_is_relative_to_what_was_there_before() -> None:
    before = {"x.A": torch.tensor([3.0, 0.0]), "y.A": torch.tensor([4.0]), "x.B": torch.zeros(2)}
    now = {"x.A": torch.tensor([3.0, 3.0]), "y.A": torch.tensor([0.0]), "x.B": torch.ones(2)}
    # ||(0, 3, -4)|| / ||(3, 0, 4)||; what was 0 has no relative drift.
    assert drifts({"A": r".+\.A", "B": r".+\.B"}, now, before) == {"A": 1.0}


def test_agreement_is_the_mean_over_pairs_of_tasks() -> None:
    assert agreement([[0, 1, 2, 3]]) is None
    assert agreement([[0, 1, 2, 3], [0, 1, 0, 0], [0, 0, 0, 0]]) == pytest.approx((2 + 1 + 3) / 12)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([{"similarity": {"mean": -0.09}}, {"similarity": {"mean": 0.05}}], "plain L2"),
        ([{"similarity": {"mean": -0.11}}, {"similarity": {"mean": 0.05}}], ""),
        ([{"alpha": {"moved": {"mean": 0.0009}}}], "alpha moved"),
        ([{"alpha": {"moved": {"mean": 0.0009}}}, {"alpha": {"moved": {"mean": 0.002}}}], ""),
        ([{"weights": {"a": 1.0}}, {"weights": {"a": 0.91, "b": 1.0}}], "tell no earlier task"),
        ([{"weights": {"a": 0.89, "b": 1.0}}], ""),
        ([{"weights": {"a": 1.0}}], ""),
        ([{"routers": {"r": {"share": 0.97, "usual": [1, 2]}}}] * 2, "one expert takes 97 %"),
        ([{"routers": {"r": {"share": 0.94, "usual": [1, 2]}}}] * 2, ""),
        ([{"routers": {"r": {"share": 1.0, "usual": own}}} for own in ([1, 2], [3, 0])], ""),
        ([{}, {"drift": {"A": 1.0}}], ""),
    ],
)
def test_a_mechanism_is_inert_where_it_is_in_every_stage(stages: list[dict[str, Any]], words: str) -> None:
    found = inert(stages)
    assert len(found) == bool(words)
    assert words in "".join(found)


def test_of_all_tasks_rows_together_one_expert_is_enough_to_be_inert() -> None:
    assert inert([], {"r": {"share": 0.96}}) and not inert([], {"r": {"share": 0.94}})


def test_the_reach_is_the_sum_of_the_rates() -> None:
    training = Training(learning_rate=0.5, warmup=0.5, schedule="linear")
    assert training.reach(4) == pytest.approx(0.25 + 0.5 + 0.5 + 0.25)


def test_lilora_tells_how_far_alpha_moved_and_no_further_than_the_optimiser_allows(lab: Lab) -> None:
    noted = lab.train(lab.config(LILORA, 1), lab.stage(LILORA, 0), lab.folder())["mechanisms"]
    state = load_state(lab.stage(LILORA, 1))
    part = state.parts[TASKS[1]]
    moves = [
        abs(float(torch.sigmoid(part[name]) - torch.sigmoid(initial_normal(0, TASKS[1], name, (1,)))))
        for name in part
        if name.endswith(".theta")
    ]
    moved, bound = noted["alpha"]["moved"], noted["alpha"]["bound"]
    assert (moved["least"], moved["greatest"]) == pytest.approx((min(moves), max(moves)))
    assert moved["mean"] == pytest.approx(sum(moves) / len(moves))
    assert 0 < moved["greatest"] <= bound == pytest.approx(0.25 * TRAINING.reach(12))


def test_the_noted_cosine_is_that_of_the_whole_products(lab: Lab) -> None:
    state = load_state(lab.stage(LILORA, 1))
    whole = [
        [part[f"{site}.B_task"] @ part[f"{site}.A_task"] for part in (state.parts[task] for task in TASKS)]
        for site in lab.sites
    ]
    cosines = [float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0)) for a, b in whole]
    found = LILORA.mechanisms(state, load_state(lab.stage(LILORA, 0)), 0)["similarity"]
    assert found["mean"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert (found["least"], found["greatest"]) == pytest.approx((min(cosines), max(cosines)), abs=1e-6)


def test_weights_of_tasks_likeness_are_noted_by_task(lab: Lab) -> None:
    method = EWCTIR(rank=4, lora_alpha=8)
    found = method.mechanisms(load_state(lab.stage(method, 1)), None, 0)
    assert found["weights"].keys() == {TASKS[0]} and 0 <= found["weights"][TASKS[0]] <= 1


@pytest.mark.parametrize(
    ("method", "routers"),
    [
        (MoeLoRA(rank=4, experts=2), {"router"}),
        (SMoLoRA(rank=4, experts=4), {"visual", "instruction"}),
        (ProgLoRADynamic(rank=4, width=4, phi=8), {"blocks"}),
        (MoeLoRA(rank=4, experts=1), set()),
        (SeqLoRA(rank=4), set()),
    ],
)
def test_an_inspection_finds_what_the_stages_noted(lab: Lab, method: Any, routers: set[str]) -> None:
    noted = []
    for place in (0, 1):
        config = lab.config(method, place)
        out, previous = lab.folder(), lab.stage(method, place - 1) if place else None
        noted.append(lab.train(config, previous, out)["mechanisms"])
        assert files(out) == files(lab.stage(method, place)), "what is noted is in no file"
    out = lab.folder()
    inputs = {f"state-{task}": lab.stage(method, place) for place, task in enumerate(TASKS)}
    inputs |= {f"data-{task}": lab.data[task] for task in TASKS}
    stages.inspect(InspectConfig(method, lab.backbone, TASKS, TRAINING, 0), inputs, out, lab.run())
    found = json.loads((out / "inspection.json").read_text())
    assert [found["stages"][task] for task in TASKS] == json.loads(json.dumps(noted))
    assert found["routers"].keys() == routers == noted[1].get("routers", {}).keys()
    for router in routers:
        use = found["routers"][router]
        assert all(0 < share <= 1 for share in (use["share"], *use["by_task"].values()))
        assert use["by_task"][TASKS[1]] == pytest.approx(noted[1]["routers"][router]["share"])
    assert found["since"][TASKS[0]] == pytest.approx(noted[1].get("drift", {}))


def test_softmax_routers_of_two_experts_give_the_usual_one_at_least_half(lab: Lab) -> None:
    method = MoeLoRA(rank=4, experts=2)
    noted = lab.train(lab.config(method, 0), None, lab.folder())["mechanisms"]["routers"]["router"]
    assert 0.5 <= noted["share"] < 1 and set(noted["usual"]) <= {0, 1}
    assert len(noted["usual"]) == len(lab.sites)


def test_eproj_puts_back_its_groups_projectors_or_the_keys_that_choose(lab: Lab) -> None:
    method = Eproj(threshold=-1.0)
    own, last = (load_state(lab.stage(method, place)) for place in (0, 1))
    assert last.values["groups"] == dict.fromkeys(TASKS, TASKS[0]), "the second task joins the first one's group"
    then, now = (lab.adapted_logits(method, state, TASKS[0]) for state in (own, last))
    back = {group: put_back(method, lab.backbone, last, own, group) for group in method.shared_groups()}
    logits = {group: lab.adapted_logits(method, state, TASKS[0]) for group, state in back.items()}
    assert not torch.equal(now, then)
    assert torch.equal(logits["projectors"], then)
    assert torch.equal(logits["keys"], now), "one group, whatever the keys"
    assert back["keys"].values == own.values and back["keys"].tasks == own.tasks


def test_a_router_put_back_keeps_the_keys_of_blocks_that_came_later() -> None:
    def state(tasks: tuple[str, ...], value: float) -> State:
        shared = {f"lilora_router.key_{place + 1}": torch.full((1,), value) for place in range(len(tasks))}
        parts = {task: {"x.A": torch.ones(1)} for task in tasks}
        return State(tasks, {**shared, "lilora_router.W1": torch.full((1,), value)}, parts)

    own, last = state(("a", "b"), 1.0), state(("a", "b", "c"), 2.0)
    back = ProgLoRADynamic(keys="all").put_back(last, own, "router")
    assert {name: float(value) for name, value in back.shared.items()} == {
        "lilora_router.W1": 1, "lilora_router.key_1": 1, "lilora_router.key_2": 1, "lilora_router.key_3": 2,
    }  # fmt: skip
    assert back.tasks == last.tasks
    fewer = ProgLoRADynamic(keys="all").put_back(last, own, "later blocks")
    assert fewer.tasks == own.tasks and float(fewer.shared["lilora_router.W1"]) == 2


def test_layers_trained_in_full_are_a_group_of_the_backbones(lab: Lab) -> None:
    full = lab.on(lab.backbone.adapted("attention", "full"))
    method = SeqLoRA(rank=4)
    own, last = (load_state(full.stage(method, place)) for place in (0, 1))
    groups = shared_groups(method, full.backbone)
    assert list(groups) == ["A", "B", "full"]
    assert drifts(groups, last.shared, own.shared).keys() == set(groups)
    back = put_back(method, full.backbone, last, own, "full")
    changed = {name for name in last.shared if not torch.equal(back.shared[name], last.shared[name])}
    assert changed == {name for name in last.shared if name.rpartition(".")[2] in ("weight", "bias")}
