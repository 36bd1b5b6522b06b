"""The devices' half of a grown state: padded tables of vectors and codes, and how they follow the catalogue.

Read `Grower.grow`. The arithmetic is in `propagation.py`; ids and histories are in `catalogue.py`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.config import Config
from tokenrec_jax.data.graph import ROW_MULTIPLE, arrange_graph, graph_shardings
from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.padding import resize_tables, without_rows
from tokenrec_jax.growth.propagation import Propagated, Start, fit_start, moved, propagate_grown, session_vectors
from tokenrec_jax.models.tokenizer import tokenizer_type
from tokenrec_jax.numerics import normalize, round_up
from tokenrec_jax.partitioned import ROWS
from tokenrec_jax.sharding import ROW_AXES, fetch, on_mesh, put, replicated
from tokenrec_jax.training.build import BuiltModel
from tokenrec_jax.training.item_text import TextMap
from tokenrec_jax.training.known import counts_follow
from tokenrec_jax.training.query import make_unread_empty
from tokenrec_jax.training.state import Params
from tokenrec_jax.types import PADDING, ConfigError

#: Vectors move in steps of the root mean square of their table divided by this; see `propagation.moved`.
STEPS = 256

#: Rows that a tokenizer encodes at once.
ENCODED_ROWS = 128


class RunTables(NamedTuple):
    """What a run was trained to, padded like the tables that grow from it; pairs are users and items.

    Attributes:
      vectors: the run's own.
      before: what its graph encoder gives on its own graph: the same, unless a run moved its encoder after it froze
        the vectors.
      known: which rows the run was trained with.
      start: where new rows start.
      steps: grid of the moves, see `propagation.moved`.
    """

    vectors: tuple[Float[Array, "users emb"], Float[Array, "items emb"]]
    before: Propagated
    known: tuple[Bool[Array, " users"], Bool[Array, " items"]]
    start: Start
    steps: tuple[Float[Array, ""], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Tables:
    """What queries read, in step with one catalogue; immutable.

    Attributes:
      params, buffers: the model's, with padded tables.
      run: what they have grown from.
      propagated: the graph encoder's vectors of the grown graph.
      graph: the grown graph, on the devices.
      told: how many items the content in `buffers` is of, and what was said of them.
    """

    params: Params
    buffers: Params
    run: RunTables
    propagated: Propagated
    graph: jraph.GraphsTuple
    told: tuple[int, dict[str, list[Any]]]

    @property
    def rows(self) -> dict[str, int]:
        """Rows of the padded tables of each side."""
        return {side: len(self.buffers["tables"][f"{side}_vectors"]) for side in ("user", "item")}


class Grower:
    """The programs that grow tables; compiled by `start`, and again where additions exceed the headroom."""

    def __init__(self, built: BuiltModel, *, config: Config, mesh: Mesh, headroom: float):
        """Prepares the programs.

        Args:
          built: definition of the model, and how it reads what is known of items.
          config: of the run.
          mesh: devices.
          headroom: share of users, items and interactions to leave free.
        """
        self._definition, self._mesh, self._headroom = built.definition, mesh, headroom
        self._features, self._text = built.features, built.text
        # Vectors of texts that came with new items, each read once.
        self._read: dict[str, Float[np.ndarray, " text"]] = {}
        has_content = built.features is not None or built.text is not None
        definition = built.definition
        self._counts_follow = counts_follow(config)
        self._codes_follow = tokenizer_type(config.tokenizer).codes_follow
        self._shards = math.prod(mesh.shape[axis] for axis in ROW_AXES)
        self._read_of_items = make_unread_empty(config, mesh=mesh)
        # Other runs never read them while they recommend.
        self._sides = ("user", "item") if config.llm.user_tokens == "learned" else ("item",)
        rows, num_layers = NamedSharding(mesh, ROWS), config.lightgcn.num_layers

        def propagate(embedding, vectors, known, start, graph) -> Propagated:
            with on_mesh(mesh):
                return propagate_grown(embedding, vectors, known, start, graph, num_layers=num_layers)

        def fit(embedding, vectors, known, graph) -> Start:
            with on_mesh(mesh):
                return fit_start(embedding, vectors, known, graph)

        def move(params, buffers, run, after, untouched):
            with on_mesh(mesh):
                model = definition.merge(params, buffers)
                content = model.content_vectors() if has_content else None
                return _move(run, after, _vectors(buffers), untouched=untouched, content=content)

        def encode_sessions(params, buffers, history, sent, vectors, known, start):
            vectors = session_vectors(
                history,
                sent,
                vectors=vectors,
                known=known,
                start=start,
                inverse_sqrt_degree=buffers["tables"]["inverse_sqrt_degree"],
                num_layers=num_layers,
            )
            return definition.merge(params, buffers).user_tokenizer.encode(vectors)

        self._fit = jax.jit(fit, out_shardings=replicated(mesh))
        self._propagate = jax.jit(propagate, out_shardings=rows)
        self._move = jax.jit(move, out_shardings=rows)
        self._encode = jax.jit(self._encode_rows, static_argnames=("side",), out_shardings=rows)
        self._encode_sessions = jax.jit(encode_sessions, out_shardings=replicated(mesh))

    def start(self, catalogue: Catalogue, *, params: Params, buffers: Params) -> Tables:
        """Returns the padded tables of a run, its own vectors and codes in them, and compiles what `grow` will call.

        Args:
          catalogue: of the run, nothing added.
          params: of the trained model.
          buffers: its other arrays.
        """
        counts = {"user": catalogue.num_users, "item": catalogue.num_items}
        rows = {side: self._padded(count) for side, count in counts.items()}
        params, buffers = resize_tables((params, buffers), rows=rows, keep=counts, mesh=self._mesh)
        vectors = _vectors(buffers)
        known = tuple(np.arange(rows[side]) < counts[side] for side in ("user", "item"))
        steps = tuple(
            np.float32(max(float(np.sqrt(np.mean(np.square(fetch(each)[:count])))), 1e-12) / STEPS)
            for each, count in zip(vectors, counts.values(), strict=True)
        )
        known = put(known, NamedSharding(self._mesh, ROWS))
        graph = self._graph(catalogue, rows, length=0)
        start = self._fit(_embedding(params), vectors, known, graph)
        before = self._propagate(_embedding(params), vectors, known, start, graph)
        steps = put(steps, replicated(self._mesh))
        run = RunTables(vectors=vectors, before=before, known=known, start=start, steps=steps)
        told = catalogue.num_items, catalogue.said
        tables = Tables(params=params, buffers=buffers, run=run, propagated=before, graph=graph, told=told)
        self._follow(tables, catalogue, before)
        return dataclasses.replace(tables, buffers=self._with_codes_of_zero(params, buffers, first=counts))

    def warm_up(self) -> None:
        """Compiles how texts of new items are read, if the run reads any and its language model is there."""
        if self._text is not None:
            try:
                self._text.warm_up()
            except ConfigError as error:
                logging.warning("titles of new items cannot be read: %s", error)

    def grow(self, tables: Tables, catalogue: Catalogue) -> Tables:
        """Returns the tables of a catalogue that has more interactions than the one that `tables` are for.

        The result does not depend on `tables`, but for how much is computed: codes are those of the moved vectors, and
        only rows that moved since are encoded again.
        """
        tables = self._with_content(self._with_room(tables, catalogue), catalogue)
        length = len(jax.tree.leaves(tables.graph.edges)[0]) // self._shards**2
        graph = self._graph(catalogue, tables.rows, length=length)
        run = tables.run
        after = self._propagate(_embedding(tables.params), run.vectors, run.known, run.start, graph)
        vectors, changed = self._follow(tables, catalogue, after)
        weights = np.ones(tables.rows["item"], np.float32)
        degrees = np.bincount(catalogue.edge_items, minlength=catalogue.num_items)
        weights[: len(degrees)] = 1.0 / np.sqrt(np.maximum(degrees, 1))
        grown = {**tables.buffers["tables"], "user_vectors": vectors[0], "item_vectors": vectors[1]}
        if not self._counts_follow:
            first = catalogue.run.num_items
            weights[:first] = fetch(grown["inverse_sqrt_degree"])[:first]
        grown["inverse_sqrt_degree"] = put(weights, grown["inverse_sqrt_degree"].sharding)
        buffers = {**tables.buffers, "tables": grown}
        for side in self._sides:
            # Where codes do not follow, what the run knows keeps its own.
            first = 0 if self._codes_follow else getattr(catalogue.run, f"num_{side}s")
            moved_rows = first + np.flatnonzero(changed[side][first:])
            grown[f"{side}_codes"] = self._encoded(tables.params, buffers, moved_rows, side=side)
        return dataclasses.replace(tables, buffers=buffers, propagated=after, graph=graph)

    def forget(self, tables: Tables, items: Bool[np.ndarray, " rows"], *, untouched: bool) -> tuple[Params, Params]:
        """Returns parameters and buffers in which some items of the run stand where they would if they had been added.

        Args:
          tables: as `start` has made them.
          items: which.
          untouched: with nothing but their content, instead of with their interactions.
        """
        run, rows = tables.run, NamedSharding(self._mesh, ROWS)
        gone = put(items, rows)
        known = run.known[0], put(fetch(run.known[1]) & ~items, rows)
        after = self._propagate(_embedding(tables.params), run.vectors, known, run.start, tables.graph)
        run = run._replace(
            vectors=(run.vectors[0], without_rows(run.vectors[1], gone)),
            before=run.before._replace(items=without_rows(run.before.items, gone)),
        )
        nobody = put(items & untouched, rows)
        (_, vectors), _ = self._move(tables.params, tables.buffers, run, after, nobody)
        head = dict(tables.params["head"])
        if "item_residual" in head:
            head["item_residual"] = without_rows(head["item_residual"], gone)
        arrays = {**tables.buffers["tables"], "item_vectors": vectors}
        return {**tables.params, "head": head}, {**tables.buffers, "tables": arrays}

    def encode_sessions(
        self, tables: Tables, history: Int[np.ndarray, "batch history"]
    ) -> Int[np.ndarray, "batch book"]:
        """Returns the user codes of histories of nobody whom the graph knows; see `propagation.session_vectors`."""
        placed, run = put(history, replicated(self._mesh)), tables.run
        # Nothing that grows with users, so that more of them are no other program.
        read = self._read_of_items(tables.params, tables.buffers)
        items = tables.propagated.sent, run.vectors[1], run.known[1], run.start
        return fetch(self._encode_sessions(*read, placed, *items))

    def _with_room(self, tables: Tables, catalogue: Catalogue) -> Tables:
        """Returns tables that hold the catalogue: the same, or larger ones."""
        counts = {"user": catalogue.num_users, "item": catalogue.num_items}
        rows = {
            # At least one row of padding stays.
            side: have if counts[side] < have else self._padded(counts[side])
            for side, have in tables.rows.items()
        }
        if rows == tables.rows:
            return tables
        logging.info("tables grow from %s to %s rows: programs are compiled again", tables.rows, rows)
        params, buffers = resize_tables((tables.params, tables.buffers), rows=rows, keep=tables.rows, mesh=self._mesh)
        buffers = self._with_codes_of_zero(params, buffers, first=tables.rows)
        sharding = NamedSharding(self._mesh, ROWS)

        def pad(array: jax.Array, side: str) -> Any:
            host = fetch(array)
            return put(np.pad(host, ((0, rows[side] - len(host)), *((0, 0),) * (host.ndim - 1))), sharding)

        def pad_pair(pair: Any) -> Any:
            return pad(pair[0], "user"), pad(pair[1], "item")

        before = Propagated(*pad_pair(tables.run.before[:2]), sent=pad(tables.run.before.sent, "item"))
        run = tables.run._replace(vectors=pad_pair(tables.run.vectors), before=before, known=pad_pair(tables.run.known))
        return dataclasses.replace(tables, params=params, buffers=buffers, run=run)

    def _padded(self, count: int) -> int:
        """Returns the table rows for a count, with headroom."""
        return round_up(int(count * (1 + self._headroom)) + 1, multiple=math.lcm(ROW_MULTIPLE, self._shards))

    def _graph(self, catalogue: Catalogue, rows: dict[str, int], *, length: int) -> jraph.GraphsTuple:
        graph = arrange_graph(
            catalogue.edge_users,
            catalogue.edge_items,
            user_rows=rows["user"],
            item_rows=rows["item"],
            shards=self._shards,
            length=length,
            headroom=self._headroom,
        )
        return jax.tree.map(put, graph, graph_shardings(self._mesh))

    def _with_content(self, tables: Tables, catalogue: Catalogue) -> Tables:
        """Returns the tables with the content of items that the run does not know."""
        first, told = catalogue.run.num_items, (catalogue.num_items, catalogue.said)
        # Lists that are the same and as long say the same.
        if tables.told[0] == told[0] and all(told[1][name] is before for name, before in tables.told[1].items()):
            return tables
        if first == told[0]:
            return dataclasses.replace(tables, told=told)
        new = {}
        if self._features is not None:
            new["item_features"] = self._features.encode(tuple(catalogue.attributes[first : catalogue.num_items]))
        if self._text is not None:
            new["item_text"] = self._text_vectors(self._text, catalogue.in_words(first))
        grown = dict(tables.buffers["tables"])
        for name, rows in new.items():
            table = fetch(grown[name]).copy()
            table[first : first + len(rows)] = rows
            grown[name] = put(table, grown[name].sharding)
        return dataclasses.replace(tables, buffers={**tables.buffers, "tables": grown}, told=told)

    def warn_of_silent(self, catalogue: Catalogue, new: Sequence[str]) -> None:
        """Warns of those of the newest items of whose content the run understands nothing: they all score 0."""
        first, heard = catalogue.num_items - len(new), np.zeros(len(new), bool)
        if self._features is not None:
            values = tuple(catalogue.attributes[first : catalogue.num_items])
            heard |= (self._features.encode(values) != PADDING).any(axis=1)
        if self._text is not None:
            heard |= np.array([bool(text) for text in catalogue.in_words(first)], bool)
        if not heard.all():
            silent = np.flatnonzero(~heard)
            reads = [] if self._features is None else [f"values like {self._features.names[0]!r}"]
            reads += [] if self._text is None else ["text"]
            logging.warning(
                "%d of %d new items say nothing that the run understands, %r is the first; it reads %s",
                len(silent), len(new), new[silent[0]], " and ".join(reads),
            )  # fmt: skip

    def _text_vectors(self, text: TextMap, texts: list[str]) -> Float[np.ndarray, "texts text"]:
        """Returns the vectors of texts; the language model reads only those that never came before."""
        unread = [each for each in dict.fromkeys(texts) if each not in self._read]
        if unread:
            self._read.update(zip(unread, text.vectors(unread), strict=True))
        return np.stack([self._read[each] for each in texts])

    def _follow(
        self, tables: Tables, catalogue: Catalogue, after: Propagated
    ) -> tuple[list[jax.Array], dict[str, Bool[np.ndarray, " rows"]]]:
        """Returns the vectors of users and of items, and which rows of each side differ from those of `tables`."""
        untouched = np.zeros(tables.rows["item"], bool)
        untouched[catalogue.run.num_items : catalogue.num_items] = True
        untouched[catalogue.edge_items] = False
        placed = put(untouched, NamedSharding(self._mesh, ROWS))
        vectors, changed = self._move(tables.params, tables.buffers, tables.run, after, placed)
        return vectors, dict(zip(("user", "item"), fetch(changed), strict=True))

    def _encoded(
        self, params: Params, buffers: Params, rows: Int[np.ndarray, " changed"], *, side: str
    ) -> Int[Array, "rows book"]:
        """Returns the codes of a side, those of some rows made anew."""
        tables = buffers["tables"]
        vectors, codes = tables[f"{side}_vectors"], tables[f"{side}_codes"]
        for start in range(0, len(rows), ENCODED_ROWS):
            some = rows[start : start + ENCODED_ROWS].astype(np.int32)
            # Filled up with a row that is not there.
            some = np.pad(some, (0, ENCODED_ROWS - len(some)), constant_values=len(vectors))
            codes = self._encode(params, buffers, vectors, codes, put(some, replicated(self._mesh)), side=side)
        return codes

    def _with_codes_of_zero(self, params: Params, buffers: Params, *, first: dict[str, int]) -> Params:
        """Returns buffers whose rows from `first` on, of padding, have the codes of their vectors, which are zero.

        A new row whose vector stays zero is like them and is not encoded, as it has not moved.
        """
        tables = dict(buffers["tables"])
        for side in self._sides:
            start, codes = first[side], tables[f"{side}_codes"]
            if start < len(codes):
                filled = fetch(self._encoded(params, buffers, np.array([start]), side=side)).copy()
                filled[start:] = filled[start]
                tables[f"{side}_codes"] = put(filled, codes.sharding)
        return {**buffers, "tables": tables}

    def _encode_rows(self, params: Params, buffers: Params, vectors: Array, codes: Array, rows: Array, *, side: str):
        tokenizer = getattr(self._definition.merge(params, buffers), f"{side}_tokenizer")
        found = tokenizer.encode(vectors[jnp.minimum(rows, len(vectors) - 1)])
        return codes.at[rows].set(found.astype(codes.dtype), mode="drop")


def _move(
    run: RunTables, after: Propagated, previous: tuple, *, untouched: Array, content: Array | None
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns the vectors of users and of items, and which rows differ from the previous ones.

    Content stands for an item that nobody has touched, as long as the run's vectors are.
    """
    vectors = [
        moved(own, before=before, after=now, step=step)
        for own, before, now, step in zip(run.vectors, run.before[:2], after[:2], run.steps, strict=True)
    ]
    if content is not None:
        length = run.steps[1] * STEPS * content.shape[1] ** 0.5
        vectors[1] = jnp.where(untouched[:, None], length * normalize(content), vectors[1])
    return vectors, [jnp.any(new != old, axis=1) for new, old in zip(vectors, previous, strict=True)]


def _vectors(buffers: Params) -> tuple[jax.Array, jax.Array]:
    return buffers["tables"]["user_vectors"], buffers["tables"]["item_vectors"]


def _embedding(params: Params) -> tuple[jax.Array, jax.Array]:
    return params["collaborative"]["user_embedding"], params["collaborative"]["item_embedding"]
