"""Embeddings of tasks and rows: what they are the mean of, and what they do not depend on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lilora.adapters.embedding import TaskEmbedding
from lilora.adapters.preparation import TaskRows
from lilora.adapters.similarity import (
    PARTS,
    TextEncoder,
    embed_rows,
    embed_task,
    nearest_task,
    similarity,
    standardised_similarities,
)
from lilora.adapters.state import load_state
from lilora.methods.seqlora import SeqLoRA
from lilora.model.conversation import TEMPLATES
from lilora.model.encoder import Encoder
from lilora.model.features import Features, load_features
from lilora.model.tokens import load_task
from tests.lilora.lab import Lab
from tests.lilora.methods.reference import similarity as reference
from tests.lilora.tiny import shuffle

ENCODERS: tuple[TextEncoder, ...] = ("input", "hidden")


def _task_rows(lab: Lab, task: str) -> TaskRows:
    data = load_task(lab.backbone, lab.data[task], "train")
    return TaskRows(data, load_features(lab.model, lab.backbone.load_processor(), data))


def _random(count: int) -> list[TaskEmbedding]:
    generator = torch.Generator().manual_seed(0)
    return [TaskEmbedding(*(torch.randn(6, generator=generator) for _ in range(3))) for _ in range(count)]


def test_a_task_is_the_mean_of_its_pictures_instructions_and_answers(lab: Lab) -> None:
    task_rows = _task_rows(lab, "Colour")
    data, table = task_rows.data, lab.model.get_input_embeddings().weight.double()
    instructions, answers = [], []
    for row in range(len(data)):
        words = data.prompts[row][slice(*data.asked[row])].tolist()
        instructions.append(sum(table[token] for token in words) / len(words))
        answers.append(sum(table[token] for token in data.answers[row][:-1]) / (len(data.answers[row]) - 1))
    pictures = [task_rows.features.of([place]).features[0].double().mean(0) for place in range(len(data.pictures))]
    found = embed_task(lab.model, task_rows)
    for ours, rows in ((found.instructions, instructions), (found.answers, answers), (found.images, pictures)):
        torch.testing.assert_close(ours.double(), sum(rows) / len(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name.startswith("llava")])
def test_what_is_embedded_is_the_instruction_without_template_pictures_and_answer(lab: Lab, template: str) -> None:
    backbone = dataclasses.replace(lab.backbone, template=template)
    encoder = Encoder(backbone)
    data = load_task(lab.backbone, lab.data["Colour"], "train")
    # Every third row has no picture: the template's words before its instruction are others.
    sizes = [None if row % 3 == 2 else (0, 0) for row in range(len(data))]
    prompts, asked, templates = encoder.prompts(data.instructions, sizes)
    data = dataclasses.replace(data, prompts=prompts, asked=asked, templates=templates)
    for batch in (data.training_batch(range(6)), data.prompt_batch(range(6))):
        pairs = zip(batch.input_ids, batch.instruction_mask, strict=True)
        texts = [encoder.tokenizer.decode(ids[kept]) for ids, kept in pairs]
        assert [text.strip() for text in texts] == batch.instructions


def test_a_tokenizer_that_gives_no_offsets_lets_the_whole_prompt_count(lab: Lab) -> None:
    encoder = Encoder(lab.backbone)
    [prompt], [span], _ = encoder.prompts(["What is it?"], [None])
    assert 0 < span[0] < span[1] < len(prompt)
    assert encoder._span(None, 0, 11, len(prompt) - len(encoder.begin)) == (0, len(prompt))


@pytest.mark.parametrize("text", ENCODERS)
def test_a_tasks_embedding_does_not_depend_on_the_rows_order(lab: Lab, text: TextEncoder) -> None:
    folder = shuffle(lab.data["Caption"], lab.folder() / "shuffled")
    data = load_task(lab.backbone, folder, "train")
    other = embed_task(lab.model, TaskRows(data, load_features(lab.model, lab.backbone.load_processor(), data)), text)
    for name, tensor in vars(embed_task(lab.model, _task_rows(lab, "Caption"), text)).items():
        assert torch.equal(tensor, getattr(other, name))


@pytest.mark.parametrize("text", ENCODERS)
def test_a_row_is_embedded_alike_alone_padded_and_with_its_answer(lab: Lab, text: TextEncoder) -> None:
    task_rows = _task_rows(lab, "Colour")

    def embed(batch: object) -> tuple[torch.Tensor, torch.Tensor]:
        return embed_rows(lab.model, batch, task_rows.features.of(batch.images), text)  # type: ignore[attr-defined, arg-type]

    images, instructions = embed(task_rows.data.training_batch(range(6)))
    for row in range(6):
        for batch in (task_rows.data.prompt_batch([row]), task_rows.data.training_batch([row])):
            alone = embed(batch)
            torch.testing.assert_close(alone[0][0], images[row])
            torch.testing.assert_close(alone[1][0], instructions[row], rtol=1e-4, atol=1e-5)  # other sums, float32


def test_adapters_do_not_change_a_rows_embedding(lab: Lab) -> None:
    task_rows, method = _task_rows(lab, "Colour"), SeqLoRA(rank=4, lora_alpha=8)
    batch = task_rows.data.prompt_batch(range(4))
    before = embed_rows(lab.model, batch, task_rows.features.of(batch.images))
    adapters = method.attach(lab.model, list(lab.sites), load_state(lab.stage(method)), "Colour", None)
    try:
        after = embed_rows(lab.model, batch, task_rows.features.of(batch.images))
    finally:
        adapters.remove()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_pixels_and_features_give_a_row_the_same_image(lab: Lab) -> None:
    task_rows = _task_rows(lab, "Colour")
    batch = task_rows.data.prompt_batch(range(4))
    images, _ = embed_rows(lab.model, batch, task_rows.features.of(batch.images))
    pixels, _ = embed_rows(lab.model, batch, task_rows.features._pixels(batch.images))
    torch.testing.assert_close(images, pixels)
    assert images.any()


def test_a_row_without_a_picture_has_zeros(lab: Lab) -> None:
    data = _task_rows(lab, "Colour").data
    blank = dataclasses.replace(data, image_of=[-1] * len(data), pictures=[])
    task_rows = TaskRows(blank, Features(lab.model, lab.backbone.load_processor(), blank))
    batch = blank.prompt_batch([0, 1])
    images, instructions = embed_rows(lab.model, batch, task_rows.features.of(batch.images))
    assert images.shape == (2, 32) and not images.any() and instructions.any()
    assert not embed_task(lab.model, task_rows).images.any()


def test_a_task_is_as_like_itself_as_can_be_and_more_than_another(lab: Lab) -> None:
    colour, caption = (embed_task(lab.model, _task_rows(lab, task)) for task in ("Colour", "Caption"))
    assert similarity(colour, colour) == pytest.approx(1)
    assert similarity(colour, caption) == similarity(caption, colour) < 1
    mean = sum(similarity(colour, caption, [part]) for part in ("images", "instructions", "answers")) / 3
    assert similarity(colour, caption) == pytest.approx(mean)


def test_a_part_that_neither_task_has_is_left_out_and_one_that_one_has_counts_as_nothing() -> None:
    one, other = _random(2)
    blind = [dataclasses.replace(task, images=torch.zeros(6)) for task in (one, other)]
    assert similarity(*blind) == pytest.approx(similarity(one, other, ["instructions", "answers"]))
    assert similarity(one, blind[0]) == pytest.approx(2 / 3)
    assert standardised_similarities(blind[0], blind) == pytest.approx(
        standardised_similarities(one, [one, other], ["instructions", "answers"])
    )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_standardised_similarities_are_those_of_the_release(count: int) -> None:
    new, *earlier = _random(count)
    if count == 2:  # a single pair is not standardised; a cosine below 0 would count as 0
        earlier = [TaskEmbedding(*(2 * getattr(new, part) - getattr(earlier[0], part) for part in PARTS))]
    plain = [{name: values.tolist() for name, values in vars(task).items()} for task in (new, *earlier)]
    assert standardised_similarities(new, earlier) == pytest.approx(reference.similarities(plain[0], plain[1:]))


def test_equal_tasks_are_half_alike_where_nothing_sets_them_apart() -> None:
    [task] = _random(1)
    assert standardised_similarities(task, [task, task]) == pytest.approx([1 / 8, 1 / 8])


def test_an_embedding_survives_as_plain_values_to_the_bit(lab: Lab) -> None:
    embedding = embed_task(lab.model, _task_rows(lab, "Colour"))
    again = TaskEmbedding.from_values(embedding.to_values())
    assert all(torch.equal(tensor, getattr(again, name)) for name, tensor in vars(embedding).items())


def test_unknown_parts_and_encoders_are_refused(lab: Lab) -> None:
    one, other = _random(2)
    with pytest.raises(ValueError, match="choose from: images, instructions, answers"):
        similarity(one, other, ["sounds"])
    with pytest.raises(ValueError, match="there are: input, hidden"):
        embed_task(lab.model, _task_rows(lab, "Colour"), "bert")  # type: ignore[arg-type]


def test_the_nearest_of_centred_tasks_leaves_out_a_picture_that_neither_has() -> None:
    # Three tasks, the last without pictures. Centred, the pictures are (1, -1) and (-1, 1), the instructions (1, -2),
    # (-2, 1) and (1, 1).
    tasks = {
        "images": torch.tensor([[2.0, 0], [0, 2], [0, 0]]),
        "instructions": torch.tensor([[3.0, 0], [0, 3], [3, 3]]),
    }
    rows = {
        "images": torch.tensor([[0.0, 0], [0, 0], [2, 0]]),
        # Centred: (1, -2), (1, -0.4), (1, 1).
        "instructions": torch.tensor([[3.0, 0], [3, 1.6], [3, 3]]),
    }
    # 1: (0 + 1) / 2 with the first task, -0.32 with the last. 2: 0.75 / 2 with the first, whose picture it lacks, and
    # 0.39 with the last. 3: (1 - 0.32) / 2 with the first, (0 + 1) / 2 with the last.
    assert nearest_task(rows, tasks, centred=True).tolist() == [0, 2, 2]
    # As they are: 1 / 2 and 0.71; 0.88 / 2 and 0.96; (1 + 0.71) / 2 and (0 + 1) / 2.
    assert nearest_task(rows, tasks).tolist() == [2, 2, 0]


def test_of_tasks_that_are_as_near_the_first_is_taken() -> None:
    tasks = {"instructions": torch.tensor([[0.0, 1], [1, 0], [1, 0]])}
    assert nearest_task({"instructions": torch.tensor([[1.0, 0]])}, tasks, centred=True).tolist() == [1]
