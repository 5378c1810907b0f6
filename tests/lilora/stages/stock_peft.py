"""Answers of exported folders by transformers and PEFT alone: a script in which our packages cannot be imported.

Arguments: the backbone's folder, inputs.safetensors, the file for the logits, then the exported folders.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

OURS = {"lilora", "orchestrator", "experiments", "tests"}


class Refuse:
    """An import hook that finds none of our packages, editable installation or not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"{name} is not installed here")


def main(base: str, inputs: str, out: str, *folders: str) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    bare = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    asked, logits = load_file(inputs), {}
    for folder in folders:
        if (Path(folder) / "adapter_config.json").exists():
            model = PeftModel.from_pretrained(copy.deepcopy(bare), folder).eval()
        else:
            model = AutoModelForImageTextToText.from_pretrained(folder).eval()
            AutoProcessor.from_pretrained(folder)
        with torch.no_grad():
            logits[Path(folder).name] = model(**asked).logits.contiguous()
    save_file(logits, out)


if __name__ == "__main__":
    sys.meta_path.insert(0, Refuse())
    for package in OURS:
        try:
            importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        sys.exit(f"{package} can be imported")
    main(*sys.argv[1:])
    sys.exit(f"imported: {OURS & set(sys.modules)}" if OURS & set(sys.modules) else 0)
