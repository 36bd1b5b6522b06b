"""The two recipes that the configs of the paper's four data sets choose from. Read `get_config`.

Both have the paper's sizes, 3 propagation layers, 3 books, mask ratio 0.2, but for the 64 dimensions, of which ours has
two or four times as many. They differ in what the language model learns from:

  ours    softmax over the whole catalogue, for the graph encoder too; every item of a history a target; the query
          starts from the fold-in of the history, newer items first; items may move; the graph's vectors are read beside
          the codes; no user tokens; when test is ranked, everybody's validation item has gone through the graph
  paper   one target a prompt, cosine ranking against one sampled negative, frozen items, learned user tokens

Source of the sizes: TokenRec §V and its reference code.
"""

import dataclasses

from tokenrec_jax import config as c

#: Prefix of the argument that asks for the paper's recipe.
PAPER = "paper-"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What our recipe chooses for each data set, on its validation split.

    Attributes:
      steps, batch_size, learning_rate: of stage LLM, for models from random weights.
      dropout: of the language model.
      temperature: of the softmax of a query without fold-in.
      eval_every: steps between evaluations.
      embedding_dim: of the vectors of users and items.
      graph_temperature: of the graph encoder's softmax.
      graph_steps: of stage COLLABORATIVE, 2,048 interactions each.
      item_dropout: share of the history that is hidden in training.
      fold_in_recency: an item of the history weighs 1 / age to the power of it, at first.
      sent_residual: what an item adds to the fold-in is learned too, for data with an order to learn.
      item_vector_length: of the graph's vector of an item beside what is learned of its place.
      bucket_batches: a batch holds histories of one padded length.
      small_start: of models from random weights: layers start small, items are read at unit variance, the query head is
        linear, and dropout is drawn for each position.
      fold_in_dropout: of what the items add to the fold-in.
      fold_in_vectors: what is folded in.
      projection: how the language model's output and the fold-in make a query.
      compact: preset that the argument `compact` stands for.
      features: categorical values of the items are read where the data set has them.
    """

    steps: int
    batch_size: int
    learning_rate: float
    dropout: float
    temperature: float
    eval_every: int
    graph_temperature: float
    graph_steps: int
    embedding_dim: int = 128
    item_dropout: float = 0.0
    fold_in_recency: float = 1.0
    sent_residual: bool = False
    item_vector_length: float = 1.0
    bucket_batches: bool = True
    small_start: bool = False
    fold_in_dropout: float = 0.0
    fold_in_vectors: str = "graph"
    projection: str = "free"
    compact: str = "compact"
    features: bool = True


def get_config(argument: str, *, name: str, book_size: int, max_history: int, tuning: Tuning) -> c.Config:
    """Returns the config of a data set in the reference layout.

    Args:
      argument: size of the language model: `compact` (a small T5 from random weights), another preset as
        `scratch:t5-small`, a hub id such as `t5-small`, or a folder; `paper-` before it asks for the paper's recipe.
      name: folder of the data set below $TOKENREC_DATA.
      book_size: codes in a book (256 for LastFM and ML1M, 512 for Beauty and Clothing).
      max_history: newest items of a history that are read.
      tuning: choices of our recipe.
    """
    model = argument.removeprefix(PAPER)
    from_scratch = model == "compact" or model.startswith("scratch:")
    config = c.Config()
    config.data = c.DataConfig(source="tokenrec", name=name, max_history=max_history)
    config.tokenizer = c.TokenizerConfig(book_size=book_size)
    config.llm = c.LLMConfig(name=f"scratch:{tuning.compact}" if model == "compact" else model)
    config.train = c.TrainConfig(
        collaborative=c.StageConfig(steps=2000, batch_size=8192, learning_rate=5e-3),
        tokenizer=c.StageConfig(steps=1000, batch_size=512, learning_rate=3e-3, weight_decay=0.01),
        llm=c.StageConfig(
            steps=tuning.steps,
            batch_size=tuning.batch_size,
            # The paper fine-tunes pretrained weights at 5e-5; random ones need more.
            learning_rate=tuning.learning_rate if from_scratch else 5e-5,
            weight_decay=0.01,
            eval_every=tuning.eval_every,
        ),
        checkpoint_every=200,
        patience=5,
    )
    if argument.startswith(PAPER):
        _paper(config, from_scratch=from_scratch)
    else:
        _ours(config, tuning)
    return config


def _ours(config: c.Config, tuning: Tuning) -> None:
    config.data.history_buckets = _buckets(config.data.max_history)
    config.data.bucket_batches = tuning.bucket_batches
    config.llm.objective = "dense"
    config.llm.item_positions = "pooled"
    config.llm.user_tokens = "none"
    config.lightgcn.embedding_dim = tuning.embedding_dim
    config.lightgcn.loss = "softmax"
    config.lightgcn.temperature = tuning.graph_temperature
    config.train.collaborative = c.StageConfig(
        steps=tuning.graph_steps, batch_size=2048, learning_rate=5e-3, eval_every=tuning.graph_steps // 4
    )
    config.train.tokenizer.steps = 500
    config.llm.fold_in = True
    config.llm.fold_in_recency = tuning.fold_in_recency
    config.llm.fold_in_residual = tuning.sent_residual
    config.llm.fold_in_dropout = tuning.fold_in_dropout
    config.llm.fold_in_vectors = tuning.fold_in_vectors
    config.llm.projection = tuning.projection
    config.llm.item_dropout = tuning.item_dropout
    config.llm.item_features = tuning.features
    config.llm.item_residual = True
    config.llm.item_vector_length = tuning.item_vector_length
    config.llm.item_vectors_at_input = True
    config.llm.dropout = tuning.dropout
    if tuning.small_start and config.llm.name.startswith("scratch:"):
        config.llm.small_start = config.llm.dropout_each_position = True
        config.llm.projection_dim = 0
    config.loss = c.LossConfig(kind="softmax", temperature=tuning.temperature)
    config.evaluation.graph = "known"


def _paper(config: c.Config, *, from_scratch: bool) -> None:
    config.data.history_buckets = _buckets(config.data.max_history)
    config.llm.objective = "prompt"
    config.llm.user_tokens = "learned"
    config.loss = c.LossConfig(kind="pairwise", margin=0.1, num_negatives=1)
    config.train.llm = c.StageConfig(
        steps=20_000,
        batch_size=128,
        learning_rate=1e-3 if from_scratch else 5e-5,
        weight_decay=0.01,
        eval_every=1000,
    )
    config.train.checkpoint_every = 1000


def _buckets(max_history: int) -> tuple[int, ...]:
    """Returns lengths that double up to the longest."""
    lengths = [max_history]
    while lengths[0] > 12:
        lengths.insert(0, -(-lengths[0] // 2))
    return tuple(lengths)
