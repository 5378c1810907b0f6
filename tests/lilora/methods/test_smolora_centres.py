"""SMoLoRA's centred visual routers: what the centre is, that it stays, and that it is all that changes a choice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lilora.adapters.preparation import TaskRows
from lilora.adapters.state import load_state
from lilora.backbones import is_projector
from lilora.methods.smolora import SMoLoRA
from lilora.methods.smolora.centres import visual_centres
from lilora.model.logits import AnswerModel
from tests.lilora.lab import Lab
from tests.lilora.methods.test_smolora import K, make_layer, rows_of

METHOD = SMoLoRA(rank=4, experts=4, centred=True)


def test_a_centre_is_the_mean_over_rows_of_the_mean_over_their_prompts(lab: Lab) -> None:
    data, features = lab.rows("Colour")
    sites = [next(site for site in lab.sites if is_projector(site) == wanted) for wanted in (True, False)]
    found = visual_centres(lab.model, sites, TaskRows(data, features))
    seen: dict[str, list[Tensor]] = {site: [] for site in sites}
    handles = [
        lab.model.get_submodule(site).register_forward_hook(lambda _, given, __, site=site: seen[site].append(given[0]))
        for site in sites
    ]
    means: dict[str, list[Tensor]] = {site: [] for site in sites}
    for row in range(len(data)):
        batch = data.training_batch([row])
        with torch.no_grad():
            AnswerModel(lab.model, whole_rows=True)(batch, features.of(batch.images))
        for site in sites:
            [x] = seen[site].pop()
            means[site].append((x if is_projector(site) else x[: len(data.prompts[row])]).mean(0))
    for handle in handles:
        handle.remove()
    for site in sites:
        # Rows in batches and alone: float32's rounding.
        torch.testing.assert_close(found[f"{site}.centre"], torch.stack(means[site]).mean(0), rtol=1e-4, atol=1e-5)


def test_the_centre_of_the_first_task_stays(lab: Lab) -> None:
    data, features = lab.rows("Colour")
    expected = visual_centres(lab.model, list(lab.sites), TaskRows(data, features))
    for stage in (0, 1):
        shared = load_state(lab.stage(METHOD, stage)).shared
        assert {name for name in shared if name.endswith(".centre")} == set(expected)
        assert all(torch.equal(shared[name], centre) for name, centre in expected.items())
        assert any(centre.any() for centre in expected.values())


def test_a_centred_choice_is_the_plain_one_of_inputs_less_the_centre() -> None:
    plain, centred = make_layer(), make_layer()
    centre = torch.linspace(-2, 2, K, dtype=torch.float64)
    centred.tensors["centre"] = nn.Parameter(centre, requires_grad=False)
    prompts = [[0, 1, 2], [1, 2, 3, 4], [0], [2, 3], [0, 4], [1, 3, 4]]
    x = torch.randn(6, 5, K, dtype=torch.float64)
    chosen = []
    for layer, given in ((plain, x), (centred, x), (plain, x - centre)):
        rows_of(layer, prompts, 5)
        layer(given)
        assert layer.routing is not None
        chosen.append(layer.routing.chosen["site"])
    assert torch.equal(chosen[1], chosen[2]) and not torch.equal(chosen[0], chosen[1])


def test_a_centre_is_counted_and_not_trained_and_means_nothing_without_routers(lab: Lab) -> None:
    sites = lab.sites
    plain, centred = SMoLoRA(rank=4, experts=4).count(sites), METHOD.count(sites)
    assert centred.trainable == plain.trainable
    assert centred.shared == plain.shared + sum(k for _, k in sites.values())
    assert SMoLoRA(rank=4, experts=2, centred=True).stage_method() == SMoLoRA(rank=4, experts=2).stage_method()
    assert METHOD.stage_method(first=True) != SMoLoRA(rank=4, experts=4).stage_method(first=True)
