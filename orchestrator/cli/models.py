"""`lilora compose-llava` and `lilora costs`: what real models are made of, and what studies with them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, chosen, open_store


def add(app: typer.Typer) -> None:
    """Register the commands."""

    @app.command(
        "compose-llava",
        epilog="Example: lilora compose-llava --llm vicuna-7b-v1.5 --vision clip-vit-large-patch14-336 "
        "--projector llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5/mm_projector.bin --out llava-7b-stage1",
    )
    def compose_llava(
        llm: Annotated[Path, typer.Option(metavar="DIR", help="Vicuna: config, tokenizer and weights.")],
        vision: Annotated[Path, typer.Option(metavar="DIR", help="CLIP, with preprocessor_config.json.")],
        projector: Annotated[Path, typer.Option(metavar="FILE", help="LLaVA's mm_projector.bin of stage 1.")],
        out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the model; must be new or empty.")],
        json: AsJson = False,
    ) -> None:
        """Build LLaVA's first-stage model from its parts, in transformers' form."""
        from orchestrator.cli.commands.compose import compose_llava as compose
        from orchestrator.cli.console import Output

        compose(llm, vision, projector, out, Output(json))

    @app.command(epilog="Example: lilora costs table1_single --real --gpu a100-80 --workers 4 --strategy zero2")
    def costs(
        study: StudyName,
        real: Real = False,
        gpu: Annotated[str, typer.Option(metavar="NAME", help="h100, h200, b200, a100-80, a100-40, ...")] = "h100",
        utilisation: Annotated[
            float,
            typer.Option(
                metavar="SHARE", help="Share of the GPU's peak rate that training reaches; answering reaches less."
            ),
        ] = 0.30,
        workers: Annotated[int | None, typer.Option(min=1, help="GPUs a stage; by default the trials'.")] = None,
        micro_batch: Annotated[int | None, typer.Option(min=1, help="Rows that a GPU holds at a time.")] = None,
        strategy: Annotated[str | None, typer.Option(metavar="NAME", help="ddp, zero1, zero2 or zero3.")] = None,
        offload: Annotated[
            bool | None, typer.Option("--offload/--no-offload", help="ZeRO's parts in the host's memory.")
        ] = None,
        checkpointing: Annotated[
            bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Compute activations again.")
        ] = None,
        every: Annotated[bool, typer.Option("--stages", help="A row a stage; else a row a method.")] = False,
        store: StoreFolder = STORE,
        json: AsJson = False,
    ) -> None:
        """What a study takes on real GPUs: FLOPs, memory, store, hours. Exit code 2 where a stage does not fit."""
        from orchestrator.cli.commands.costs import show_costs
        from orchestrator.cli.console import Output
        from orchestrator.resolving.estimate import Choice

        choice = Choice(gpu, utilisation, workers, micro_batch, strategy, offload, checkpointing)
        show_costs(chosen(study, real), open_store(store), Output(json), choice, every)
