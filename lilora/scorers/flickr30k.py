"""Captions of Flickr30k.

paper: what the CVIT release calls CIDEr, and LiLoRA's Table 1 averages: of each image's references the nearest one is
scored alone, with the roles of prediction and reference swapped (`lilora.measures.cider.swapped_best`), on words split
at white space, in the case that is written; 100-170 is usual. standard: CIDEr-D over all references on the words of
COCO's evaluation.

strict: the score of what has the asked form, 0 for the rest; lenient (and main): the score whatever the form.

Example: "a cat", "a dog" for "a cat", "a dog": paper 5, 0, 5; standard 5, 0, 5.
"""

from __future__ import annotations

from lilora.measures.cider import cider_each, swapped_best
from lilora.measures.form import is_sentence, is_sentence_in_any_case
from lilora.measures.penn_treebank import ptb_words
from lilora.scorers import two
from lilora.scorers.textcaps import captions

SCORER = two(
    "flickr30k",
    paper=captions(str.split, swapped_best, is_sentence_in_any_case),
    standard=captions(ptb_words, cider_each, is_sentence),
)
