"""SMoLoRA: its layer against the formula, what a choice may depend on, and the answers that come of it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import polars
import pytest
import torch
from torch import Tensor, nn

from lilora.adapters.adapters import Adapters
from lilora.adapters.state import load_state
from lilora.methods.smolora import SMoLoRA, hidden_size
from lilora.methods.smolora import layer as layer_module
from lilora.methods.smolora.layer import Routing, SMoLoRALinear, balance_loss
from lilora.model.encoder import Encoder
from lilora.model.features import load_features
from lilora.model.generate import generate
from lilora.model.logits import embed
from lilora.model.tokens import IGNORED, Batch, TaskData, load_task
from lilora.training import Training
from tests.lilora.lab import Lab
from tests.lilora.methods.reference.smolora import smolora_output

METHOD = SMoLoRA(rank=8, lora_alpha=16, experts=8)
D, K, M = 5, 6, 3


def make_layer(straight_through: bool = True, per_picture: bool = False) -> SMoLoRALinear:
    """A float64 layer of random tensors with eight experts of rank 2."""
    torch.manual_seed(0)
    base = nn.Linear(K, D, dtype=torch.float64)
    shapes = {"A": (16, K), "B": (D, 16), "fusion": (2, D), "router_visual": (4, K), "router_instruction": (4, M)}
    tensors = {name: nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in shapes.items()}
    routing = Routing()
    return SMoLoRALinear(base, tensors, "site", 8, 0.5, 0.0, routing, per_picture, straight_through)


def rows_of(layer: SMoLoRALinear, prompts: list[list[int]], length: int) -> Tensor:
    """Turn the layer to random rows whose prompts stand at `prompts`; their instructions, scaled."""
    assert layer.routing is not None
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, places in enumerate(prompts):
        mask[row, places] = True
    instructions = torch.randn(len(prompts), M, generator=torch.Generator().manual_seed(1))
    layer.routing.begin(mask, [], instructions)
    return instructions / instructions.norm(dim=1, keepdim=True) * M**0.5


@contextmanager
def scrambled(lab: Lab, method: SMoLoRA) -> Iterator[Adapters]:
    """Adapters with random values on the lab's model, large enough to change what it says."""
    adapters = method.attach(lab.model, list(lab.sites), None, "Colour", 0)
    generator = torch.Generator().manual_seed(5)
    try:
        with torch.no_grad():
            for name, tensor in sorted(adapters.tensors.items()):
                scale = 1.0 if "router" in name else 0.3
                tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
        yield adapters
    finally:
        adapters.remove()


def test_the_layer_and_its_gradients_are_the_formulas() -> None:
    layer = make_layer()
    prompts = [[0, 1, 2], [1, 2, 3, 4], [0], [2, 3], [0, 4], [1, 3, 4]]
    x = torch.randn(6, 5, K, dtype=torch.float64, requires_grad=True)
    instructions = rows_of(layer, prompts, 5).double()
    weights = torch.randn(6, 5, D, dtype=torch.float64)
    inputs = [x, *layer.tensors.values()]
    ours = layer(x)
    base = layer.base_layer
    theirs = smolora_output(x, prompts, instructions, base.weight, base.bias, dict(layer.tensors.items()), 0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    expected = torch.autograd.grad((theirs * weights).sum(), inputs)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)  # the instructions are scaled in float32
    assert len({tuple(row.nonzero().flatten().tolist()) for row in layer.routing.chosen["site"]}) > 2


def test_pictures_go_by_the_mean_of_their_patches_and_their_rows_instruction() -> None:
    layer = make_layer(per_picture=True)
    x = torch.randn(3, 4, K, dtype=torch.float64)
    assert layer.routing is not None
    instructions = torch.randn(4, M)
    layer.routing.begin(torch.ones(4, 9, dtype=torch.bool), [0, 2, 3], instructions)
    scaled = (instructions / instructions.norm(dim=1, keepdim=True) * M**0.5).double()
    base = layer.base_layer
    theirs = smolora_output(
        x, [[0, 1, 2, 3]] * 3, scaled[[0, 2, 3]], base.weight, base.bias, dict(layer.tensors.items()), 0.5
    )
    torch.testing.assert_close(layer(x), theirs, rtol=1e-10, atol=1e-10)


def test_a_hard_router_gives_the_same_output_and_gets_no_gradient() -> None:
    soft, hard = make_layer(), make_layer(straight_through=False)
    x = torch.randn(2, 5, K, dtype=torch.float64)
    for layer in (soft, hard):
        rows_of(layer, [[0, 1], [2, 3, 4]], 5)
    output = hard(x)
    assert torch.equal(output, soft(x))
    output.sum().backward()
    assert hard.tensors["A"].grad is not None
    assert hard.tensors["router_visual"].grad is None
    assert hard.tensors["router_instruction"].grad is None


def test_neither_padding_nor_answers_nor_neighbours_move_a_choice() -> None:
    layer = make_layer()
    row = torch.randn(1, 3, K, dtype=torch.float64)
    junk = 100 * torch.randn(1, 4, K, dtype=torch.float64)
    alone_instruction = torch.randn(1, M)
    assert layer.routing is not None
    layer.routing.begin(torch.ones(1, 3, dtype=torch.bool), [], alone_instruction)
    alone = layer(row)
    for places, x in (([0, 1, 2], torch.cat([row, junk], 1)), ([4, 5, 6], torch.cat([junk, row], 1))):
        mask = torch.zeros(2, 7, dtype=torch.bool)
        mask[0, places] = True
        mask[1] = True
        layer.routing.begin(mask, [], torch.cat([alone_instruction, torch.randn(1, M)]))
        both = layer(torch.cat([x, torch.randn(1, 7, K, dtype=torch.float64)]))
        torch.testing.assert_close(both[:1, places], alone, rtol=1e-12, atol=1e-12)


def test_what_was_chosen_at_the_prompt_holds_until_new_rows_come() -> None:
    layer = make_layer()
    rows_of(layer, [[0, 1, 2], [1, 2]], 3)
    x, following = torch.randn(2, 3, K, dtype=torch.float64), torch.randn(2, 1, K, dtype=torch.float64)
    layer(x)
    assert layer.routing is not None
    chosen = layer.routing.chosen["site"].clone()
    layer(following * 100)
    assert torch.equal(layer.routing.chosen["site"], chosen)
    rows_of(layer, [[0, 1, 2], [1, 2]], 3)
    with pytest.raises(AssertionError, match="not the positions of"):
        layer(following)


def test_rows_that_were_not_announced_are_refused() -> None:
    with pytest.raises(AssertionError, match="call the method's `before_forward`"):
        make_layer()(torch.randn(2, 3, K, dtype=torch.float64))


def test_generating_with_a_cache_gives_the_tokens_of_whole_forwards(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Caption"], "test")
    processor = lab.backbone.load_processor()
    features = load_features(lab.model, processor, data)
    with scrambled(lab, METHOD) as adapters:
        announce = partial(METHOD.before_forward, adapters)
        run = lab.run()
        answers = {
            size: generate(lab.model, processor.tokenizer, data, features, 6, size, run, announce)
            for size in (1, 4, 10)
        }
        used = {tuple(row.nonzero().flatten().tolist()) for row in gates_of_prompts(lab, adapters, data)}
        whole = [greedy(lab, adapters, data, row) for row in range(len(data))]
    assert len(used) > 1, "one choice for all rows would make this test easy"
    assert answers[1] == answers[4] == answers[10]
    assert [answer.text for answer in answers[4]] == whole
    assert len(set(whole)) > 1


def gates_of_prompts(lab: Lab, adapters: Adapters, data: TaskData) -> Tensor:
    """What every module but the projector's chooses for every prompt, one after another."""
    batch = data.prompt_batch(range(len(data)))
    images = load_features(lab.model, lab.backbone.load_processor(), data).of(batch.images)
    METHOD.before_forward(adapters, batch, images)
    with torch.no_grad():
        lab.model(inputs_embeds=embed(lab.model, batch.input_ids, images), attention_mask=batch.attention_mask)
    routing: Any = next(iter(adapters.layers.values())).routing
    return torch.cat([gates for site, gates in routing.chosen.items() if "projector" not in site])


@torch.no_grad()
def greedy(lab: Lab, adapters: Adapters, data: TaskData, row: int) -> str:
    """The answer to one row by whole forwards without a cache, each told where the prompt ends."""
    tokenizer = lab.backbone.load_processor().tokenizer
    images = load_features(lab.model, lab.backbone.load_processor(), data).of([data.image_of[row]])
    prompt, tokens = data.prompts[row].tolist(), list[int]()
    while len(tokens) < 6 and tokenizer.eos_token_id not in tokens:
        ids = torch.tensor([[*prompt, *tokens]])
        labels = torch.tensor([[*[IGNORED] * len(prompt), *tokens]])
        asked = torch.zeros_like(ids, dtype=torch.bool)
        asked[0, slice(*data.asked[row])] = True
        template = torch.zeros_like(asked)
        template[0, slice(*data.templates[row])] = True
        images_of = ([data.image_of[row]], [0], [data.instructions[row]])
        batch = Batch(ids, torch.ones_like(ids), labels, *images_of, asked, template)
        METHOD.before_forward(adapters, batch, images)
        # A random model may well say "<image>", so the answer is embedded apart from the prompt and its picture.
        said = lab.model.get_input_embeddings()(ids[:, len(prompt) :])
        embedded = torch.cat([embed(lab.model, torch.tensor([prompt]), images), said], 1)
        hidden = lab.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        tokens.append(int(lab.model.lm_head(hidden[0, -1]).argmax()))
    return tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_do_not_depend_on_the_batch(lab: Lab, batch_size: int) -> None:
    method = SMoLoRA(rank=4, experts=4)
    state = lab.stage(method, 1)
    whole = polars.read_parquet(lab.predict(method, state, "Colour"))
    assert polars.read_parquet(lab.predict(method, state, "Colour", batch_size=batch_size)).equals(whole)


def test_checkpointing_and_micro_batches_change_no_loss(lab: Lab) -> None:
    method = SMoLoRA(rank=4, experts=4)
    training = Training(max_steps=3, batch_size=8)
    losses = []
    for micro, checkpointing in ((None, False), (None, True), (3, False)):
        out = lab.folder()
        config = lab.config(method, 0, dataclasses.replace(training, gradient_checkpointing=checkpointing))
        lab.train(config, None, out, micro_batch=micro)
        losses.append([row["loss"] for row in json.loads((out / "history.json").read_text())])
    # The same sums in another order.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_hard_routers_stay_as_drawn_and_others_move(lab: Lab) -> None:
    for router in ("straight-through", "hard"):
        method = SMoLoRA(rank=4, experts=4, router=router)
        adapters = method.attach(lab.model, list(lab.sites), None, "Colour", 0)
        adapters.remove()
        after = load_state(lab.stage(method)).shared
        same = {torch.equal(after[name], adapters.tensors[name]) for name in after if "router" in name}
        assert same == {router == "hard"}


@pytest.mark.parametrize("routers", ["first", "every"])
def test_routers_train_in_the_first_stage_alone_or_in_every_one(lab: Lab, routers: str) -> None:
    method = SMoLoRA(rank=4, experts=4, routers=routers)
    start = method.attach(lab.model, list(lab.sites), None, "Colour", 0)
    start.remove()
    first, second = (load_state(lab.stage(method, stage)).shared for stage in (0, 1))
    names = [name for name in first if "router" in name]
    assert names and not any(torch.equal(start.tensors[name], first[name]) for name in names)
    assert {torch.equal(first[name], second[name]) for name in names} == {routers == "first"}
    assert not any(torch.equal(first[name], second[name]) for name in first if "fusion" in name)


def test_when_routers_train_later_makes_no_other_first_stage_and_what_routes_does() -> None:
    plain = SMoLoRA().stage_method(first=True)
    assert SMoLoRA(routers="every").stage_method(first=True) == plain
    assert SMoLoRA(routers="every").stage_method() != SMoLoRA().stage_method()
    assert SMoLoRA(router="hard", routers="every").stage_method() == SMoLoRA(router="hard").stage_method()
    assert SMoLoRA(instruction="whole").stage_method(first=True) != plain


def test_rows_with_one_template_take_the_same_instruction_experts_whatever_they_ask(lab: Lab) -> None:
    encoder = Encoder(lab.backbone, "crop")
    phrase = "Answer the question using a single word or phrase."
    asked = [f"What colour is it?\n{phrase}", f"Where is the blue square now?\n{phrase}", "Describe it."]
    prompts, spans, templates = encoder.prompts(asked, [None] * 3)
    data = load_task(lab.backbone, lab.data["Caption"], "test").subset(range(3))
    data = dataclasses.replace(
        data, instructions=asked, prompts=prompts, asked=spans, templates=templates, image_of=[-1] * 3, pictures=[]
    )
    assert data.prompt_batch(range(3)).template_words == [phrase, phrase, "Describe it."]

    def embedded(instruction: str) -> Tensor:
        method = dataclasses.replace(METHOD, instruction=instruction)
        with scrambled(lab, method) as adapters:
            method.before_forward(adapters, data.prompt_batch(range(3)), None)
            return next(iter(adapters.layers.values())).routing.instructions

    of_template, whole = embedded("template"), embedded("whole")
    torch.testing.assert_close(of_template[0], of_template[1])
    assert not torch.allclose(of_template[0], of_template[2], atol=1e-2)
    assert not torch.allclose(whole[0], whole[1], atol=1e-2)
    torch.testing.assert_close(of_template[2], whole[2])


def test_two_experts_leave_nothing_to_route(lab: Lab) -> None:
    method = SMoLoRA(rank=4, experts=2, router="hard", instruction_encoder="some/model")
    assert method.stage_method() == SMoLoRA(rank=4, experts=2)
    adapters = method.attach(lab.model, list(lab.sites), None, "Colour", 0)
    try:
        assert not adapters.whole_rows
        assert {name.rpartition(".")[2] for name in adapters.tensors} == {"A", "B", "fusion"}
    finally:
        adapters.remove()


@pytest.fixture(name="fresh_encoders")
def _fresh_encoders() -> Iterator[None]:
    yield
    layer_module._sentence.cache_clear()
    layer_module._sentence_encoder.cache_clear()


class StubEncoder:
    """Stands in for a sentence-transformers model: seven numbers from a text's letters."""

    def __init__(self, name: str, device: str) -> None:
        if name != "stub":
            raise OSError(f"{name} is not a local folder")

    def encode(self, texts: list[str], **options: Any) -> Tensor:
        return torch.tensor([[float(text.count(letter)) + 1 for letter in "aeioust"] for text in texts])


def test_a_sentence_encoder_is_used_when_it_is_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, fresh_encoders: None
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=StubEncoder))
    method = SMoLoRA(rank=4, experts=4, instruction_encoder="stub")
    out = lab.folder()
    lab.train(lab.config(method, 0, Training(max_steps=2, batch_size=4)), None, out)
    state = load_state(out)
    assert {len(tensor[0]) for name, tensor in state.shared.items() if "router_instruction" in name} == {7}
    assert state.num_parameters() == method.count(lab.sites).shared
    assert len(polars.read_parquet(lab.predict(method, out, "Colour"))) == 10
    with pytest.raises(ValueError, match="no sentence-transformers model is to be had at 'other'"):
        SMoLoRA(experts=4, instruction_encoder="other").count(lab.sites)


def test_a_sentence_encoder_that_is_not_installed_says_what_to_do(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, fresh_encoders: None
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="pip install sentence-transformers"):
        SMoLoRA(experts=4, instruction_encoder="all-MiniLM-L6-v2").count(lab.sites)


@pytest.mark.parametrize(
    ("sites", "width"),
    [
        ({"model.language_model.layers.0.mlp.down_proj": (8, 20)}, 8),
        ({"model.language_model.layers.0.self_attn.k_proj": (2, 8)}, 8),
        ({"model.multi_modal_projector.linear_1": (8, 4), "model.language_model.layers.0.mlp.up_proj": (20, 8)}, 8),
        ({"model.visual.merger.mlp.0": (12, 12), "model.visual.merger.mlp.2": (8, 12)}, 8),
    ],
)
def test_the_language_models_width_is_read_off_the_sites(sites: dict[str, tuple[int, int]], width: int) -> None:
    assert hidden_size(sites) == width


def test_the_balance_loss_is_1_where_experts_are_used_alike_and_their_number_where_one_is() -> None:
    routing = Routing()
    even = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    routing.probabilities = {"a": even}
    assert balance_loss(routing).item() == pytest.approx(1)
    one = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).expand(2, 6, 4)
    routing.probabilities = {"a": one}
    assert balance_loss(routing).item() == pytest.approx(4)
    routing.probabilities = {"a": even, "b": one}
    assert balance_loss(routing).item() == pytest.approx(2.5)


def test_the_gradient_of_the_balance_loss_is_that_of_finite_differences() -> None:
    scores = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def loss(values: Tensor) -> Tensor:
        routing = Routing()
        routing.probabilities = {"a": values.softmax(-1)}
        return balance_loss(routing)

    assert torch.autograd.gradcheck(loss, (scores,))


def test_a_balance_of_0_adds_nothing_and_one_above_spreads_the_rows(lab: Lab) -> None:
    rows = {}
    for balance in (0.0, 10.0):
        method, out = SMoLoRA(rank=4, experts=4, balance=balance), lab.folder()
        lab.train(lab.config(method, 0), None, out)
        rows[balance] = json.loads((out / "history.json").read_text())
    assert {row["penalty"] for row in rows[0.0]} == {0.0}
    # 2 experts of each kind: from 1 to 2 times the weight.
    assert 10 * 0.99 <= rows[10.0][-1]["penalty"] < rows[10.0][0]["penalty"] <= 20


def test_checkpointing_changes_no_balance_loss(lab: Lab) -> None:
    method = SMoLoRA(rank=4, experts=4, balance=1.0)
    found = []
    for checkpointing in (False, True):
        out = lab.folder()
        training = Training(max_steps=4, batch_size=8, gradient_checkpointing=checkpointing)
        lab.train(lab.config(method, 0, training), None, out)
        found.append([row["penalty"] for row in json.loads((out / "history.json").read_text())])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"experts": 3},
        {"experts": 0},
        {"rank": 4},
        {"router": "soft"},
        {"routers": "last"},
        {"router": "hard", "balance": 0.1},
    ],
)
def test_fields_that_make_no_layer_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="experts|router"):
        SMoLoRA(**fields)
