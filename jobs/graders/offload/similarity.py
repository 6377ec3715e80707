"""How near two texts are, by the published measures, from the libraries that keep them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import nltk
from nltk.corpus import wordnet
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from jobs.graders.offload.records import Outcome

_words: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]
# Sentence BLEU: orders that a short text does not have are left out, zero counts are smoothed.
_bleu = BLEU(effective_order=True)
_NO_SYNONYMS = SimpleNamespace(synsets=lambda word: [])


def warm() -> None:
    """Load what the libraries load at their first use."""
    for metric in _MEASURES:
        run(metric=metric, text="a warm word", reference="a word")


def run(*, metric: str, text: str, reference: str) -> Outcome:
    """0 to 1. An empty text is like an empty one and like nothing else."""
    if not text.strip() or not reference.strip():
        return Outcome(float(text.strip() == reference.strip()))
    return Outcome(min(1.0, max(0.0, float(_MEASURES[metric](text, reference)))))


def _bleu_score(text: str, reference: str) -> float:
    return float(_bleu.sentence_score(text, [reference]).score) / 100.0


def _gleu(text: str, reference: str) -> float:
    """Google-BLEU, https://arxiv.org/abs/1609.08144, section 4.3, on BLEU's own words."""
    return float(sentence_gleu([_words(reference).split()], _words(text).split()))


def _meteor(text: str, reference: str) -> float:
    """Lavie and Agarwal 2007: words, then stems, then synonyms where WordNet is installed."""
    synonyms = wordnet if _has_wordnet() else _NO_SYNONYMS
    return float(
        single_meteor_score(_words(reference).split(), _words(text).split(), wordnet=synonyms)
    )


def _has_wordnet() -> bool:
    try:
        nltk.data.find("corpora/wordnet")
    except LookupError:
        return False
    return True


def _rouge(kind: str) -> Callable[[str, str], float]:
    scorer = RougeScorer([kind])
    return lambda text, reference: float(scorer.score(reference, text)[kind].fmeasure)


_MEASURES: dict[str, Callable[[str, str], float]] = {
    "bleu": _bleu_score,
    "gleu": _gleu,
    "meteor": _meteor,
    **{f"rouge_{n}": _rouge(f"rouge{n}") for n in range(1, 6)},
    "rouge_l": _rouge("rougeL"),
}
