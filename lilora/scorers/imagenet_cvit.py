"""Names of classes in the CVIT benchmark (ImageNet, Places365).

paper: the CVIT release's rule (its eval_classification.py): right if the name is in the prediction or the prediction is
in the name, letter by letter, both in capitals; CoIN's is the same in the case that is written (`imagenet`). So "cat"
is right for "catamaran", and an empty prediction is always right. standard: that of `imagenet`.

Example: "Ten" for "ten": paper 1, 1, 1; standard 1, 1, 1.
"""

from __future__ import annotations

from functools import partial

from lilora.scorers import each, two
from lilora.scorers.imagenet import contained, top_one

SCORER = two("imagenet_cvit", paper=each(partial(contained, fold=str.upper)), standard=each(top_one), versions=(2, 2))
