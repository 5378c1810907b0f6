"""Names of classes in the CVIT benchmark (ImageNet, Places365).

paper: the CVIT release's rule (its eval_classification.py): right if the name is in the prediction or the prediction is
in the name, letter by letter, both in capitals; CoIN's is the same in the case that is written (`imagenet`). So "cat"
is right for "catamaran", and an empty prediction is always right. standard: that of `imagenet`.

Example: "Ten" for "ten": paper 1, 1, 1; standard 1, 1, 1.
"""

from __future__ import annotations

from lilora.scorers import ItemScore, Truth, class_name, each, two
from lilora.scorers.imagenet import top_one


def contained(prediction: str, truth: Truth) -> ItemScore:
    """main: contained one way or the other, in capitals; strict: the name alone; lenient: the name as whole words."""
    text = prediction.strip().upper()
    main = float(any(name.upper() in text or text in name.upper() for name in truth.references))
    named = class_name.score_item(prediction, truth.references)
    return ItemScore(main=main, strict=named.strict, lenient=named.lenient)


SCORER = two("imagenet_cvit", paper=each(contained), standard=each(top_one))
