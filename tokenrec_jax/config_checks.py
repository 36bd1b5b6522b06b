"""What a config must hold before any data is read. Read `validate`."""

import math

from tokenrec_jax.config import (
    DTYPES,
    FOLD_IN_VECTORS,
    GRAPH_LOSSES,
    GRAPHS,
    ITEM_POSITIONS,
    LOSSES,
    OBJECTIVES,
    PROJECTIONS,
    PROTOCOLS,
    REMATS,
    SOURCES,
    TOKENIZER_KINDS,
    TUNINGS,
    USER_TOKENS,
    Config,
)
from tokenrec_jax.types import ConfigError, Stage


def validate(config: Config) -> None:
    """Checks everything that can be known without the data.

    Raises:
      ConfigError: naming the field, the value and what is allowed.
    """

    def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")

    def at_least(name: str, value: int | float, least: int) -> None:
        if not value >= least:
            raise ConfigError(f"{name} is {value}; allowed is {least} or more")

    def share(name: str, value: float) -> None:
        if not 0 <= value < 1:
            raise ConfigError(f"{name} is {value}; allowed is 0 or more and below 1")

    def whole_numbers(name: str, values: tuple[object, ...]) -> None:
        if any(type(value) is not int for value in values):
            raise ConfigError(f"{name} is {values}; allowed are whole numbers")

    for stage in config.stages or ("",):
        one_of("stages", stage, tuple(Stage))
    order = [list(Stage).index(Stage(stage)) for stage in config.stages]
    if order != sorted(set(order)):
        raise ConfigError(f"stages is {config.stages}; allowed is each stage once, in the order {', '.join(Stage)}")
    one_of("data.source", config.data.source, SOURCES)
    one_of("tokenizer.kind", config.tokenizer.kind, TOKENIZER_KINDS)
    one_of("llm.objective", config.llm.objective, OBJECTIVES)
    one_of("llm.item_positions", config.llm.item_positions, ITEM_POSITIONS)
    one_of("llm.tuning", config.llm.tuning, TUNINGS)
    at_least("llm.lora_rank", config.llm.lora_rank, 1)
    one_of("llm.user_tokens", config.llm.user_tokens, USER_TOKENS)
    one_of("llm.dtype", config.llm.dtype, DTYPES)
    one_of("llm.remat", config.llm.remat, REMATS)
    one_of("llm.fold_in_vectors", config.llm.fold_in_vectors, FOLD_IN_VECTORS)
    one_of("llm.projection", config.llm.projection, PROJECTIONS)
    one_of("loss.kind", config.loss.kind, LOSSES)
    one_of("lightgcn.loss", config.lightgcn.loss, GRAPH_LOSSES)
    if not (config.llm.codes_at_input or config.llm.item_vectors_at_input):
        raise ConfigError(
            "llm.codes_at_input and llm.item_vectors_at_input are both off; allowed is one of them or both"
        )
    if not config.llm.codes_at_input and config.llm.item_positions != "pooled":
        raise ConfigError("llm.codes_at_input is off; allowed is that with llm.item_positions 'pooled' only")
    at_least("llm.min_feature_items", config.llm.min_feature_items, 1)
    if config.llm.objective == "dense" and config.llm.user_tokens == "folded":
        raise ConfigError(
            "llm.user_tokens is 'folded' with llm.objective 'dense': the user's tokens would know the later items; "
            "allowed: learned, none"
        )
    if config.llm.user_tokens == "folded" and config.tokenizer.kind == "random":
        raise ConfigError(
            "llm.user_tokens is 'folded' with tokenizer.kind 'random': each history would have other codes; allowed: "
            "learned, none"
        )
    at_least("data.max_history", config.data.max_history, 1)
    buckets = config.data.history_buckets
    whole_numbers("data.history_buckets", buckets)
    if buckets and (list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or buckets[-1] != config.data.max_history):
        raise ConfigError(
            f"data.history_buckets is {buckets}; allowed are ascending lengths that end with data.max_history = "
            f"{config.data.max_history}"
        )
    at_least("data.min_interactions", config.data.min_interactions, 0)
    at_least("lightgcn.num_layers", config.lightgcn.num_layers, 0)
    at_least("lightgcn.embedding_dim", config.lightgcn.embedding_dim, 1)
    at_least("lightgcn.l2", config.lightgcn.l2, 0)
    at_least("lightgcn.init_std", config.lightgcn.init_std, 0)
    at_least("tokenizer.num_books", config.tokenizer.num_books, 1)
    at_least("tokenizer.book_size", config.tokenizer.book_size, 2)
    whole_numbers("tokenizer.hidden_dims", config.tokenizer.hidden_dims)
    share("tokenizer.mask_ratio", config.tokenizer.mask_ratio)
    share("tokenizer.dropout", config.tokenizer.dropout)
    share("llm.user_token_dropout", config.llm.user_token_dropout)
    share("llm.item_dropout", config.llm.item_dropout)
    share("llm.fold_in_dropout", config.llm.fold_in_dropout)
    if config.llm.small_start and not config.llm.name.startswith("scratch:"):
        raise ConfigError(f"llm.small_start is on with llm.name {config.llm.name!r}; allowed with it: scratch:PRESET")
    at_least("llm.item_text_dim", config.llm.item_text_dim, 1)
    at_least("llm.projection_dim", config.llm.projection_dim, 0)
    at_least("loss.content_weight", config.loss.content_weight, 0)
    at_least("loss.margin", config.loss.margin, 0)
    share("loss.label_smoothing", config.loss.label_smoothing)
    if not config.llm.item_vector_length > 0:
        raise ConfigError(f"llm.item_vector_length is {config.llm.item_vector_length}; allowed is above 0")
    at_least("llm.fold_in_recency", config.llm.fold_in_recency, 0)
    if config.llm.dropout >= 0:
        share("llm.dropout", config.llm.dropout)
    for name, temperature in (("loss", config.loss.temperature), ("lightgcn", config.lightgcn.temperature)):
        if temperature <= 0:
            raise ConfigError(f"{name}.temperature is {temperature}; allowed is above 0")
    at_least("loss.num_negatives", config.loss.num_negatives, 1)
    for name in Stage:
        stage_config = config.stage(name)
        at_least(f"train.{name}.steps", stage_config.steps, 1)
        if not 0 <= stage_config.stop_at <= stage_config.steps:
            raise ConfigError(
                f"train.{name}.stop_at is {stage_config.stop_at}; allowed is 0 to train.{name}.steps = "
                f"{stage_config.steps}"
            )
        at_least(f"train.{name}.batch_size", stage_config.batch_size, 1)
        at_least(f"train.{name}.accumulate", stage_config.accumulate, 1)
        for other in parts_of(name):
            if config.stage(other).batch_size % stage_config.accumulate:
                raise ConfigError(
                    f"train.{name}.accumulate is {stage_config.accumulate}; allowed are divisors of "
                    f"train.{other}.batch_size = {config.stage(other).batch_size}"
                )
        if not 0 < stage_config.learning_rate < math.inf:
            raise ConfigError(f"train.{name}.learning_rate is {stage_config.learning_rate}; allowed is above 0")
        if not 0 <= stage_config.warmup <= 1:
            raise ConfigError(f"train.{name}.warmup is {stage_config.warmup}; allowed is 0 to 1")
        at_least(f"train.{name}.weight_decay", stage_config.weight_decay, 0)
        at_least(f"train.{name}.clip_norm", stage_config.clip_norm, 0)
    first, _, last = config.train.profile.partition(":")
    if config.train.profile and not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ConfigError(f"train.profile is {config.train.profile!r}; allowed: first:last, such as 10:15")
    at_least("train.log_every", config.train.log_every, 1)
    at_least("train.patience", config.train.patience, 0)
    at_least("seed", config.seed, 0)
    for axis in ("data", "fsdp", "tensor"):
        at_least(f"mesh.{axis}", getattr(config.mesh, axis), 0 if axis == "data" else 1)
    one_of("evaluation.protocol", config.evaluation.protocol, PROTOCOLS)
    one_of("evaluation.graph", config.evaluation.graph, GRAPHS)
    if config.evaluation.held_out not in (0, 1, 2):
        raise ConfigError(f"evaluation.held_out is {config.evaluation.held_out}; allowed: 2, 1, 0")
    if config.evaluation.held_out < 2 and config.evaluation.baselines:
        raise ConfigError(
            f"evaluation.baselines is on with evaluation.held_out {config.evaluation.held_out}; allowed with it: off, "
            "as their settings are chosen on the validation items"
        )
    at_least("evaluation.batch_size", config.evaluation.batch_size, 1)
    whole_numbers("evaluation.cutoffs", config.evaluation.cutoffs)
    at_least("the least of evaluation.cutoffs", min(config.evaluation.cutoffs, default=1), 1)
    if 10 not in config.evaluation.cutoffs:
        raise ConfigError(f"evaluation.cutoffs is {config.evaluation.cutoffs}; allowed are sets that hold 10")


def parts_of(stage: Stage) -> tuple[Stage, ...]:
    """Returns the stages whose batches are in a batch of `stage`; JOINT's has one for the graph and one for codes."""
    return (Stage.COLLABORATIVE, Stage.TOKENIZER, Stage.JOINT) if stage is Stage.JOINT else (stage,)
