"""Users a second from history to ranked items: ours against `transformers`' PyTorch T5 and against beam search.

The peers have the very weights of our model, through `llm.save_hf`; that both give the same queries is checked before
anything is timed. All weights are random: time does not depend on them.

What the peers read are prompts of the reference code's lengths: the newest 51 items of 5 tokens each (two of them the
text "item_") and the user likewise, 275 tokens for the longest (its own longest has 273) and 512 where they are padded
as the reference pads them. The rows:

  torch_512      one hidden state a prompt, a projection, a product with all items, the best k; padded to 512 (the
                 reference: one fixed length)
  torch_longest  the same, padded to the longest prompt of all users
  torch_ours     the same on our prompts, which have 3 tokens an item: what is left is the runtime, the lengths that
                 batches are padded to, and the decoder's work
  beam_longest   instead of a hidden state an item's codes are generated: beams of 10 that keep keys and values, each
                 step allowed its own codebook only; turning codes into items is left out
  ours_prompt    the paper's objective: prompts of our own, everything of `bulk/ranking.py`
  ours_dense     our recipe: one position an item, the instruction read once

Needs PyTorch (extra `parity`).
"""

import copy
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from tokenrec_jax.bulk.ranking import BulkRanker
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.export import language_model
from tokenrec_jax.models import llm
from tokenrec_jax.models.prompting import assemble_prompt, code_tokens, prompt_length
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.sharding import fetch, make_mesh
from tokenrec_jax.training.build import BuiltModel, build_model, first_state
from tokenrec_jax.training.stages import begin_stage
from tokenrec_jax.types import PADDING, ConfigError, EvaluationBatch, Stage

#: In every round each peer ranks so many users, and we our share of all users; figures are medians of the rounds.
ROUNDS, PEER_USERS = 8, 16
#: Recommended items, and beams.
K, BEAMS = 20, 10
#: The reference: items of a prompt, tokens an id beside its codes, the length that all prompts are padded to.
REFERENCE_ITEMS, REFERENCE_TEXT, REFERENCE_LENGTH = 51, 2, 512
#: Largest difference allowed between the unit queries of both sides.
TOLERANCE = 1e-3
#: Our own batches; the default of an evaluation is for accelerators.
BATCH_SIZE = 32


def measure(config: Config) -> dict[str, Any]:
    """Returns users a second of each row, and ratios.

    Raises:
      ConfigError: the config asks for another objective or language model than the paper, or PyTorch is missing.
    """
    if config.llm.objective != "prompt" or config.llm.fold_in or config.llm.item_positions != "codes":
        raise ConfigError("--config: this suite compares the paper's own recipe; give a paper-scratch: config")
    interactions = load_interactions(config.data)
    ours = {"ours_prompt": _Ours(config, interactions), "ours_dense": _Ours(_dense(config), interactions)}
    peers = _Peers(ours["ours_prompt"], interactions)
    agreement = peers.agreement()
    logging.info("queries of both sides differ by %.1e at most", agreement["largest_difference"])
    if agreement["largest_difference"] > TOLERANCE:
        raise RuntimeError(f"queries differ by {agreement['largest_difference']}; nothing was timed")
    rows = {**{name: one.rank for name, one in ours.items()}, **peers.rows()}
    order = np.random.default_rng(config.seed).permutation(interactions.num_users)
    shares = np.array_split(order, ROUNDS)
    rates: dict[str, list[float]] = {name: [] for name in rows}
    busy: dict[str, list[float]] = {name: [] for name in rows}
    for one in ours.values():
        one.ranker.warm_up(k=K)
    for name in peers.rows():
        rows[name](order[:2])
    for number, share in enumerate(shares):
        for name, rank in rows.items():
            users = share if name in ours else share[:PEER_USERS]
            started, started_busy = time.perf_counter(), time.process_time()
            rank(users)
            rates[name].append(len(users) / (time.perf_counter() - started))
            busy[name].append(len(users) / (time.process_time() - started_busy))
        logging.info("round %d of %d: %s", number + 1, ROUNDS, {name: round(x[-1], 2) for name, x in rates.items()})
    return {
        "data": interactions.name,
        "users": interactions.num_users,
        "language_model": config.llm.name,
        "prompt_tokens": peers.lengths(),
        "agreement": agreement,
        "users_per_second": _figures(rates, list(ours)),
        # All threads; tells less on a quiet machine, more on one with other work.
        "users_per_cpu_second": _figures(busy, list(ours)),
    }


def _figures(rates: dict[str, list[float]], ours: list[str]) -> dict[str, Any]:
    """Returns medians, the figures of all rounds, and how many times as fast as each peer ours are."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {mine: {peer: medians[mine] / medians[peer] for peer in medians if peer not in ours} for mine in ours}
    return {"medians": medians, "ratios": ratios, "rounds": rates}


def _dense(config: Config) -> Config:
    """Returns our recipe around the same language model."""
    config = copy.deepcopy(config)
    config.llm.objective, config.llm.item_positions, config.llm.user_tokens = "dense", "pooled", "none"
    config.llm.fold_in = config.llm.item_residual = config.llm.item_vectors_at_input = True
    return config


class _Ours:
    """A model at the start of stage LLM: codes are there, weights are random."""

    def __init__(self, config: Config, interactions: Interactions):
        mesh = make_mesh(config.mesh)
        training = interactions.without_last(2)
        self.built: BuiltModel = build_model(config, training, mesh=mesh)
        state = first_state(self.built, seed=config.seed, mesh=mesh)
        options: Any = {"definition": self.built.definition, "config": config, "mesh": mesh}
        for stage in (Stage.TOKENIZER, Stage.LLM):
            state = begin_stage(state, self.built.graph, stage=stage, **options)
        self.retriever = Retriever(self.built, mesh=mesh)
        self.params, self.buffers = state.params, state.buffers
        self.index = self.retriever.index(state.params, state.buffers)
        self.ranker = BulkRanker(
            self.retriever, state.params, state.buffers, interactions,
            index=self.index, config=config, batch_size=BATCH_SIZE,
        )  # fmt: skip

    @property
    def model(self) -> TokenRec:
        """The module."""
        return self.built.definition.merge(self.params, self.buffers)

    def rank(self, users: np.ndarray) -> None:
        """Ranks users to the end."""
        for _ in self.ranker.rank(users, k=K):
            pass


class _Peers:
    """The same model in PyTorch, on prompts of the reference's lengths and on ours."""

    def __init__(self, ours: _Ours, interactions: Interactions):
        try:
            # By name, as type checkers need not have it.
            torch = importlib.import_module("torch")
            import transformers
        except ImportError:
            raise ConfigError("--suite=inference: PyTorch is missing; pip install -e '.[parity]'") from None
        self._torch, self._ours, self._interactions = torch, ours, interactions
        model, vocabulary = ours.model, ours.built.vocabulary
        with tempfile.TemporaryDirectory() as folder:
            llm.save_hf(language_model(model, vocabulary), folder)
            self._net = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
        self._head = {
            f"{layer}.{name}": torch.tensor(np.asarray(getattr(getattr(model.head, layer), name)[...]))
            for layer in ("hidden", "output")
            for name in ("kernel", "bias")
        }
        vectors = np.asarray(model.item_space(model.tables.item_vectors[...]))
        self._items = torch.tensor(vectors[: interactions.num_items])
        self._answer = torch.tensor(np.asarray(model.tables.answer[...]), dtype=torch.long)[None]
        longest = model.config.data.max_history
        self._prompts = {
            "reference": self._assemble(model, REFERENCE_ITEMS, text=REFERENCE_TEXT),
            "ours": self._assemble(model, longest, text=0),
        }

    def _assemble(self, model: TokenRec, longest: int, *, text: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens and mask of all users' prompts, with `text` more tokens before the codes of each id."""
        every = np.arange(self._interactions.num_users)
        history = _newest(self._interactions, every, longest)
        shape = model.shape

        def tokens(codes: jax.Array, first: int) -> jax.Array:
            of_codes = code_tokens(codes, first_token=first, book_size=model.config.tokenizer.book_size)
            words = jnp.full((*codes.shape[:-1], text), model.tables.text[0, 0, 0])
            return jnp.concatenate([words, of_codes], axis=-1)

        item_tokens = tokens(model.tables.item_codes[...][np.maximum(history, 0)], shape.first_item_token)
        user_tokens = tokens(model.tables.user_codes[...][every], shape.first_user_token)
        prompt = assemble_prompt(
            model.tables.templates,
            template=jnp.zeros(len(every), jnp.int32),
            user_tokens=user_tokens,
            use_user=jnp.ones(len(every), bool),
            history_tokens=item_tokens,
            history_length=jnp.asarray(np.sum(history != PADDING, axis=1), jnp.int32),
            length=prompt_length(
                num_text_tokens=shape.num_text_tokens,
                num_user_tokens=user_tokens.shape[1],
                num_history_tokens=item_tokens.shape[1] * item_tokens.shape[2],
            ),
            pad_token=shape.pad_token,
        )
        mask = np.asarray(prompt.mask)
        used = int(mask.sum(axis=1).max())
        return np.asarray(prompt.tokens)[:, :used], mask[:, :used]

    def lengths(self) -> dict[str, dict[str, float]]:
        """Returns the mean and the largest number of tokens of a prompt."""
        return {
            name: {"mean": float(mask.sum(axis=1).mean()), "longest": int(mask.sum(axis=1).max())}
            for name, (_, mask) in self._prompts.items()
        }

    def rows(self) -> dict[str, Callable[[np.ndarray], Any]]:
        """Returns what is timed, by name."""
        return {
            "torch_512": lambda users: self._top_k(users, "reference", REFERENCE_LENGTH),
            "torch_longest": lambda users: self._top_k(users, "reference", 0),
            "torch_ours": lambda users: self._top_k(users, "ours", 0),
            "beam_longest": lambda users: self._beams(users),
        }

    def agreement(self) -> dict[str, float]:
        """Returns how far the queries of both sides are apart on our prompts, and the share of equal items."""
        users = np.arange(min(PEER_USERS, self._interactions.num_users))
        theirs = np.asarray(self._queries(users, "ours", 0))
        ours = self._ours
        longest = ours.model.config.data.max_history
        batch = EvaluationBatch(
            user=users.astype(np.int32),
            history=_newest(self._interactions, users, longest),
            seen=np.full((len(users), 1), PADDING, np.int32),
            target=np.full(len(users), PADDING, np.int32),
        )
        queries = ours.retriever.query(ours.params, ours.buffers, ours.index, batch)
        found = fetch(ours.index.search(queries, k=K)).ids
        queries = np.asarray(queries)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        expected = np.argsort(-(theirs @ np.asarray(self._items).T), axis=1, kind="stable")[:, :K]
        return {
            "largest_difference": float(np.abs(queries - theirs).max()),
            "equal_items": float(np.mean(found == expected)),
        }

    def _inputs(self, users: np.ndarray, prompts: str, length: int) -> tuple[Any, Any]:
        tokens, mask = (array[users] for array in self._prompts[prompts])
        missing = ((0, 0), (0, max(length - tokens.shape[1], 0)))
        pad = self._ours.built.vocabulary.pad_token
        tokens, mask = np.pad(tokens, missing, constant_values=pad), np.pad(mask, missing)
        return self._torch.tensor(tokens, dtype=self._torch.long), self._torch.tensor(mask)

    def _queries(self, users: np.ndarray, prompts: str, length: int) -> Any:
        torch, head = self._torch, self._head
        tokens, mask = self._inputs(users, prompts, length)
        with torch.inference_mode():
            encoded = self._net.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
            hidden = self._net.decoder(
                input_ids=self._answer.expand(len(users), -1),
                encoder_hidden_states=encoded,
                encoder_attention_mask=mask,
                use_cache=False,
            ).last_hidden_state[:, -1]
            hidden = torch.nn.functional.gelu(hidden @ head["hidden.kernel"] + head["hidden.bias"], approximate="tanh")
            return torch.nn.functional.normalize(hidden @ head["output.kernel"] + head["output.bias"])

    def _top_k(self, users: np.ndarray, prompts: str, length: int) -> Any:
        scores = self._queries(users, prompts, length) @ self._items.T
        seen = _newest(self._interactions, users, int(np.diff(self._interactions.indptr).max()))
        row, column = np.nonzero(seen != PADDING)
        scores[self._torch.tensor(row), self._torch.tensor(seen[row, column], dtype=self._torch.long)] = -np.inf
        return self._torch.topk(scores, K)

    def _beams(self, users: np.ndarray) -> Any:
        import transformers

        vocabulary = self._ours.built.vocabulary

        def own_codebook(tokens: Any, scores: Any) -> Any:
            # The start token is there already.
            first = vocabulary.first_item_token + (tokens.shape[1] - 1) * vocabulary.book_size
            allowed = slice(first, first + vocabulary.book_size)
            masked = self._torch.full_like(scores, -np.inf)
            masked[:, allowed] = scores[:, allowed]
            return masked

        tokens, mask = self._inputs(users, "reference", 0)
        with self._torch.inference_mode():
            return self._net.generate(  # pyright: ignore[reportAttributeAccessIssue]
                input_ids=tokens,
                attention_mask=mask,
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                max_new_tokens=vocabulary.num_books,
                do_sample=False,
                use_cache=True,
                logits_processor=transformers.LogitsProcessorList([own_codebook]),  # pyright: ignore[reportArgumentType]
            )


def _newest(interactions: Interactions, users: np.ndarray, longest: int) -> np.ndarray:
    """Returns the newest items of each user, right-padded."""
    end = interactions.indptr[users + 1]
    start = np.maximum(interactions.indptr[users], end - longest)
    return interactions.padded(start, end, width=longest)
