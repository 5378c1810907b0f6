"""proglora_fig3: ProgLoRA (dynamic) over the amount of replay, the model and the rank, stage by stage (Fig. 3).

The trials of Tables 9 and 10 in one report, whose panel "AP" has a curve of each over the stages. The paper's figure
has no numbers; beside ours stand the overall results of its tables. There is one size of tiny LLaVA, so the model's
scale, LLaVA-1.5-7B beside 13B, is in the real form alone.
"""

from dataclasses import replace

from experiments import proglora_table9, proglora_table10
from experiments._proglora import at_paper_scale
from lilora.backbones import llava_1_5_13b
from orchestrator.study import Study


def proglora_fig3() -> Study:
    """The default, two amounts of replay, two ranks; on mini_coin, one seed."""
    replay, rank = proglora_table9.proglora_table9(), proglora_table10.proglora_table10()
    assert replay.paper and rank.paper
    rows = (*replay.paper.rows, *rank.paper.rows[1:])
    return Study(
        name="proglora_fig3",
        title="ProgLoRA stage by stage",
        description=__doc__ or "",
        trials=(*replay.trials, *rank.trials[1:]),
        paper=replace(replay.paper, source="ProgLoRA, Tables 9 and 10, whose settings Fig. 3 shows", rows=rows),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN, and the default on LLaVA-1.5-13B; `lilora plan proglora_fig3 --real`."""
    real, larger = at_paper_scale(proglora_fig3()), at_paper_scale(proglora_fig3(), llava_1_5_13b.BACKBONE)
    assert real.paper
    rows = replace(real.paper, rows=(*real.paper.rows, None))
    return replace(real, trials=(*real.trials, larger.trials[0]), paper=rows)
