"""Qwen2-VL, Qwen2.5-VL and any other model: what we make of rows is what stock processors and models make."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from transformers import PaliGemmaConfig

from lilora.backbones import Backbone, is_projector, site_patterns
from lilora.core import registry
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from lilora.methods.eproj import Eproj
from lilora.model.conversation import TEMPLATES, chat_template
from lilora.model.families import Auto
from lilora.model.features import Features, load_features
from lilora.model.generate import generate
from lilora.model.logits import AnswerModel
from lilora.model.tokens import IGNORED, TaskData, load_task
from lilora.training import Training
from tests.lilora.lab import Lab, cases
from tests.lilora.methods import test_methods_contract as laws
from tests.lilora.model.tiny_others import make_idefics3, make_qwen2_5
from tests.lilora.tiny import QWEN, make_task, with_later_turns

METHODS = cases()
SEQLORA = METHODS["seqlora"]
#: Width and height of the pictures that are put in place of the task's; two rows have none.
SHAPES = ((20, 20), (60, 20), (24, 70), None, (40, 33), (64, 64), None, (20, 40), (33, 33), (50, 20))


def many_shapes(source: Path, target: Path) -> Path:
    """The task with pictures of `SHAPES`."""
    target.mkdir(parents=True)
    for path in source.glob("*.parquet"):
        table = polars.read_parquet(path)
        images = []
        for row, image in enumerate(table["image"].to_list()):
            shape, encoded = SHAPES[row % len(SHAPES)], io.BytesIO()
            if shape is not None:
                Image.open(io.BytesIO(image["bytes"])).resize(shape).save(encoded, "PNG")
            images.append(None if shape is None else {"bytes": encoded.getvalue(), "path": None})
        table.with_columns(polars.Series("image", images, table.schema["image"])).write_parquet(target / path.name)
    return target


@pytest.fixture(scope="module", name="qwen")
def _qwen(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("qwen"), QWEN)


Case = tuple[Backbone, Any, Any, TaskData]


@pytest.fixture(scope="module", name="case", params=["qwen2_vl", "qwen2_5_vl", "auto"])
def _case(request: pytest.FixtureRequest, qwen: Lab, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A backbone, its model and processor, and test rows with pictures of many shapes."""
    folder = tmp_path_factory.mktemp("case")
    makers: dict[str, Callable[[Path], Backbone]] = {"qwen2_5_vl": make_qwen2_5, "auto": make_idefics3}
    maker = makers.get(request.param)
    backbone = maker(folder / "backbone") if maker else qwen.backbone
    task = many_shapes(make_task(folder / "plain", "Caption"), folder / "shapes")
    return backbone, backbone.load_model(), backbone.load_processor(), load_task(backbone, task, "test")


@pytest.fixture(scope="module", name="parted", params=["llava", "qwen2_vl", "qwen2_5_vl"])
def _parted(request: pytest.FixtureRequest, lab: Lab, qwen: Lab, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The same of the families whose tower, projector and language model are called apart."""
    folder = tmp_path_factory.mktemp("parted")
    made = {"llava": lab.backbone, "qwen2_vl": qwen.backbone}
    backbone = made.get(request.param) or make_qwen2_5(folder / "backbone")
    task = many_shapes(make_task(folder / "plain", "Caption"), folder / "shapes")
    return backbone, backbone.load_model(), backbone.load_processor(), load_task(backbone, task, "test")


def stock_inputs(processor: Any, data: TaskData, rows: list[int], whole: bool = False) -> Any:
    """What the stock processor makes of rows: its chat template, its image tokens, its padding on the left."""
    texts, images = [], []
    for row in rows:
        pictured = data.image_of[row] >= 0
        content = [*([{"type": "image"}] if pictured else []), {"type": "text", "text": data.instructions[row]}]
        messages = [{"role": "user", "content": content}]
        if whole:
            answer = processor.tokenizer.decode(data.answers[row][:-1]).strip()
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        texts.append(processor.apply_chat_template(messages, add_generation_prompt=not whole, tokenize=False))
        images += [[data.picture(data.image_of[row])]] if pictured else [[]]
    given = {"images": images} if any(images) else {}
    return processor(text=texts, **given, padding=True, return_tensors="pt", add_special_tokens=False)


# Words


def test_a_prompt_has_the_tokens_of_the_stock_processors_chat_template(case: Case) -> None:
    _, _, processor, data = case
    for row in range(len(data)):
        assert data.prompts[row].tolist() == stock_inputs(processor, data, [row])["input_ids"][0].tolist()


def test_prompt_and_answer_are_the_beginning_of_the_whole_conversation(case: Case) -> None:
    _, _, processor, data = case
    for row in (0, 3):
        apart = [*data.prompts[row].tolist(), *data.answers[row].tolist()]
        whole = stock_inputs(processor, data, [row], whole=True)["input_ids"][0].tolist()
        assert whole[: len(apart)] == apart


def test_the_named_template_of_qwen_is_what_is_read_off_its_chat_template(qwen: Lab) -> None:
    assert "Why?".join(chat_template(qwen.backbone.load_processor()).around("<|image_pad|>")) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n"
    )
    named, read = TEMPLATES["qwen2_vl_bare"], chat_template(qwen.backbone.load_processor())
    assert (named.answer, named.later, named.end) == (read.answer, read.later, read.end)


def test_in_rows_of_several_turns_each_answer_is_learned_and_nothing_else(lab: Lab, qwen: Lab) -> None:
    shown = {}
    for name, home in (("llava", lab), ("qwen", qwen)):
        folder = with_later_turns(home.data["Colour"], home.folder())
        data = load_task(home.backbone, folder, "train")
        batch = data.training_batch([0, 1])
        tokenizer = home.backbone.load_processor().tokenizer
        shown[name] = [
            tokenizer.decode(row[labels != IGNORED]) for row, labels in zip(batch.input_ids, batch.labels, strict=True)
        ]
        print(name, shown[name], tokenizer.decode(batch.input_ids[1]))
        assert (batch.labels[batch.labels != IGNORED] == batch.input_ids[batch.labels != IGNORED]).all()
        assert data.num_answer_tokens([0, 1]) == (batch.labels != IGNORED).sum()
        asked = tokenizer.decode(batch.input_ids[1][batch.prompt_mask[1]])
        assert "What colour" in asked and "And now?" not in asked
    assert shown["llava"] == [" red</s>", " green</s> blue</s> yes</s>"]
    assert shown["qwen"] == ["red<|im_end|>", "green<|im_end|>blue<|im_end|>yes<|im_end|>"]


def test_a_later_turn_is_worded_as_the_stock_chat_template_words_it(qwen: Lab) -> None:
    processor = qwen.backbone.load_processor()
    template = TEMPLATES["qwen2_vl_bare"]
    said = (
        "a?".join(template.around(None))
        + "b"
        + template.end
        + template.later.format(instruction="c?")
        + "d"
        + template.end
    )
    turns = [("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    assert processor.apply_chat_template(messages, tokenize=False) == f"{said}\n"


# Pictures


def test_answer_logits_are_those_of_the_stock_model(case: Case) -> None:
    """Pictures of many shapes and rows without any, in one batch, from remembered features and from pixels."""
    _, model, processor, data = case
    rows = list(range(len(data)))
    batch = data.training_batch(rows)
    kept = load_features(model, processor, data)
    late = Features.joined(model, processor, data, [])
    ours, wanted = AnswerModel(model)(batch, kept.of(batch.images))
    from_pixels, _ = AnswerModel(model)(batch, late.of(batch.images))
    stock = []
    for row in rows:
        given = stock_inputs(processor, data, [row])
        answer = torch.from_numpy(data.answers[row])[None]
        given["input_ids"] = torch.cat([given["input_ids"], answer], 1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if "mm_token_type_ids" in given:
            given["mm_token_type_ids"] = F.pad(given["mm_token_type_ids"], (0, answer.shape[1]))
        logits = model(**given).logits[0]
        stock.append(logits[-answer.shape[1] - 1 : -1])
    assert wanted.tolist() == [token for row in rows for token in data.answers[row].tolist()]
    # Rows one by one and in a padded batch differ in rounding alone.
    torch.testing.assert_close(ours, torch.cat(stock), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(from_pixels, torch.cat(stock), rtol=1e-4, atol=1e-4)


def _gradients(case: Case, whole_rows: bool, rows: list[int], dummy: bool = False) -> tuple[Any, dict[str, Any]]:
    """Logits, and the gradients of a LoRA that changes them; `dummy`: with a picture that no row has."""
    backbone, model, processor, data = case
    batch, features = data.training_batch(rows), load_features(model, processor, data)
    adapters = SEQLORA.attach(model, list(backbone.find_sites(model)), None, "Colour", 0)
    torch.manual_seed(0)
    for parameter in adapters.parameters().values():
        torch.nn.init.normal_(parameter, std=0.05)
    images = features.any_picture() if dummy else features.of(batch.images)
    try:
        logits, wanted = AnswerModel(model, whole_rows)(batch, images)
        F.cross_entropy(logits, wanted).backward()
    finally:
        adapters.remove()
    return logits.detach(), {name: parameter.grad for name, parameter in adapters.parameters().items()}


def test_feed_forward_at_the_answers_alone_has_the_logits_and_gradients_of_whole_rows(parted: Case) -> None:
    """Rows with pictures of many shapes and without any, so that each has another number of tokens."""
    rows = list(range(10))
    (logits, gradients), (whole_logits, whole) = (_gradients(parted, given, rows) for given in (False, True))
    torch.testing.assert_close(logits, whole_logits, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        assert gradient.norm() > 0
        # Sums over fewer rows are rounded in another order.
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-4 * float(whole[name].abs().max()))


def test_a_picture_that_no_token_takes_changes_no_logit_and_has_gradients_of_zero(parted: Case) -> None:
    """What a worker without pictures sends through the projector under ZeRO-3, where all gather the same parameters."""
    rows = [row for row, place in enumerate(parted[3].image_of) if place < 0]
    (alone, without), (logits, gradients) = (_gradients(parted, False, rows, dummy) for dummy in (False, True))
    assert torch.equal(logits, alone)
    for name, gradient in gradients.items():
        if is_projector(name):
            assert without[name] is None and not gradient.any()
        else:
            assert torch.equal(gradient, without[name]) and gradient.any()


def test_greedy_answers_of_a_batch_are_those_of_the_stock_model_on_one_row_at_a_time(case: Case) -> None:
    _, model, processor, data = case
    found = generate(model, processor.tokenizer, data, load_features(model, processor, data), 6, 8, StageRun(Path()))
    for row in range(len(data)):
        given = stock_inputs(processor, data, [row])
        tokens = model.generate(
            **given, max_new_tokens=6, do_sample=False, eos_token_id=data.end, pad_token_id=data.pad
        )
        answer = processor.tokenizer.decode(tokens[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        assert found[row].text == answer.strip()
    assert len({answer.text for answer in found}) > 1


def test_a_padded_picture_is_a_square_with_the_mean_colour_around_it(qwen: Lab) -> None:
    folder = many_shapes(qwen.data["Colour"], qwen.folder() / "shapes")
    plain, padded = (load_task(qwen.backbone, folder, "test", framing) for framing in ("crop", "pad"))
    place = padded.image_of[1]
    wide, square = plain.picture(plain.image_of[1]), padded.picture(place)
    assert (wide.size, square.size) == ((60, 20), (60, 60))
    assert square.crop((0, 20, 60, 40)).tobytes() == wide.tobytes()
    mean = tuple(int(255 * part) for part in qwen.backbone.load_processor().image_processor.image_mean)
    assert {square.getpixel((x, y)) for x in range(60) for y in (*range(20), *range(40, 60))} == {mean}
    assert len(padded.prompts[1]) > len(plain.prompts[1]), "more patches, more image tokens"
    assert padded.picture(padded.image_of[0]).tobytes() == plain.picture(plain.image_of[0]).tobytes()


# Methods


@pytest.mark.parametrize("name", ["lilora", "smolora-4", "eproj", "moelora", "clora", "ewc_tir", "dora", "replay"])
def test_the_laws_of_methods_hold_on_qwen2_vl(qwen: Lab, name: str) -> None:
    method: Method = METHODS[name]
    laws.test_attaching_without_state_leaves_the_logits_as_they_were(qwen, method)
    laws.test_only_declared_tensors_get_a_gradient_and_each_of_them_moves(qwen, method, 1)
    laws.test_saved_and_loaded_adapters_give_the_same_logits_to_the_bit(qwen, method)
    laws.test_ten_steps_lower_the_loss(qwen, method)
    laws.test_the_numbers_of_parameters_are_the_closed_form(qwen, method, 1)
    if method.mergeable:
        laws.test_merged_weights_give_the_logits_of_the_unmerged_layers(qwen, method)


@pytest.mark.parametrize("name", ["smolora-4", "eproj"])
def test_methods_that_go_by_picture_know_each_picture_among_others_of_other_shapes(qwen: Lab, name: str) -> None:
    method, folder = METHODS[name], many_shapes(qwen.data["Colour"], qwen.folder() / "shapes")
    state = qwen.stage(method, 1)
    together, alone = (
        polars.read_parquet(qwen.predict(method, state, "Colour", folder, batch_size=n)) for n in (10, 1)
    )
    assert together.equals(alone)


def test_steps_without_any_picture_are_trained_on_qwen2_vl(qwen: Lab) -> None:
    laws.test_steps_without_any_picture_are_trained_and_resumed_to_the_bit(qwen, METHODS["lilora"])


def test_a_model_of_the_family_auto_is_trained_and_asked(tmp_path: Path) -> None:
    lab = Lab.__new__(Lab)
    lab.root, lab.backbone, lab.data = tmp_path, make_idefics3(tmp_path / "backbone"), {}
    lab._fresh = iter(range(9))
    lab.data["Colour"] = many_shapes(make_task(tmp_path / "plain", "Colour"), tmp_path / "shapes")
    lab.model = lab.backbone.load_model()
    lab.sites = lab.backbone.find_sites(lab.model)
    before = lab.backbone_bytes()
    out = tmp_path / "state"
    lab.train(lab.config(SEQLORA, 0, Training(max_steps=8, batch_size=8, learning_rate=1e-2)), None, out)
    assert lab.backbone_bytes() == before
    history = polars.read_json(out / "history.json")
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert len(polars.read_parquet(lab.predict(SEQLORA, out, "Colour"))) == 10
    with pytest.raises(ValueError, match="choose a method that does not ask for them"):
        lab.train(lab.config(Eproj(), 0, Training(max_steps=1, batch_size=8)), None, tmp_path / "eproj")


def test_a_model_whose_prompt_sees_the_answer_is_refused() -> None:
    class Prefixed:
        config = PaliGemmaConfig()

        def forward(self, input_ids: Any, token_type_ids: Any) -> None: ...

    with pytest.raises(ValueError, match="Prefixed is no causal decoder .* take a model like LLaVA"):
        Auto().inputs(Prefixed(), torch.ones(1, 1), torch.ones(1, 1), None)


# Sites


def test_the_layers_that_may_be_adapted_are_found_in_any_model(case: Case) -> None:
    backbone, model, _, _ = case
    found = site_patterns(model)
    proposed = dataclasses.replace(backbone, sites=found.sites).find_sites(model)
    assert set(proposed) == set(backbone.find_sites(model))
    assert sum(found.attention.values()) == 2 * 4
    assert not any("lm_head" in name for name in (*found.feed_forward, *found.other))


def test_a_backbone_that_names_no_sites_is_told_those_that_there_are(tmp_path: Path) -> None:
    backbone = make_idefics3(tmp_path, sites=())
    with pytest.raises(ValueError, match=r"mlp.*gate_proj.*connector.*modality_projection.*lilora sites"):
        backbone.find_sites(backbone.meta_model())


@pytest.mark.parametrize("name", ["tiny_llava", "tiny_qwen2_vl"])
def test_pictures_are_made_by_pil_where_torchvision_is_there_too(name: str) -> None:
    processor = registry.load("backbones", name).load_processor()
    assert type(processor.image_processor).__name__.endswith("Pil")
    assert processor.tokenizer.backend == "tokenizers"


def test_a_saved_processor_has_settings_for_videos_and_is_loaded_again(qwen: Lab, tmp_path: Path) -> None:
    processor = qwen.backbone.load_processor()
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["video_processor"].pop("video_processor_type") == "Qwen2VLVideoProcessor"
    assert settings["image_processor"].pop("image_processor_type").startswith("Qwen2VLImageProcessor")
    assert settings["video_processor"] == settings["image_processor"]
    asked = {"images": [Image.new("RGB", (64, 48), "red")], "text": "<|image_pad|> a cat", "return_tensors": "pt"}
    saved = dataclasses.replace(qwen.backbone, location=str(tmp_path)).load_processor()
    again, before = saved(**asked), processor(**asked)
    assert set(again) == set(before) and all(torch.equal(again[name], before[name]) for name in before)


def test_the_stock_processor_loads_what_was_saved_where_torchvision_is_there(qwen: Lab, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    processor = qwen.backbone.load_processor()
    processor.save_pretrained(tmp_path)
    stock = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert stock.video_processor.patch_size == processor.image_processor.patch_size
    asked = {"images": [Image.new("RGB", (64, 48), "red")], "text": "<|image_pad|> a cat", "return_tensors": "pt"}
    found, ours = stock(**asked), processor(**asked)
    assert all(torch.equal(found[name], ours[name]) for name in ("input_ids", "image_grid_thw"))


def test_features_are_kept_for_qwen_and_not_for_models_called_as_a_whole(case: Case) -> None:
    backbone, model, processor, data = case
    assert (load_features(model, processor, data).kept is None) == (backbone.family == "auto")
