"""How rotary positions turn, and how they are stretched for long sentences."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """All rotary frequencies divided by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class DynamicScaling:
    """A larger theta for sentences longer than `original_positions` ("NTK-aware").

    A sentence's own length decides, never that of its batch or row.
    """

    factor: float
    original_positions: int


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): slow pairs are stretched by `factor`, fast ones are kept.

    Between the pairs that turn `beta_slow` and `beta_fast` times over
    `original_positions`, a linear ramp. Queries and keys are also multiplied by
    `attention_factor`.
    """

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool
    """Whether the ends of the ramp are rounded outward to whole pairs."""


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Rotary frequencies stretched for long context (Llama 3.1).

    Wavelengths above `original_positions / low_freq_factor` are stretched by
    `factor`, those below `original_positions / high_freq_factor` are kept, and
    those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int

    def __post_init__(self):
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor ({self.low_freq_factor}) must be below "
                f"high_freq_factor, {self.high_freq_factor}"
            )


@dataclass(frozen=True, kw_only=True)
class LongScaling:
    """LongRoPE (Ding et al. 2024): a factor for every pair, by the sentence's own length.

    `long_factor` divides the frequencies of sentences longer than
    `original_positions`, `short_factor` those of all others. Queries and keys are also
    multiplied by `attention_factor`.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_positions: int
    attention_factor: float


Scaling = LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling | LongScaling


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) of the first `dims` of each head."""

    theta: float
    dims: int
    interleaved: bool = False
    """Whether a pair is (2i, 2i + 1) rather than (i, i + dims/2)."""
    scaling: Scaling | None = None

    def __post_init__(self):
        if self.dims % 2 or self.dims < 2:
            raise ValueError(f"rotary positions need an even number of dims, got {self.dims}")
        if isinstance(self.scaling, DynamicScaling) and self.dims < 4:
            raise ValueError(f"dynamic scaling needs at least 4 rotary dims, got {self.dims}")
        if isinstance(self.scaling, LongScaling):
            lengths = len(self.scaling.short_factor), len(self.scaling.long_factor)
            if lengths != (self.dims // 2,) * 2:
                raise ValueError(
                    f"short_factor and long_factor must have {self.dims // 2} values, "
                    f"got {lengths[0]} and {lengths[1]}"
                )
