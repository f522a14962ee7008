"""Whether a model may be trained as we train: without dropout."""

from ilo_jax.models.config import ModelConfig


def refuse_dropout(config: ModelConfig, *, waived: bool) -> None:
    """Stop if a model was made to be trained with dropout and nobody has waived it.

    No step of ours drops anything, as the paper's fine-tuning did not: the released configurations
    of Llama and its kin have none. Where a model's config.json has some, training without it is
    another training, and must be asked for.

    Args:
        config: Of the model.
        waived: Whether to train without it.

    Raises:
        ValueError: Naming the rates.
    """
    rates = config.dropout.rates
    if rates and not waived:
        named = ", ".join(f"{place} {rate:g}" for place, rate in rates.items())
        raise ValueError(
            f"the model's config.json asks for dropout in training ({named}), which is not "
            "computed here: set dropout=False to train without it"
        )
