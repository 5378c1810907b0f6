"""What goes into the model and what comes out: encoding, features, predictions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from lilora.adapters.state import load_state
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.model import features
from lilora.model import generate as generate_module
from lilora.model import tokens as tokens_module
from lilora.model.encoder import Encoder
from lilora.model.families import num_image_tokens
from lilora.model.features import Features
from lilora.model.generate import last_position_only
from lilora.model.logits import embed
from lilora.model.pictures import Mapped
from lilora.model.tokens import IGNORED, Batch, load_task
from lilora.stages.answers import predict
from lilora.stages.configs import PredictConfig
from lilora.training import Training
from tests.lilora.lab import Lab
from tests.lilora.tiny import shuffle, with_later_turns

SEQLORA = SeqLoRA(rank=4, lora_alpha=8)


def test_a_prompt_has_the_tokens_of_the_stock_processor(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Caption"], "test")
    processor = lab.backbone.load_processor()
    question = polars.read_parquet(lab.data["Caption"] / "test.parquet")["instruction"][2]
    stock = processor(images=[data.picture(data.image_of[2])], text=f"<s>USER: <image>\n{question} ASSISTANT:")
    assert data.prompts[2].tolist() == stock["input_ids"][0]
    assert num_image_tokens(processor) == 4


def test_labels_cover_the_answer_and_the_end_token_alone(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Caption"], "train")
    batch = data.training_batch([0, 2])
    for row, labels in zip((0, 2), batch.labels, strict=True):
        wanted = labels[labels != IGNORED]
        text = lab.backbone.load_processor().tokenizer.decode(wanted)
        assert text == f" {polars.read_parquet(lab.data['Caption'] / 'train.parquet')['answer'][row]}</s>"
    assert data.num_answer_tokens([0, 2]) == (batch.labels != IGNORED).sum()


def test_prompt_and_answer_tokenised_apart_give_the_tokens_of_the_whole_text(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Caption"], "train")
    tokenizer = lab.backbone.load_processor().tokenizer
    row = polars.read_parquet(lab.data["Caption"] / "train.parquet").row(1, named=True)
    whole = f"<s>USER: {'<image>' * 4}\n{row['instruction']} ASSISTANT: {row['answer']}</s>"
    apart = [*data.prompts[1].tolist(), *data.answers[1].tolist()]
    assert apart == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_rows_are_cut_at_the_most_tokens_and_counted(lab: Lab) -> None:
    folder = with_later_turns(lab.data["Caption"], lab.folder())
    whole = load_task(lab.backbone, folder, "train")
    lengths = [whole.training_batch([row]).input_ids.shape[1] for row in range(len(whole))]
    assert load_task(lab.backbone, folder, "train", max_tokens=max(lengths)) is whole
    most = sorted(lengths)[len(lengths) // 2]
    cut = load_task(lab.backbone, folder, "train", max_tokens=most)
    assert cut.num_cut == sum(length > most for length in lengths) > 0
    for row, length in enumerate(lengths):
        own, other = (data.training_batch([row]) for data in (cut, whole))
        left = own.input_ids.shape[1]
        assert left == length if length <= most else left <= most
        assert own.input_ids.equal(other.input_ids[:, :left]) and own.labels.equal(other.labels[:, :left])
    longest = max(map(len, whole.prompts))
    with pytest.raises(ValueError, match=rf"has {longest} tokens before its answer, and {longest} are learned from"):
        whole.cut(longest)


def test_a_stage_says_how_many_of_its_rows_were_cut(lab: Lab) -> None:
    longest = max(map(len, load_task(lab.backbone, lab.data["Colour"], "train").prompts))
    few = Training(max_steps=1, batch_size=4)
    cut = lab.train(lab.config(SEQLORA, 0, dataclasses.replace(few, max_tokens=longest + 1)), None, lab.folder())
    assert cut["cut_rows"] > 0
    assert "cut_rows" not in lab.train(lab.config(SEQLORA, 0, few), None, lab.folder())


def test_an_unknown_template_lists_the_choices(lab: Lab) -> None:
    with pytest.raises(ValueError, match="no template 'v2'; lilora.model.conversation has: llava_v1, llava_v1_bare"):
        Encoder(dataclasses.replace(lab.backbone, template="v2"))


def test_a_template_of_another_model_is_refused(lab: Lab) -> None:
    with pytest.raises(ValueError, match=r"'<\|im_end\|>', which the tokenizer of 'tiny' does not know"):
        Encoder(dataclasses.replace(lab.backbone, template="qwen2_vl"))


def test_features_are_those_of_the_models_own_forward_and_may_be_computed_late(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_task(lab.backbone, lab.data["Colour"], "test")
    processor = lab.backbone.load_processor()
    kept = Features(lab.model, processor, data)
    monkeypatch.setattr(features, "MEMO_BYTES", 0)
    late = Features(lab.model, processor, data)
    assert kept.kept is not None
    assert late.kept is None
    places = [3, 1]
    pictures = kept.of(places)
    assert pictures is not None
    seen = features.with_features(lab.model, late.of(places))
    torch.testing.assert_close(seen.features, pictures.features, rtol=1e-5, atol=1e-6)  # other batch, other rounding
    pixels = processor.image_processor([data.picture(place) for place in places], return_tensors="pt")
    own = torch.stack(lab.model.get_image_features(**pixels).pooler_output)
    projected = lab.model.model.multi_modal_projector(pictures.features)
    torch.testing.assert_close(projected, own, rtol=1e-5, atol=1e-5)


def test_a_large_file_is_read_from_disk_as_it_is_needed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load_task(lab.backbone, lab.data["Place"], "validation")
    monkeypatch.setattr(tokens_module, "MEMO_BYTES", 0)
    tokens_module._load.cache_clear()
    mapped = load_task(lab.backbone, lab.data["Place"], "validation")
    tokens_module._load.cache_clear()
    assert {type(picture) for picture in mapped.pictures} == {Mapped}
    assert [mapped.picture(i).tobytes() for i in range(10)] == [held.picture(i).tobytes() for i in range(10)]


def test_predictions_are_those_of_generate_on_one_row_at_a_time(lab: Lab) -> None:
    state = lab.stage(SEQLORA)
    table = polars.read_parquet(lab.predict(SEQLORA, state, "Colour"))
    data = load_task(lab.backbone, lab.data["Colour"], "test")
    processor = lab.backbone.load_processor()
    adapters = SEQLORA.attach(lab.model, list(lab.sites), load_state(state), "Colour", None)
    try:
        for row in range(4):
            pixels = processor.image_processor([data.picture(data.image_of[row])], return_tensors="pt")
            prompt = torch.tensor(data.prompts[row])[None]
            tokens = lab.model.generate(input_ids=prompt, **pixels, max_new_tokens=8, do_sample=False)
            answer = processor.tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)
            assert table["prediction"][row] == answer.strip()
    finally:
        adapters.remove()


def test_a_checkpoints_own_generation_settings_do_not_reach_the_answers(lab: Lab, tmp_path: Path) -> None:
    folder = shutil.copytree(lab.backbone.location, tmp_path / "penalised")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1, "do_sample": True, "suppress_tokens": [2]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    penalised = dataclasses.replace(lab.backbone, location=str(folder))
    answers = []
    for backbone in (lab.backbone, penalised):
        out = lab.folder()
        config = PredictConfig(ZeroShot(), backbone, "Caption", "test", 8)
        predict(config, {"data": lab.data["Caption"]}, out, lab.run())
        answers.append((out / "predictions.parquet").read_bytes())
    assert answers[0] == answers[1]
    # They are the checkpoint's still, and they do change what it says when nobody puts them aside.
    model = penalised.load_model()
    assert model.generation_config.repetition_penalty == 50.0
    prompt = load_task(lab.backbone, lab.data["Caption"], "test").prompt_batch([0]).input_ids
    plain, own = (one.generate(prompt, max_new_tokens=8, do_sample=False) for one in (lab.model, model))
    assert not plain.equal(own)


def test_only_the_last_position_goes_through_the_last_layers_feed_forward_and_the_tokens_stay(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Caption"], "test")
    images = features.load_features(lab.model, lab.backbone.load_processor(), data)
    batch = data.prompt_batch(range(6))
    embedded = embed(lab.model, batch.input_ids, images.of(batch.images))
    language = lab.model.model.language_model
    lengths: list[int] = []
    hook = language.layers[-1].mlp.gate_proj.register_forward_hook(lambda *call: lengths.append(call[1][0].shape[1]))

    def tokens() -> torch.Tensor:
        lengths.clear()
        return lab.model.generate(inputs_embeds=embedded, attention_mask=batch.attention_mask, max_new_tokens=8)

    try:
        whole = tokens()
        assert lengths == [embedded.shape[1], *[1] * 7]
        with last_position_only(language):
            assert tokens().equal(whole)
        assert lengths == [1] * 8
        assert tokens().equal(whole)
        assert lengths[0] == embedded.shape[1]
    finally:
        hook.remove()


def test_predictions_are_deterministic_and_leave_the_model_as_it_was(lab: Lab) -> None:
    state, before = lab.stage(SEQLORA), lab.backbone_bytes()
    one, other = lab.predict(SEQLORA, state, "Colour"), lab.predict(SEQLORA, state, "Colour")
    assert one.read_bytes() == other.read_bytes()
    assert lab.backbone_bytes() == before


def test_answers_do_not_depend_on_the_order_of_the_rows_or_on_the_batch(lab: Lab) -> None:
    state = lab.stage(SEQLORA)
    whole = polars.read_parquet(lab.predict(SEQLORA, state, "Colour"))
    shuffled = shuffle(lab.data["Colour"], lab.folder() / "shuffled")
    for path in (
        lab.predict(SEQLORA, state, "Colour", shuffled),
        lab.predict(SEQLORA, state, "Colour", batch_size=3),
    ):
        assert polars.read_parquet(path).sort("id").equals(whole.sort("id"))


def test_where_memory_is_short_the_rest_is_answered_in_smaller_batches(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = lab.stage(SEQLORA)
    whole = lab.predict(SEQLORA, state, "Colour").read_bytes()
    sizes = _memory_for(3, monkeypatch)
    assert lab.predict(SEQLORA, state, "Colour", batch_size=8).read_bytes() == whole
    rows = len(polars.read_parquet(lab.data["Colour"] / "test.parquet"))
    # 8 and 4 at once are too many; then by twos to the end, and none twice.
    assert sizes[:2] == [8, 4] and set(sizes[2:]) <= {1, 2} and sum(sizes[2:]) == rows


def test_where_memory_takes_no_row_the_error_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    state = lab.stage(SEQLORA)
    sizes = _memory_for(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        lab.predict(SEQLORA, state, "Colour", batch_size=8)
    assert sizes == [8, 4, 2, 1]


def _memory_for(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let no more rows than `most` be answered at once; gives the sizes that are tried."""
    stock, sizes = generate_module.prompt_inputs, []

    def tried(model: Any, batch: Batch, images: Any) -> Any:
        sizes.append(len(batch.input_ids))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(model, batch, images)

    monkeypatch.setattr(generate_module, "prompt_inputs", tried)
    return sizes


def test_an_answer_stops_at_the_end_token_or_at_the_limit(lab: Lab) -> None:
    table = polars.read_parquet(lab.predict(SEQLORA, lab.stage(SEQLORA), "Colour"))
    assert table["num_tokens"].max() <= 8
    assert table.columns == ["id", "prediction", "num_tokens"]
    assert not any("</s>" in text for text in table["prediction"])


def test_zero_shot_needs_no_state(lab: Lab) -> None:
    assert len(polars.read_parquet(lab.predict(ZeroShot(), None, "Colour"))) == 10


def test_a_task_that_was_not_learned_is_refused_with_those_that_were(lab: Lab) -> None:
    method = LiLoRA(rank=4, lora_alpha=8)
    with pytest.raises(ValueError, match="no part for task 'Caption'; this state has learned: Colour"):
        lab.predict(method, lab.stage(method), "Caption")


def test_a_missing_split_says_what_to_build(lab: Lab) -> None:
    config = PredictConfig(ZeroShot(), lab.backbone, "Colour", "dev", 8)
    with pytest.raises(FileNotFoundError, match="dev.parquet is missing: build the task's data"):
        predict(config, {"data": lab.data["Colour"]}, Path("nowhere"), lab.run())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [(r"model\.layers\..*", "no linear layer is named like"), (r".*\.q_proj", "matches in the vision tower")],
)
def test_sites_that_match_nothing_or_the_frozen_tower_are_refused(lab: Lab, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(lab.backbone, sites=(pattern,)).find_sites(lab.model)


def test_a_backbone_that_is_nowhere_says_what_to_give(lab: Lab) -> None:
    with pytest.raises(ValueError, match="give `location` a folder"):
        dataclasses.replace(lab.backbone, location="/nowhere/at-all").load_model()
