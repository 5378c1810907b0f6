"""ProgLoRA: the pool and its weights, what is recalled, the router, and where both forms are something simpler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lilora.adapters.embedding import TaskEmbedding
from lilora.adapters.similarity import centred, product_of_cosines
from lilora.adapters.state import State, load_state
from lilora.methods._blocks import blocks_of
from lilora.methods._pool import Allocation, PoolLinear
from lilora.methods.proglora_dynamic import ROUTER, ProgLoRADynamic
from lilora.methods.proglora_dynamic.layer import Router, pooled_prompts, recall_loss
from lilora.methods.proglora_static import WEIGHTS, ProgLoRAStatic
from lilora.methods.seqlora import SeqLoRA
from lilora.model.tokens import load_task
from lilora.training.batches import memory_rows
from tests.lilora.lab import TASKS, Lab, small

D, K, R = 5, 7, 2


def pool(weights: list[float], dropout: float = 0.0) -> PoolLinear:
    torch.manual_seed(0)
    blocks = [(torch.randn(R, K), torch.randn(D, R)) for _ in weights]
    *past, (a, b) = blocks
    base = torch.nn.Linear(K, D)
    allocation = Allocation(torch.tensor(weights))
    return PoolLinear(base, past, torch.nn.Parameter(a), torch.nn.Parameter(b), 2.0, dropout, allocation, False)


def embedding(*numbers: float) -> TaskEmbedding:
    return TaskEmbedding(*(torch.tensor([number, 1.0]) for number in numbers))


# The pool


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.25, -0.5, 1.0]])
def test_a_pool_is_the_weighted_sum_of_its_blocks(weights: list[float]) -> None:
    layer, x = pool(weights), torch.randn(3, 4, K)
    past = layer.get_buffer("past_A").split(R), layer.get_buffer("past_B").split(R, dim=1)
    blocks = [*zip(*past, strict=True), (layer.tensors["A"], layer.tensors["B"])]
    wanted = layer.base_layer(x)
    for weight, (a, b) in zip(weights, blocks, strict=True):
        wanted = wanted + 2.0 * weight * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.base_layer(x) + x @ layer.delta().T, wanted)


def test_rows_have_weights_of_their_own_and_pictures_those_of_their_row() -> None:
    layer, x = pool([1.0, 1.0]), torch.randn(2, 4, K)
    layer.allocation.weights = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    whole = layer(x)
    for row in range(2):
        layer.allocation.weights = torch.tensor([[0.9, 0.1], [0.2, 0.8]])[row : row + 1]
        torch.testing.assert_close(layer(x[row : row + 1])[0], whole[row])


def test_a_single_block_is_the_bits_of_seqloras_update(lab: Lab) -> None:
    state = load_state(lab.stage(small("seqlora"), 0))
    plain = lab.adapted_logits(small("seqlora"), state, TASKS[0])
    for name in ("proglora_static", "proglora_dynamic"):
        assert torch.equal(lab.adapted_logits(small(name), state, TASKS[0]), plain)


def test_the_first_stage_is_seqloras() -> None:
    for method in (ProgLoRAStatic(rank=4), ProgLoRADynamic(rank=4, width=3)):
        assert method.stage_method(first=True) == SeqLoRA(rank=4, lora_alpha=4)
        assert method.stage_method() is method


def test_a_state_of_another_method_is_refused(lab: Lab) -> None:
    state = load_state(lab.stage(small("lilora"), 1))
    with pytest.raises(ValueError, match="no LoRA block: it was made by another method"):
        blocks_of(state)
    with pytest.raises(ValueError, match="were not loaded: Colour; call load_state without `only`"):
        blocks_of(State(("Colour",), {}))


# Weights and what is recalled


def test_weights_are_products_of_three_cosines_worked_by_hand() -> None:
    # (1, 1) and (0, 1) are at 45 degrees: cos 0.7071; (1, 1) and (1, 1) at 0; (-1, 1) and (1, 1) at 90.
    root = 0.5**0.5
    assert product_of_cosines(embedding(1, 1, 0), embedding(0, 1, 0)) == pytest.approx(root)
    assert product_of_cosines(embedding(1, 1, 1), embedding(0, 0, 0)) == pytest.approx(root**3)
    assert product_of_cosines(embedding(1, 1, -1), embedding(1, 1, 1)) == pytest.approx(0)


def test_a_common_part_of_all_embeddings_says_nothing_once_they_are_centred() -> None:
    tasks = [embedding(1, 2, 3), embedding(2, 2, 1), embedding(0, 1, 2)]
    moved = [TaskEmbedding(*(part + 10 for part in vars(task).values())) for task in tasks]
    for one, other in zip(centred(tasks), centred(moved), strict=True):
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
            torch.testing.assert_close(a, b)


def test_an_unlike_task_is_recalled_more_and_never_beyond_phi() -> None:
    state = State(("A", "B", "C"), {}, values={WEIGHTS: {"D": {"A": 0.9, "B": 0.0, "C": -0.5}}})
    method = ProgLoRAStatic(phi=200)
    assert method.recalled(state, "D") == {"A": 20, "B": 200, "C": 200}
    assert replace(method, recall="random").recalled(state, "D") == {"A": 200, "B": 200, "C": 200}
    assert replace(method, recall="none").recalled(state, "D") == {}
    rehearsal = method.rehearsal(state, "D")
    assert rehearsal is not None
    assert (rehearsal.of_task("A"), rehearsal.weight, rehearsal.own_mean) == (20, 2.0, False)


def test_a_stage_keeps_the_weights_of_its_task_beside_those_before(lab: Lab) -> None:
    state = load_state(lab.stage(small("proglora_static"), 1))
    assert list(state.values[WEIGHTS]) == ["Place"]
    assert set(state.values[WEIGHTS]["Place"]) == {"Colour"}
    assert set(state.parts) == set(TASKS)


def test_w_of_one_leaves_every_earlier_block_whole(lab: Lab) -> None:
    method = small("proglora_static", allocation="ones", recall="none")
    state = load_state(lab.stage(method, 1))
    adapters = method.attach(lab.model, list(lab.sites), state, "Place", None)
    try:
        assert all(layer.allocation.weights.tolist() == [1.0, 1.0] for layer in adapters.layers.values())
    finally:
        adapters.remove()


# The router


def router(num_blocks: int, dtype: torch.dtype = torch.float32) -> Router:
    torch.manual_seed(1)
    shapes = {"W1": (3, 4), "b1": (3,), "W2": (4, 3), "b2": (4,), "gain": (4,), "shift": (4,)}
    keys = {f"key_{place + 1}": (4,) for place in range(num_blocks)}
    tensors = {name: torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for name, shape in {**shapes, **keys}.items()}
    return Router(tensors, num_blocks, 0.7)


def test_weights_of_blocks_are_positive_and_sum_to_one() -> None:
    weights = router(3)(torch.randn(6, 4))
    assert bool((weights > 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_a_rows_weights_depend_on_its_prompt_alone(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Colour"], "train")
    together = pooled_prompts(lab.model, data.training_batch(range(6)))
    for row in range(6):
        assert torch.equal(pooled_prompts(lab.model, data.training_batch([row]))[0], together[row])
    padded_left = pooled_prompts(lab.model, data.prompt_batch(range(6)))
    assert torch.equal(padded_left, together)


def test_the_recall_is_zero_where_nothing_changed_and_finite_where_blocks_came_later() -> None:
    pooled = torch.randn(5, 4)
    of_two = router(2)(pooled).detach()
    assert recall_loss(router(2), pooled, of_two).item() == pytest.approx(0, abs=1e-6)
    padded = torch.nn.functional.pad(of_two, (0, 1))
    assert 0 < recall_loss(router(3), pooled, padded).item() < 100


def test_gradients_of_the_recall_are_those_of_finite_differences() -> None:
    model, pooled = router(3, torch.float64), torch.randn(4, 4, dtype=torch.float64)
    targets = torch.nn.functional.pad(torch.rand(4, 2, dtype=torch.float64).softmax(1), (0, 1))
    names = list(model.tensors)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(
            model, {f"tensors.{name}": value for name, value in zip(names, values, strict=True)}, (pooled,)
        ).log().mul(-targets).sum() / len(pooled) + targets.xlogy(targets).sum() / len(pooled)

    values = [tensor.detach().clone().requires_grad_() for tensor in model.tensors.values()]
    assert torch.autograd.gradcheck(loss, values)
    whole = recall_loss(model, pooled, targets)
    assert whole.item() == pytest.approx(loss(*values).item(), abs=1e-9)
    for gradient, own in zip(
        torch.autograd.grad(whole, list(model.tensors.values())),
        torch.autograd.grad(loss(*values), values),
        strict=True,
    ):
        torch.testing.assert_close(gradient, own, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("name", ["proglora_static", "proglora_dynamic", "lwf"])
def test_nothing_is_recalled_before_the_second_task(lab: Lab, name: str) -> None:
    method = small(name)
    adapters = method.attach(lab.model, list(lab.sites), None, TASKS[0], 0)
    try:
        method.begin(adapters, None)
        assert method.penalty(adapters) is None
        assert adapters.regulariser is None
        assert not adapters.modules
    finally:
        adapters.remove()


def test_the_new_blocks_key_trains_and_earlier_ones_stay_unless_all_are_asked_for(lab: Lab) -> None:
    for keys, trained in (("new", {"key_2"}), ("all", {"key_1", "key_2"})):
        method = small("proglora_dynamic", keys=keys)
        adapters = method.attach(lab.model, list(lab.sites), lab.prepared(method, 1), TASKS[1], 0)
        adapters.remove()
        assert {name.removeprefix(f"{ROUTER}.") for name in adapters.trainable if ".key_" in name} == trained


def test_the_samples_of_an_earlier_task_follow_from_the_seed_and_are_kept_with_their_weights(lab: Lab) -> None:
    method = small("proglora_dynamic")
    once, again = lab.prepared(method, 1), lab.prepared(method, 1)
    assert once is not None
    assert again is not None
    kept = once.memory["Colour"]
    assert kept["pooled"].shape[0] == method.phi  # type: ignore[attr-defined]
    assert torch.equal(kept["weights"], torch.ones(len(kept["pooled"]), 1))
    assert torch.equal(kept["pooled"], again.memory["Colour"]["pooled"])


@pytest.mark.parametrize("name", ["proglora_static", "proglora_dynamic"])
def test_of_a_task_with_fewer_rows_than_phi_all_are_recalled(lab: Lab, name: str) -> None:
    ids = load_task(lab.backbone, lab.data["Colour"], "train").ids
    rows = len(ids)
    method = replace(small(name), phi=10 * rows)  # type: ignore[call-arg]
    lab.train(lab.config(method, 1), lab.stage(method, 0), lab.folder())
    assert memory_rows(ids, 0, "Colour", 10 * rows) == list(range(rows))
    state = lab.prepared(method, 1)
    assert state is not None
    if name == "proglora_dynamic":
        assert len(state.memory["Colour"]["pooled"]) == rows


def test_a_task_without_pictures_is_unlike_those_with_and_compared_by_its_words_with_others() -> None:
    text, other = (TaskEmbedding(torch.zeros(2), *(torch.tensor([x, 1.0]) for x in (1.0, y))) for y in (1.0, 0.0))
    assert ProgLoRAStatic().weigh(text, [embedding(1, 1, 1), other]) == pytest.approx([0.0, 0.5**0.5])
    state = State(("A",), {}, values={WEIGHTS: {"B": {"A": 0.0}}})
    assert ProgLoRAStatic(phi=10).recalled(state, "B") == {"A": 10}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phi": -1}, "phi is -1"),
        ({"recall": "some"}, "no recall 'some'; there are: similar, random, none"),
        ({"likeness": "dot"}, "no likeness 'dot'"),
        ({"allocation": "two"}, "no allocation 'two'"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProgLoRAStatic(**fields)  # type: ignore[arg-type]
