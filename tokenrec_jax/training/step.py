"""What happens in one training step, for every stage. Read `stage_loss`, then `make_train_step`."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import jraph
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from tokenrec_jax.config import Config, LightGCNConfig
from tokenrec_jax.config_checks import parts_of
from tokenrec_jax.data.graph import graph_shardings
from tokenrec_jax.models.prompting import choose_templates
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.numerics import normalize
from tokenrec_jax.partitioned import take_rows
from tokenrec_jax.sharding import BATCH_AXES, batch_sharding, on_mesh, replicated, state_shardings
from tokenrec_jax.training import losses
from tokenrec_jax.training.accumulation import accumulate
from tokenrec_jax.training.optimizer import make_optimizer
from tokenrec_jax.training.state import ModelDefinition, TrainState, split, trained
from tokenrec_jax.types import ConfigError, HistoryBatch, PairBatch, RowBatch, Stage, TrainBatch

TrainStep = Callable[[TrainState, TrainBatch, jraph.GraphsTuple], tuple[TrainState, dict[str, jax.Array]]]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StageLoss:
    """Loss of a batch, its terms by name, and what the tokenizers' revival wants to see."""

    total: Float[Array, ""]
    terms: dict[str, jax.Array]
    user_codes: Any = None
    item_codes: Any = None


def stage_loss(
    model: TokenRec,
    batch: TrainBatch,
    graph: jraph.GraphsTuple,
    *,
    config: Config,
    stage: Stage,
    key: jax.Array,
    retrieval_weight: float | Float[Array, ""] = 1.0,
) -> StageLoss:
    """Returns the loss of a stage: the sum of the terms whose part of the batch is there.

    The stages COLLABORATIVE, TOKENIZER and LLM have one term each and read the frozen vectors of the stage before.
    JOINT has all three, weighted, and reads vectors that are propagated from the moving tables in the same step.
    `retrieval_weight` is that of a part of a batch, see `accumulation.py`.
    """
    joint = stage is Stage.JOINT
    weights = config.loss
    tokenizer_key, retrieval_key = jax.random.split(key)
    terms: dict[str, jax.Array] = {}
    total = jnp.zeros(())
    user_output = item_output = None
    user_vectors, item_vectors = model.tables.user_vectors[...], model.tables.item_vectors[...]
    if batch.pairs is not None:
        vectors = model.collaborative(graph)
        found = collaborative_terms(model, batch.pairs, vectors.users, vectors.items, config=config.lightgcn)
        terms |= found
        total += (weights.collaborative_weight if joint else 1.0) * sum(found.values())
        if joint:
            user_vectors, item_vectors = vectors.users, vectors.items
    if batch.rows is not None:
        if config.llm.user_tokens == "folded":
            user_vectors = model.user_rows_to_tokenize(item_vectors, graph)
        user_output, item_output, found = tokenizer_terms(
            model, batch.rows, user_vectors, item_vectors, key=tokenizer_key
        )
        terms |= found
        total += (weights.tokenizer_weight if joint else 1.0) * (user_output.total + item_output.total)
    if batch.histories is not None:
        retrieval = retrieval_loss(model, batch.histories, item_vectors, config=config, key=retrieval_key)
        found = {"retrieval": retrieval * retrieval_weight}
        if hasattr(model, "features") and weights.content_weight:
            found["content"] = weights.content_weight * content_loss(model, item_vectors) * retrieval_weight
        terms |= found
        total += (weights.retrieval_weight if joint else 1.0) * sum(found.values())
    return StageLoss(total=total, terms=terms, user_codes=user_output, item_codes=item_output)


def collaborative_terms(
    model: TokenRec, batch: PairBatch, users: Array, items: Array, *, config: LightGCNConfig
) -> dict[str, jax.Array]:
    """Returns the loss on propagated vectors and the penalty on the layer-0 rows that made them.

    Source: LightGCN (He et al., 2020), eq. 15 for "bpr"; the penalty is a mean over the batch, as in its code.
    """
    softmax = config.loss == "softmax"
    with jax.named_scope("collaborative"):
        user = take_rows(users, batch.user)
        if softmax:
            loss = losses.softmax_interactions(
                user,
                items,
                target=batch.positive,
                num_items=model.shape.num_items,
                temperature=config.temperature,
            )
        else:
            loss = losses.bayesian_personalized_ranking(
                user, take_rows(items, batch.positive), take_rows(items, batch.negative)
            )
        own_users, own_items = (
            model.collaborative.user_embedding[...],
            model.collaborative.item_embedding[...],
        )
        rows = (
            take_rows(own_users, batch.user),
            take_rows(own_items, batch.positive),
            *([] if softmax else [take_rows(own_items, batch.negative)]),
        )
        square = jnp.sum(jnp.square(jnp.stack(rows)))
        return {config.loss: loss, "l2": config.l2 * 0.5 * square / batch.user.shape[0]}


def tokenizer_terms(model: TokenRec, batch: RowBatch, user_vectors: Array, item_vectors: Array, *, key: jax.Array):
    """Returns the outputs of both tokenizers and their loss terms by name.

    The vectors get no gradient: else the graph encoder would shrink toward what is easy to quantize.
    """
    with jax.named_scope("tokenizer"):
        user_key, item_key = jax.random.split(key)
        user = model.user_tokenizer.loss(take_rows(jax.lax.stop_gradient(user_vectors), batch.user), key=user_key)
        item = model.item_tokenizer.loss(take_rows(jax.lax.stop_gradient(item_vectors), batch.item), key=item_key)
        terms = {
            f"{side}_{name}": getattr(output, name)
            for side, output in (("user", user), ("item", item))
            for name in ("reconstruction", "codebook", "commitment")
        }
        return user, item, terms


def retrieval_loss(
    model: TokenRec, batch: HistoryBatch, item_vectors: Array, *, config: Config, key: jax.Array
) -> Float[Array, ""]:
    """Returns the retrieval loss of a batch of histories, each with a random training template."""
    template_key, model_key = jax.random.split(key)
    # The last template is the unseen one.
    templates = model.tables.text.shape[0] - 1
    rows = 1 if model.shares_instruction else batch.user.shape[0]
    template = choose_templates(template_key, batch=rows, num_templates=templates)
    items = model.item_space(item_vectors)
    queries = model.queries(
        user=batch.user,
        history=batch.history,
        template=template,
        item_vectors=item_vectors,
        item_space=items,
        key=model_key,
    )
    if config.loss.kind == "softmax":
        return losses.softmax_retrieval(
            queries,
            items,
            target=batch.target,
            num_items=model.shape.num_items,
            label_smoothing=config.loss.label_smoothing,
        )
    return losses.pairwise_retrieval(
        queries, items, target=batch.target, negative=batch.negative, margin=config.loss.margin
    )


def content_loss(model: TokenRec, item_vectors: Array) -> Float[Array, ""]:
    """Returns how far content alone is from the places of the items, which it does not move: the mean of 1 - cosine."""
    with jax.named_scope("content"):
        places = jax.lax.stop_gradient(model.item_space(item_vectors))
        cosine = jnp.sum(normalize(model.content_vectors()) * places, axis=-1)
        real = jnp.arange(cosine.shape[0]) < model.shape.num_items
        return 1 - jnp.sum(jnp.where(real, cosine, 0.0)) / model.shape.num_items


def check_batches(config: Config, stage: Stage, mesh: Mesh) -> None:
    """Raises ConfigError if the devices cannot share what a stage computes at once."""
    devices, parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES), _parts(config, stage)
    for part in parts_of(stage):
        examples = config.stage(part).batch_size
        if examples // parts % devices:
            raise ConfigError(
                f"train.{part}.batch_size is {examples}, in {parts} parts (train.{stage}.accumulate); allowed are "
                f"parts that mesh.data x mesh.fsdp = {devices} divides"
            )


def _parts(config: Config, stage: Stage) -> int:
    return config.stage(stage).accumulate if stage in (Stage.LLM, Stage.JOINT) else 1


def make_train_step(
    definition: ModelDefinition, *, config: Config, stage: Stage, state: TrainState, mesh: Mesh
) -> TrainStep:
    """Returns the jitted step of a stage; it donates its state and compiles once for each batch shape.

    Args:
      definition: static half of the model.
      config: losses and optimizer.
      stage: which terms and which parameters.
      state: a state of this stage, for its shapes only.
      mesh: devices.

    Raises:
      ConfigError: see `check_batches`.
    """
    check_batches(config, stage, mesh)
    optimizer = make_optimizer(config.stage(stage))
    parts = _parts(config, stage)

    def differentiate(state, graph, moving, buffers, batch, key, weight=1.0):
        """Returns ((total, (loss, buffers after it)), gradients of the moving parameters) of a batch."""

        def loss_of(moving):
            model = definition.merge({**state.params, **moving}, buffers)
            with on_mesh(mesh):
                loss = stage_loss(model, batch, graph, config=config, stage=stage, key=key, retrieval_weight=weight)
            return loss.total, (loss, split(model)[1])

        return jax.value_and_grad(loss_of, has_aux=True)(moving)

    def step(state: TrainState, batch: TrainBatch, graph: jraph.GraphsTuple) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        loss_key, user_key, item_key = jax.random.split(key, 3)
        moving = trained(state.params, stage, tuning=config.llm.tuning)
        of_part = functools.partial(differentiate, state, graph, moving)
        if parts == 1:
            (total, (loss, buffers)), gradients = of_part(state.buffers, batch, loss_key)
        else:
            total, loss, buffers, gradients = accumulate(
                of_part, state.buffers, batch, parts=parts, key=loss_key, like=moving
            )
        with jax.named_scope("optimizer"):
            updates, moments = optimizer.update(gradients, state.optimizer, moving)
            moved: Any = optax.apply_updates(moving, updates)
            params = {**state.params, **moved}
        if loss.user_codes is not None:
            with jax.named_scope("revive_codes"):
                model = definition.merge(params, buffers)
                model.user_tokenizer.revive(loss.user_codes, key=user_key)
                model.item_tokenizer.revive(loss.item_codes, key=item_key)
                params, buffers = split(model)
        metrics = {"loss": total, **loss.terms, "gradient_norm": optax.global_norm(gradients)}
        new = TrainState(step=state.step + 1, params=params, buffers=buffers, optimizer=moments, key=state.key)
        return new, metrics

    shardings = state_shardings(jax.eval_shape(lambda tree: tree, state), mesh)
    return jax.jit(
        step,
        donate_argnums=(0,),
        in_shardings=(shardings, batch_sharding(mesh), graph_shardings(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
