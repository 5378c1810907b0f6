"""CKA sees what it should and is blind to rotations; alpha before a stage is the one that the stage began with."""

from __future__ import annotations

import json
from pathlib import Path

import polars
import pytest
import torch

from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.stages import analyse
from lilora.stages.analysis import linear_cka
from lilora.stages.configs import AnalysisConfig
from lilora.training import Training
from tests.lilora.lab import TASKS, Lab


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_is_one_for_a_rotated_scaled_and_shifted_copy() -> None:
    x = random(20, 5)
    rotation, _ = torch.linalg.qr(random(5, 5, seed=1))
    assert float(linear_cka(x, 3 * x @ rotation + 7)) == pytest.approx(1, abs=1e-12)


def test_cka_is_the_normalised_hsic_of_the_two_gram_matrices() -> None:
    x, y = random(20, 5), random(20, 3, seed=1)
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20

    def hsic(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.trace(one @ one.T @ centre @ other @ other.T @ centre)

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert float(linear_cka(x, y)) == pytest.approx(float(expected), abs=1e-12)


def test_cka_with_a_constant_is_zero() -> None:
    assert float(linear_cka(random(20, 5), torch.ones(20, 2, dtype=torch.float64))) == 0


def analysis(lab: Lab, kind: str, method: Method, training: Training) -> dict[str, dict[str, list[float]]]:
    inputs = {f"state-{task}": lab.stage(method, stage, training) for stage, task in enumerate(TASKS)}
    out = lab.folder()
    analyse(AnalysisConfig(kind, TASKS, 0), inputs, out, lab.run())
    return json.loads((out / "analysis.json").read_text())


@pytest.mark.parametrize("init_by_task", [True, False])
def test_modules_that_start_alike_stay_more_alike_in_a_than_those_that_do_not(lab: Lab, init_by_task: bool) -> None:
    method = SeqLoRA(rank=4, lora_alpha=8, init_by_task=init_by_task)
    few = Training(max_steps=4, batch_size=8)
    states = {}
    for task in TASKS:
        states[task] = lab.folder()
        config = lab.config(method, 0, few)
        lab.train(type(config)(config.method, config.backbone, task, (), few, 0), None, states[task])
    out = lab.folder()
    analyse(AnalysisConfig("cka", TASKS, 0), {f"state-{task}": states[task] for task in TASKS}, out, lab.run())
    found = json.loads((out / "analysis.json").read_text())
    for name in ("A", "B"):
        assert [found[name][place][place] for place in (0, 1)] == pytest.approx([1, 1])
        assert found[name][0][1] == pytest.approx(found[name][1][0])
    assert (found["A"][0][1] > 0.9) == (not init_by_task)


def test_alpha_before_is_what_the_stage_began_with_and_after_what_it_left(lab: Lab) -> None:
    method = LiLoRA(rank=4, lora_alpha=8)
    started = method.attach(lab.model, list(lab.sites), None, TASKS[0], 0)
    before = [float(torch.sigmoid(started.tensors[f"{site}.theta"].detach())) for site in sorted(lab.sites)]
    started.remove()
    found = analysis(lab, "fusion", method, Training(max_steps=4, batch_size=8))[TASKS[0]]
    assert dict(zip(found["sites"], found["before"], strict=True)) == dict(zip(sorted(lab.sites), before, strict=True))
    assert found["after"] != found["before"]


def test_a_state_without_what_is_looked_for_is_refused(lab: Lab) -> None:
    with pytest.raises(ValueError, match="holds no learned fusion coefficient"):
        analysis(lab, "fusion", SeqLoRA(rank=4, lora_alpha=8), Training(max_steps=4, batch_size=8))
    with pytest.raises(ValueError, match="no analysis 'cca'; lilora.stages.analysis has: cka, fusion"):
        analyse(AnalysisConfig("cca", (), 0), {}, lab.folder(), lab.run())


def answers(lab: Lab, weights: list[list[float]] | None) -> Path:
    """What a step `predict` leaves: a row for each of `weights`."""
    out, columns = lab.folder(), {"id": ["a", "b"], "prediction": ["yes", "no"]}
    polars.DataFrame(columns | ({"weights": weights} if weights else {})).write_parquet(out / "predictions.parquet")
    return out


def test_a_blocks_weight_is_its_mean_over_the_rows_and_missing_where_it_takes_no_part(lab: Lab) -> None:
    inputs = {
        f"predictions-{TASKS[0]}": answers(lab, [[1.0], [1.0]]),
        f"predictions-{TASKS[1]}": answers(lab, [[0.25, 0.75], [0.75, 0.25]]),
    }
    out = lab.folder()
    analyse(AnalysisConfig("allocation", TASKS[:2], 0, TASKS[:2]), inputs, out, lab.run())
    assert json.loads((out / "analysis.json").read_text()) == {
        "tasks": list(TASKS[:2]), "blocks": list(TASKS[:2]), "weights": [[1.0, None], [0.5, 0.5]],
    }  # fmt: skip


def test_answers_without_weights_have_no_map_of_them(lab: Lab) -> None:
    inputs = {f"predictions-{TASKS[0]}": answers(lab, None)}
    with pytest.raises(ValueError, match=f"'{TASKS[0]}' have no weights of blocks"):
        analyse(AnalysisConfig("allocation", TASKS[:1], 0, TASKS[:1]), inputs, lab.folder(), lab.run())
