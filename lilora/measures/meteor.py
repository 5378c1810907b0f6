"""METEOR of captions on words that are given, without METEOR's Java program: nltk's, with METEOR 1.5's parameters.

COCO's evaluation runs METEOR 1.5 (Denkowski and Lavie 2014), a Java program with tables of synonyms and paraphrases.
Ours is `nltk.translate.meteor_score` with the program's parameters for English, alpha 0.85, beta 0.2 and gamma 0.6 in
place of nltk's 0.9, 3 and 0.5, with which it gives about twice the number. What still differs:

- words match where they are equal or have one Porter stem, each match counting 1; METEOR 1.5 matches WordNet's synonyms
  and a table of paraphrases too, and a stem, synonym or paraphrase counts less (0.6, 0.8, 0.6). WordNet is data that a
  machine has or has not, so it is never used here;
- all words weigh the same; METEOR 1.5 lets content words weigh 0.75 and function words ("a", "on") 0.25;
- nltk pairs words from the end, METEOR 1.5 so that least is crossed;
- a corpus has the mean of its captions; METEOR 1.5 adds up their counts first.

Measured against the program on human captions (Flickr8k: 32 pictures with 5 captions, each in turn as the candidate
against the other 4; five corpora, 23.0 to 26.4 by the program, times 100): 0.3 below to 1.2 above it. The captions of
another picture, which share little but function words: 11.7 against 8.9. A mean of seven metrics moves by a seventh.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace

#: Weight of precision against recall, shape and weight of the penalty for fragments: METEOR 1.5's for English.
_ALPHA, _BETA, _GAMMA = 0.85, 0.2, 0.6
Words = Sequence[str]
#: In place of nltk's WordNet: no word has a synonym.
_NO_SYNONYMS = SimpleNamespace(synsets=lambda word: ())


def meteor_each(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """METEOR of each caption, 0..1: the best over its references.

    With m matched words in the fewest chunks of neighbours that are in the same order in both texts, P = m / |c| and
    R = m / |s|: P R / (0.85 P + 0.15 R) * (1 - 0.6 (chunks / m)^0.2). 0 where nothing matches; 1 where a caption equals
    a reference, since METEOR 1.5 has no penalty there (nltk has: 0.58 for six words). Case does not count.
    """
    # Importing nltk takes seconds.
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import meteor_score

    stemmer = SimpleNamespace(stem=functools.cache(PorterStemmer().stem))

    def score(candidate: Words, texts: Sequence[Words]) -> float:
        lowered = [word.lower() for word in candidate]
        if lowered and any(lowered == [word.lower() for word in tokens] for tokens in texts):
            return 1.0
        found = meteor_score(
            texts, candidate, stemmer=stemmer, wordnet=_NO_SYNONYMS, alpha=_ALPHA, beta=_BETA, gamma=_GAMMA
        )
        return float(found)

    return [score(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)]
