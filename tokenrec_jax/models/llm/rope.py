"""Rotary position embeddings, with the stretched frequencies of Llama 3. Read `rotate`.

Positions are an input, so that padding on either side and cached decoding are the business of the caller
(`decoder.py`). Everything here is float32: angles of far positions lose whole turns in bfloat16.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tokenrec_jax.models.llm.hf_fields import read_field
from tokenrec_jax.types import ConfigError

#: Cosine and sine of each position's angles.
Rotation = tuple[Float[Array, "#batch length half"], Float[Array, "#batch length half"]]


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Frequencies of Llama 3.1 and later: slow ones are divided, fast ones kept, those between blended."""

    # Divides the frequencies of waves longer than original_max_positions / low_frequency_factor positions.
    factor: float
    low_frequency_factor: float
    # Waves shorter than original_max_positions / high_frequency_factor stay.
    high_frequency_factor: float
    # Positions that the model was pretrained on before it was stretched.
    original_max_positions: int

    def __post_init__(self):
        if self.factor < 1 or self.original_max_positions < 1:
            raise ConfigError(f"rope factor is {self.factor} of {self.original_max_positions} positions; allowed: >= 1")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ConfigError(
                f"rope low_freq_factor is {self.low_frequency_factor}, high_freq_factor {self.high_frequency_factor}; "
                "allowed: 0 < low < high"
            )


#: Our name and Hugging Face's of its fields.
_HF_NAMES = {
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_max_positions": "original_max_position_embeddings",
}


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Base of the geometric row of wave lengths, and how they are stretched."""

    theta: float = 10000.0
    scaling: Llama3Scaling | None = None

    def __post_init__(self):
        if self.theta <= 1:
            raise ConfigError(f"rope_theta is {self.theta}; allowed: more than 1")

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> "RopeConfig":
        """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4) of a config.json.

        Raises:
          ConfigError: another kind of rope than "default" and "llama3", or malformed values.
        """
        nested = values.get("rope_parameters") or values.get("rope_scaling") or {}
        if not isinstance(nested, dict):
            raise ConfigError(f"rope parameters are {nested!r}; allowed: an object")
        kind = nested.get("rope_type", nested.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise ConfigError(f"rope_type is {kind!r}; allowed: default, llama3")
        partial = nested.get("partial_rotary_factor", values.get("partial_rotary_factor"))
        if partial not in (None, 1, 1.0):
            raise ConfigError(f"partial_rotary_factor is {partial!r}; allowed: 1.0")
        theta = nested.get("rope_theta", values.get("rope_theta", 10000.0))
        scaling = None
        if kind == "llama3":
            types = {field.name: field.type for field in dataclasses.fields(Llama3Scaling)}
            scaling = Llama3Scaling(**{name: read_field(nested, hf, types[name]) for name, hf in _HF_NAMES.items()})
        return cls(theta=read_field({"rope_theta": theta}, "rope_theta", float), scaling=scaling)

    def to_hf(self) -> dict[str, Any]:
        """Returns both spellings, so that transformers 4 and 5 read the same."""
        if self.scaling is None:
            return {
                "rope_theta": self.theta,
                "rope_scaling": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": self.theta},
            }
        scaling = {"rope_type": "llama3", **{hf: getattr(self.scaling, name) for name, hf in _HF_NAMES.items()}}
        return {
            "rope_theta": self.theta,
            "rope_scaling": scaling,
            "rope_parameters": {**scaling, "rope_theta": self.theta},
        }


def inverse_frequencies(config: RopeConfig, *, head_dim: int) -> Float[np.ndarray, " half"]:
    """Returns the angle in radians by which each pair of dimensions turns from one position to the next.

    Plain numpy: a constant of the compiled program.

    Source: Su et al., 2021 (RoPE); for Llama 3 `_compute_llama3_parameters` of transformers.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(config.theta) ** exponents).astype(np.float32)
    scaling = config.scaling
    if scaling is None:
        return frequencies
    # How often a wave fits into the original context decides: rarely (stretch), often (keep), or between.
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (kept * frequencies + (1 - kept) * frequencies / scaling.factor).astype(np.float32)


def rotation(positions: Int[Array, "batch length"], *, frequencies: Float[np.ndarray, " half"]) -> Rotation:
    """Returns cosine and sine of the angles of each position."""
    angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "batch length head head_dim"], turn: Rotation) -> Float[Array, "batch length head head_dim"]:
    """Turns each pair (dimension i, dimension i + head_dim / 2) by the angle of its position.

    Differs: Su et al. pair neighbours (2i, 2i + 1); published Hugging Face weights are permuted for the halves.
    """
    cosine, sine = (part[:, :, None, :] for part in turn)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)
