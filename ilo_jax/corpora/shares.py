"""How much of each language there is to be: shares, and whole numbers that come near them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from ilo_jax.refusals import refuse


def sampled(sizes: Mapping[str, int], *, alpha: float) -> dict[str, float]:
    """The share of each language, size^alpha over the sum of all of them.

    With alpha 1 every text comes as often as any other; with less, small languages come more often,
    and with 0 all languages as often as each other. Lample and Conneau, "Cross-lingual Language
    Model Pretraining" (2019), section 3.1, take 0.5; XLM-R takes 0.3.

    Args:
        sizes: Of the text of each language, positive, in any one unit.
        alpha: From 0 to 1.

    Raises:
        ValueError: If alpha is outside that range, or naming languages without text.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha, by which languages are sampled, must be in [0, 1], got {alpha}")
    empty = [language for language, size in sizes.items() if size < 1]
    refuse("a language must have text to be sampled, got none in", empty, inline=True)
    weights = {language: float(size) ** alpha for language, size in sizes.items()}
    return {language: weight / sum(weights.values()) for language, weight in weights.items()}


def given(shares: Mapping[str, float], languages: Sequence[str]) -> dict[str, float]:
    """Shares that somebody chose, divided by their sum, in the order of the languages.

    Args:
        shares: Positive, one for each language.
        languages: All that there are.

    Raises:
        ValueError: Naming languages without a share, shares without a language, and shares that
            are not positive and finite.
    """
    problems = [f"none for {language}" for language in languages if language not in shares]
    problems += [f"one for {name}, of which there is no text" for name in shares.keys() - languages]
    problems += [
        f"{share} for {language}"
        for language, share in shares.items()
        if not (np.isfinite(share) and share > 0)
    ]
    refuse("every language must have a share above 0, got", sorted(problems), inline=True)
    total = sum(shares.values())
    return {language: shares[language] / total for language in languages}


def quotas(shares: Float[np.ndarray, " lang"], total: int) -> Int64[np.ndarray, " lang"]:
    """Whole numbers that add up to `total`, each less than 1 away from its share of it.

    By largest remainders (Hamilton's method): what is left after rounding down goes to those that
    lost most by it, of equals to the first.

    Args:
        shares: Of 1.
        total: What is shared out.
    """
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    most = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[most] += 1
    return whole
