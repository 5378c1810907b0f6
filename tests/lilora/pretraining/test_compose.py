"""`compose` makes of Vicuna, CLIP and a projector file, all of them tiny here, the model that they are together."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel, LlamaForCausalLM

from lilora.backbones.llava_1_5_7b import BACKBONE
from lilora.methods.seqlora import SeqLoRA
from lilora.pretraining.compose import compose, composed_revision
from lilora.pretraining.llava_processor import IMAGE_TOKEN, PAD_TOKEN
from lilora.pretraining.weights import Weights
from lilora.training import Training
from tests.lilora.lab import Lab
from tests.lilora.pretraining.parts import make_clip, make_llm, make_projector


@pytest.fixture(scope="module", name="parts")
def _parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    make_llm(root / "llm", sharded=True)
    make_clip(root / "clip")
    make_projector(root / "mm_projector.bin")
    return root


@pytest.fixture(scope="module", name="made")
def _made(parts: Path) -> Path:
    compose(parts / "llm", parts / "clip", parts / "mm_projector.bin", parts / "made", shard_bytes=100_000)
    return parts / "made"


def test_the_composed_model_gives_the_logits_of_its_parts_wired_by_hand(parts: Path, made: Path) -> None:
    processor = AutoProcessor.from_pretrained(made)
    model = AutoModelForImageTextToText.from_pretrained(made, dtype=torch.float32).eval()
    picture = Image.radial_gradient("L").convert("RGB").resize((20, 18))
    inputs = processor(images=picture, text="USER: <image>\nWhat colour is it? ASSISTANT:", return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4

    llm = LlamaForCausalLM.from_pretrained(parts / "llm", dtype=torch.float32).eval()
    clip = CLIPModel.from_pretrained(parts / "clip", dtype=torch.float32).eval()
    projector = {name: value.float() for name, value in torch.load(parts / "mm_projector.bin").items()}
    with torch.no_grad():
        # LLaVA's layer -2: what goes into the tower's last layer, without the class token.
        features = clip.vision_model(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
        first, second = ([projector[f"model.mm_projector.{n}.{kind}"] for kind in ("weight", "bias")] for n in (0, 2))
        pictures = F.linear(F.gelu(F.linear(features, *first)), *second)
        ids = inputs["input_ids"][0]
        words = ids.where(ids < llm.config.vocab_size, 0)
        embedded = llm.get_input_embeddings()(words)
        embedded[ids == model.config.image_token_id] = pictures
        wanted = llm(inputs_embeds=embedded[None]).logits
        given = model(**inputs).logits[..., : llm.config.vocab_size]
    assert wanted.std() > 0.1
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)


def test_new_tokens_follow_the_old_ones_and_the_vocabulary_is_padded_to_64(parts: Path, made: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(made).tokenizer
    config = json.loads((made / "config.json").read_text())
    old = json.loads((parts / "llm" / "config.json").read_text())["vocab_size"]
    assert tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, PAD_TOKEN]) == [old, old + 1]
    assert (config["image_token_index"], config["pad_token_id"], tokenizer.pad_token_id) == (old, old + 1, old + 1)
    assert config["text_config"]["vocab_size"] == -(-(old + 2) // 64) * 64
    model = AutoModelForImageTextToText.from_pretrained(made, dtype=torch.float32)
    for rows in (model.get_input_embeddings().weight, model.lm_head.weight):
        assert len(rows) == config["text_config"]["vocab_size"]
        mean = rows[:old].mean(0)
        torch.testing.assert_close(rows[old:], mean.expand_as(rows[old:]), rtol=1e-3, atol=1e-3)  # rounded to float16


def test_files_have_llava_hfs_names_are_in_float16_and_no_larger_than_asked(made: Path) -> None:
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) >= 2
    assert {
        "language_model.model.layers.1.mlp.down_proj.weight",
        "language_model.lm_head.weight",
        "vision_tower.vision_model.encoder.layers.2.self_attn.k_proj.bias",
        "multi_modal_projector.linear_2.bias",
    } <= set(index["weight_map"])
    for file in set(index["weight_map"].values()):
        assert (made / file).stat().st_size < 110_000
        with safe_open(made / file, framework="pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_one_file_of_weights_and_pytorchs_own_give_the_same_bytes(parts: Path, tmp_path: Path) -> None:
    revisions = set()
    for name, pickled in (("whole", False), ("pickled", True)):
        llm = make_llm(tmp_path / name, pickled=pickled)
        made = compose(llm, parts / "clip", parts / "mm_projector.bin", tmp_path / f"{name}-made")
        revisions.add(made.revision)
        assert composed_revision(made.folder) == made.revision
        files = {path.name for path in made.folder.iterdir()}
        assert "model.safetensors" in files and not any(file.endswith((".bin", ".pt", ".pkl")) for file in files)
        assert all(str(tmp_path).encode() not in path.read_bytes() for path in made.folder.iterdir())
    assert len(revisions) == 1


def test_the_backbone_of_a_composed_folder_is_trained_like_any_other(made: Path, lab: Lab) -> None:
    backbone = dataclasses.replace(BACKBONE, revision=composed_revision(made), location=str(made))
    config = lab.config(SeqLoRA(rank=4), 0, Training(max_steps=2, batch_size=4))
    summary = lab.train(dataclasses.replace(config, backbone=backbone), None, lab.folder())
    assert summary["steps"] == 2 and summary["trainable"] == 4 * (2 * 3 * (64 + 96) + (32 + 64) + (64 + 64))


def _refused(parts: Path, out: Path, message: str, **changed: Path) -> None:
    given = {"llm": parts / "llm", "vision": parts / "clip", "projector": parts / "mm_projector.bin", **changed}
    with pytest.raises(ValueError, match=message):
        compose(**given, out=out)
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))


def test_parts_that_do_not_fit_are_refused_with_the_remedy(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wide = make_projector(tmp_path / "wide.bin", hidden=80)
    _refused(parts, out, "gives vectors of width 80, and the language model takes 64: take", projector=wide)
    other = make_projector(tmp_path / "other.bin", seen=48)
    _refused(parts, out, "takes features of width 48, and the tower gives 32: give --vision", projector=other)
    _refused(parts, out, "is a 'clip', and LLaVA-1.5's language model is a Llama", llm=parts / "clip")
    _refused(parts, out, "is a 'llama', and LLaVA-1.5's tower is CLIP's", vision=parts / "llm")
    _refused(parts, out, "has no config.json: give --llm", llm=tmp_path)
    _refused(parts, out, "is no file: give --projector", projector=tmp_path / "none.bin")


def test_files_that_are_not_the_projector_are_refused(parts: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "file.bin", tmp_path / "out"
    torch.save({"model.mm_projector.weight": torch.zeros(4, 4)}, file)
    _refused(parts, out, "two linear layers.*take mm_projector.bin", projector=file)
    torch.save({"weight": torch.zeros(4)}, file)
    _refused(parts, out, "no tensor called mm_projector, but .'weight'.: take", projector=file)
    file.write_bytes(b"<html>not found</html>")
    _refused(parts, out, "(holds more than tensors|cannot be read)", projector=file)


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran-as-code"),))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("torch.bin", torch.save),
        ("plain.bin", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        write({"model.mm_projector.0.weight": _Runs()}, tmp_path / name)
        _refused(parts, tmp_path / "out", "holds more than tensors, and is not opened", projector=tmp_path / name)
    assert not (tmp_path / "ran-as-code").exists()


def test_missing_shards_and_indices_that_leave_the_folder_are_refused(parts: Path, tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "llm", sharded=True)
    index = llm / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = llm / next(iter(content["weight_map"].values()))
    shard.rename(shard.with_suffix(".away"))
    _refused(parts, tmp_path / "out", "is missing, and .* names it: download the whole folder", llm=llm)
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../clip/pytorch_model.bin")
    index.write_text(json.dumps(content))
    _refused(parts, tmp_path / "out", "not a file of its folder", llm=llm)


def test_a_tensor_that_is_not_in_the_file_that_the_index_names_is_said(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    index = {"weight_map": dict.fromkeys("ab", "pytorch_model.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    weights = Weights.of(tmp_path)
    assert weights["a"].tolist() == [0]
    with pytest.raises(ValueError, match="pytorch_model.bin has no tensor 'b', which its index says it has: download"):
        weights["b"]


def test_a_folder_that_is_there_is_not_written_over(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ValueError, match="is there already: name a new folder"):
        compose(parts / "llm", parts / "clip", parts / "mm_projector.bin", tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()
