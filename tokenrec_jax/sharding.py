"""Where arrays lie: the device mesh, the partition rules of the whole train state, the layout of batches.

The only place that names mesh axes. Read `RULES` and `state_shardings`.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from tokenrec_jax.config import MeshConfig
from tokenrec_jax.types import ConfigError

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"

#: (pattern of the path, layout). Exactly one pattern must match the end of each path of the train state; moments of the
#: optimizer end like the parameters that they belong to. Axes that divide nothing are an error, not a silent copy.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # Rows of users and items.
    (r"(user|item)_(embedding|vectors|codes)$", PartitionSpec(FSDP, None)),
    (r"head/item_residual$", PartitionSpec(FSDP, None)),
    (r"tables/inverse_sqrt_degree$", PartitionSpec(FSDP)),
    (r"tables/(text|text_length|slot|answer)$", PartitionSpec()),
    # Tokenizers are small and read whole by every example: replicated.
    (r"(user|item)_tokenizer/.*$", PartitionSpec()),
    # Query head.
    (r"head/(hidden|input)/kernel$", PartitionSpec(FSDP, TENSOR)),
    (r"head/output/kernel$", PartitionSpec(TENSOR, FSDP)),
    (r"head/(hidden|output)/bias$", PartitionSpec()),
    (r"head/fold_in_scale$", PartitionSpec()),
    # Language model: vocabulary, heads and feed-forward along `tensor`, the model's own dimension along `fsdp`.
    (r"(llm/(token_embedding|lm_head)|code_tokens)$", PartitionSpec(TENSOR, FSDP)),
    (r"llm/.*attention/(query|key|value)/kernel$", PartitionSpec(FSDP, TENSOR)),
    (r"llm/.*attention/output/kernel$", PartitionSpec(TENSOR, FSDP)),
    (r"llm/.*feed_forward/(input|gate)/kernel$", PartitionSpec(FSDP, TENSOR)),
    (r"llm/.*feed_forward/output/kernel$", PartitionSpec(TENSOR, FSDP)),
    (r"llm/.*norm/scale$", PartitionSpec()),
    (r"lora/down/.*kernel$", PartitionSpec(FSDP, None)),
    (r"lora/up/.*kernel$", PartitionSpec(None, TENSOR)),
    (r"llm/.*relative_bias/embedding$", PartitionSpec()),
    (r"llm/position_embedding$", PartitionSpec(None, FSDP)),
    (r"llm/.*attention/(query|key|value)/bias$", PartitionSpec(TENSOR)),
    # GPT-2's queries, keys and values side by side: cuts along `tensor` would not fall between them.
    (r"llm/.*attention/qkv/kernel$", PartitionSpec(FSDP, None)),
    (r"llm/.*feed_forward/input/bias$", PartitionSpec(TENSOR)),
    (r"llm/.*(attention/(qkv|output)|feed_forward/output|norm)/bias$", PartitionSpec()),
    # Step counters and keys.
    (r"(^|/)(step|count|key)$", PartitionSpec()),
)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with the axes data, fsdp, tensor over all devices.

    Raises:
      ConfigError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    fixed = config.fsdp * config.tensor
    data = config.data or len(devices) // fixed
    if data * fixed != len(devices) or data < 1:
        raise ConfigError(
            f"mesh: data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not cover {len(devices)} "
            "devices; their product must be the number of devices (data=0 takes what is left)"
        )
    # Auto: under explicit axis types `lax.top_k` over a sharded axis and segment sums refuse to compile.
    return jax.make_mesh(
        (data, config.fsdp, config.tensor),
        (DATA, FSDP, TENSOR),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices,
    )


def state_shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns a tree of shardings for a tree of arrays or shapes.

    Raises:
      ConfigError: no rule or several match a path, or a dimension is not divisible by its axis.
    """

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        specs = [spec for pattern, spec in RULES if re.search(pattern, name)]
        if len(specs) != 1:
            raise ConfigError(f"sharding: {len(specs)} rules match {name!r} {leaf.shape}; exactly one must")
        spec = specs[0]
        for dim, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and dim % mesh.shape[axis]:
                raise ConfigError(
                    f"sharding: {name} has a dimension of {dim}, not divisible by mesh.{axis}={mesh.shape[axis]}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def path_name(path: tuple) -> str:
    """Returns a tree path as names joined by slashes."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "?")))) for key in path)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of batches: examples over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Returns a batch of host arrays on the devices.

    Raises:
      ConfigError: the number of examples is not divisible by data x fsdp.
    """
    parts = mesh.shape[DATA] * mesh.shape[FSDP]
    for leaf in jax.tree.leaves(batch):
        if np.shape(leaf)[0] % parts:
            raise ConfigError(
                f"batch of {np.shape(leaf)[0]} examples: not divisible by mesh.data x mesh.fsdp = {parts}"
            )
    return jax.device_put(batch, batch_sharding(mesh))
