"""Writes a trained model as a folder that needs jax and numpy to run. Read `export_portable`.

  program.bin      query and search as serialized StableHLO (`jax.export`) for CPU, CUDA and TPU, for any number of
                   histories and of items to exclude
  weights.npz      what the program reads, and nothing else; without pickle
  about.json       original ids and titles in the order of the rows, the order of the weights, the sizes
  loader.py        puts them together
  flatbuffers.zip  the package of that name (pure Python, Apache 2.0): JAX reads its programs with it but does not bring
                   it along; an installed one goes first

The weights stay outside of the program, so that it is small and they are read once, by whoever likes. The program is
one for a single device: nothing in it knows of a mesh.
"""

import copy
import importlib.util
import json
import pathlib
import shutil
import zipfile
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.data.files import empty_target, new_folder
from tokenrec_jax.numerics import normalize
from tokenrec_jax.portable import loader
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.retrieval.search import allowed_items, similarities
from tokenrec_jax.sharding import fetch, path_name
from tokenrec_jax.training.query import last_queries
from tokenrec_jax.training.state import split
from tokenrec_jax.types import PADDING, ConfigError

#: What the program is lowered for.
PLATFORMS = ("cpu", "cuda", "tpu")


def export_portable(recommender: Recommender, folder: str, *, k: int = 100) -> None:
    """Writes the folder; it appears whole or not at all.

    The program has the "seen" prompt and never recommends what it is told to exclude, nor what the recommender has
    removed.

    Args:
      recommender: of a finished run.
      folder: to make; must not exist, or be empty.
      k: items that the program returns, at most all; a caller may use fewer.

    Raises:
      ConfigError: the folder holds something, or cannot be written, or flatbuffers is missing.
    """
    path = empty_target(folder)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError("--format=portable: the package flatbuffers is missing; pip install -e '.[portable]'")
    # As it stands now, whatever is added meanwhile.
    recommender = copy.copy(recommender)
    data, config = recommender.interactions, recommender.model.config
    k = min(k, data.num_items)
    program, weights = lower(recommender, k=k)
    about = {
        "name": data.name,
        "k": k,
        "max_history": config.data.max_history,
        "platforms": PLATFORMS,
        "jax": jax.__version__,
        "weights": list(weights),
        "items": data.item_ids,
        "titles": data.item_titles or [""] * data.num_items,
        "users": data.user_ids if config.llm.user_tokens == "learned" else [],
    }
    try:
        with new_folder(path, replace=True) as draft:
            (draft / "program.bin").write_bytes(program)
            np.savez(draft / "weights.npz", allow_pickle=False, **weights)  # pyright: ignore[reportArgumentType]
            (draft / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
            shutil.copyfile(loader.__file__, draft / "loader.py")
            _zip_flatbuffers(draft / "flatbuffers.zip")
    except OSError as error:
        raise ConfigError(f"--output={folder}: {error.strerror}; give a folder that can be written") from None


def lower(recommender: Recommender, *, k: int) -> tuple[bytes, dict[str, np.ndarray]]:
    """Returns the serialized program and the arrays that it reads, by name, in the order in which it takes them.

    The program maps (arrays, user [batch], history [batch, max_history], exclude [batch, seen]), all int32 but the
    arrays, to (item rows [batch, k], -1 where no item is left, scores). The history is right-padded with -1, the
    excluded items anyhow.
    """
    definition, model = recommender.built.definition, recommender.model
    count, index = recommender.interactions.num_items, recommender.index
    parts = {"model": split(model), "items": index.vectors[:count], "allowed": recommender.allowed[:count]}
    parts["weights"] = jnp.ones(count) if index.scale is None else index.scale[:count]
    leaves, structure = jax.tree_util.tree_flatten_with_path(parts)
    arrays = {path_name(path): fetch(leaf) for path, leaf in leaves}

    names = list(arrays)

    def retrieve(values, user, history, exclude):
        given = dict(zip(names, values, strict=True))
        # Nothing depends on those that are left out.
        filled = [given.get(name, np.zeros((), array.dtype)) for name, array in arrays.items()]
        tree = jax.tree_util.tree_unflatten(structure, filled)
        merged = definition.merge(*tree["model"])

        # Row by row, as the model looks at its number of rows, which here is no number. What does not depend on the
        # row, such as an instruction that all share, is still computed once.
        def query_of(user: jax.Array, history: jax.Array) -> jax.Array:
            template = jnp.zeros(1, jnp.int32)
            given = {"user": user[None], "history": history[None], "template": template}
            return last_queries(merged, items=tree["items"], **given)[0]

        query = jax.vmap(query_of)(user, history)
        items, weights, allow = tree["items"], tree["weights"], tree["allowed"]
        return _top_k(normalize(query), items, weights=weights, allow=allow, exclude=exclude, k=k)

    def shapes() -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in names]

    batch, seen = jax.export.symbolic_shape("batch, seen")
    user, history, exclude = (
        jax.ShapeDtypeStruct(shape, jnp.int32)
        for shape in ((batch,), (batch, model.config.data.max_history), (batch, seen))
    )
    is_read = _read_arguments(jax.make_jaxpr(retrieve)(shapes(), user, history, exclude).jaxpr)
    names = [name for name, read in zip(names, is_read, strict=False) if read]
    exported = jax.export.export(jax.jit(retrieve), platforms=PLATFORMS)(shapes(), user, history, exclude)
    return bytes(exported.serialize()), {name: arrays[name] for name in names}


def _read_arguments(jaxpr: Any) -> list[bool]:
    """Returns which arguments of a program its results depend on."""
    needed = {id(each) for each in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(each) in needed for each in equation.outvars):
            needed.update(id(each) for each in equation.invars)
    return [id(each) in needed for each in jaxpr.invars]


def _top_k(
    queries: Float[Array, "batch emb"],
    items: Float[Array, "items emb"],
    *,
    weights: Float[Array, " items"],
    allow: Bool[Array, " items"],
    exclude: Int[Array, "batch seen"],
    k: int,
) -> tuple[Int[Array, "batch k"], Float[Array, "batch k"]]:
    """Returns item rows and scores, best first, -1 and -inf where none is left.

    Differs: `retrieval/` selects as suits the machine that it runs on; this is the same result in plain operations.
    """
    scores = similarities(queries, items) * weights[None]
    allowed = allowed_items(exclude, num_rows=len(items), num_items=len(items), allow=allow[None])
    best, ids = jax.lax.top_k(jnp.where(allowed, scores, -jnp.inf), min(k, len(items)))
    return jnp.where(best > -jnp.inf, ids, PADDING), best


def _zip_flatbuffers(path: pathlib.Path) -> None:
    # Imported here only: nothing else needs it.
    import flatbuffers

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(pathlib.Path(flatbuffers.__file__).parent.glob("*.py")):
            archive.write(file, f"flatbuffers/{file.name}")
