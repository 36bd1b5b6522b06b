"""Where arrays lie: the device mesh, the partition rules of the whole train state, the layout of batches.

The only place that names mesh axes, and the one through which arrays go to devices and back when the mesh spans several
processes. Read `RULES` and `state_shardings`, then `put`.
"""

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from tokenrec_jax.config import MeshConfig
from tokenrec_jax.types import ConfigError

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
#: What the examples of a batch are divided over, and the rows of the tables of users and items.
BATCH_AXES, ROW_AXES = (DATA, FSDP), (FSDP, TENSOR)

#: (pattern of the path, layout). Exactly one pattern must match the end of each path of the train state; moments of the
#: optimizer end like the parameters that they belong to. Axes that divide nothing are an error, not a silent copy.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # Rows of users and items.
    (r"(user|item)_(embedding|vectors|codes)$", PartitionSpec(ROW_AXES, None)),
    (r"head/(item|sent)_residual$", PartitionSpec(ROW_AXES, None)),
    (r"tables/inverse_sqrt_degree$", PartitionSpec(ROW_AXES)),
    (r"tables/item_(features|text)$", PartitionSpec(ROW_AXES, None)),
    (r"tables/(text|text_length|slot|answer)$", PartitionSpec()),
    # Tokenizers are small and read whole by every example: replicated.
    (r"(user|item)_tokenizer/.*$", PartitionSpec()),
    # Query head.
    (r"head/(hidden|input)/kernel$", PartitionSpec(FSDP, TENSOR)),
    (r"head/output/kernel$", PartitionSpec(TENSOR, FSDP)),
    (r"head/(hidden|output)/bias$", PartitionSpec()),
    (r"head/(fold_in_scale|lag_weights)$", PartitionSpec()),
    (r"features/(value_(space|tokens)|text_(space|input)/kernel)$", PartitionSpec()),
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
    data = config.data or len(devices) // max(fixed, 1)
    if data * fixed != len(devices) or min(data, config.fsdp, config.tensor) < 1:
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


def reopened_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over all devices to open a run on: cut as the run's was, as far as their number allows.

    Args:
      config: the mesh that the run was trained on.
      devices: of this mesh; None: all.
    """
    count = len(jax.devices() if devices is None else devices)
    tensor = math.gcd(config.tensor, count)
    return make_mesh(MeshConfig(fsdp=math.gcd(config.fsdp, count // tensor), tensor=tensor), devices)


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
            axes = () if axis is None else (axis,) if isinstance(axis, str) else axis
            parts = math.prod(mesh.shape[each] for each in axes)
            if dim % parts:
                raise ConfigError(
                    f"sharding: {name} has a dimension of {dim}, not divisible by "
                    f"mesh.{' x mesh.'.join(axes)} = {parts}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def path_name(path: tuple) -> str:
    """Returns a tree path as names joined by slashes."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "?")))) for key in path)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of batches: examples over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def is_ours(sharding: Sharding) -> TypeGuard[NamedSharding]:
    """Returns whether arrays of this layout lie on a mesh that `make_mesh` made."""
    return isinstance(sharding, NamedSharding) and sharding.mesh.axis_names == (DATA, FSDP, TENSOR)


def on_mesh(mesh: Mesh | AbstractMesh | None) -> contextlib.AbstractContextManager:
    """Tells the trace of a function which mesh it is for, see `partitioned.py`; used inside of jitted functions."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the layout of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Returns a batch of host arrays on the devices; each process gives the rows of its own devices.

    Args:
      batch: the whole batch, the same in all processes.
      mesh: devices.

    Raises:
      ConfigError: the number of examples is not divisible by data x fsdp.
    """
    parts = mesh.shape[DATA] * mesh.shape[FSDP]
    for leaf in jax.tree.leaves(batch):
        if np.shape(leaf)[0] % parts:
            raise ConfigError(
                f"batch of {np.shape(leaf)[0]} examples: not divisible by mesh.data x mesh.fsdp = {parts}"
            )
    return put(batch, batch_sharding(mesh))


def put(tree: Any, sharding: Sharding | None) -> Any:
    """Returns host arrays on the devices of a sharding; each process copies only what its own devices hold.

    Args:
      tree: arrays of NumPy, the same in all processes.
      sharding: of every leaf; None for the default device of this process.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put_own_part(leaf: Any) -> jax.Array:
        # `device_put` would first compare the whole array between all processes.
        return _from_own_parts(np.shape(leaf), sharding, np.asarray(leaf).__getitem__)

    return jax.tree.map(put_own_part, tree)


def _from_own_parts(shape: tuple[int, ...], sharding: Sharding, part: Callable[[Any], np.ndarray]) -> jax.Array:
    # As explicit a copy as `device_put`, which the guard does not know.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(shape, sharding, part)


def fetch(tree: Any) -> Any:
    """Returns arrays of the devices as NumPy's, whole in every process; with several, all must call it."""

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return jax.device_put(leaf, replicated_beside(leaf))
        return leaf

    return jax.device_get(jax.tree.map(whole, tree))


def replicated_beside(array: jax.Array) -> Sharding:
    """Returns the sharding that repeats small arrays on every device that holds a part of `array`."""
    return replicated(array.sharding.mesh) if isinstance(array.sharding, NamedSharding) else array.sharding


def any_process(flag: bool, mesh: Mesh) -> jax.Array:
    """Returns a scalar on the devices that is not 0 if the flag of at least one process is true; all must call it."""
    every_axis = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return _largest(_from_own_parts((mesh.size,), every_axis, lambda _: np.full(1, flag, np.int32)))


_largest = jax.jit(jnp.max)
