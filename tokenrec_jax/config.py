"""Typed configuration of a run: data classes with a unit and a source above every field.

No logic beyond defaults and the JSON form; the checks are in `config_checks.py`. Read `Config` first. The mains
override single fields (`--config.llm.name=...`), which needs data classes that are not frozen; treat them as read-only
everywhere else. An empty string or 0 means "not set" where a comment says so.
"""

import dataclasses
import json
from typing import Any, get_origin

from tokenrec_jax.types import ConfigError, Stage

SOURCES = ("tokenrec", "interactions", "movielens-small", "movielens", "synthetic")
TOKENIZER_KINDS = ("masked_vq", "residual_vq", "kmeans", "random")
OBJECTIVES = ("prompt", "dense")
ITEM_POSITIONS = ("codes", "pooled")
TUNINGS = ("full", "frozen", "lora")
USER_TOKENS = ("learned", "folded", "none")
LOSSES = ("pairwise", "softmax")
FOLD_IN_VECTORS = ("graph", "space")
PROJECTIONS = ("free", "unit", "cosine")
GRAPH_LOSSES = ("bpr", "softmax")
PROTOCOLS = ("honest", "reference", "ties_shuffled")
GRAPHS = ("training", "known")
DTYPES = ("float32", "bfloat16")
REMATS = ("none", "dots", "layers")


@dataclasses.dataclass
class DataConfig:
    """Where interactions come from and how a history is cut."""

    # One of SOURCES.
    source: str = "synthetic"
    # File or folder of the sources `tokenrec` and `interactions`; variant name of `movielens` (for example "1m").
    # Empty for `tokenrec`: $TOKENREC_DATA/<name>.
    path: str = ""
    # Name of the data set in results and of its folder below $TOKENREC_DATA. Empty: derived from source and path.
    name: str = ""
    # Prepared ArrayRecord files go here. Empty: $TOKENREC_CACHE, else ~/.cache/tokenrec_jax.
    cache_dir: str = ""
    # Column names of an interactions file; timestamp, rating and title are optional: empty for none.
    user_column: str = "user"
    item_column: str = "item"
    timestamp_column: str = ""
    rating_column: str = ""
    title_column: str = ""
    # Columns of an interactions file with categorical values of the item (several as `A|B`) and with text about it.
    # Other sources bring what they have: genres, brand, categories.
    feature_columns: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    # Interactions rated below are dropped (stars); needs a rating. 0 keeps all.
    min_rating: float = 0.0
    # k of the k-core filter: users and items with fewer interactions go, repeatedly. At least 3 are needed a user.
    min_interactions: int = 0
    # Newest interactions of each user that are left out before all else, as if the data had ended earlier: a backtest,
    # whose targets are others. Users with fewer than 3 left go, items stay.
    drop_newest: int = 0
    # Seed of the `synthetic` source, apart from the run's, so that seeds share one data set.
    synthetic_seed: int = 0
    # Size of the `synthetic` source.
    synthetic_users: int = 200
    synthetic_items: int = 120
    # Newest items of a history that the language model reads.
    max_history: int = 20
    # Histories are padded to the smallest of these lengths that holds them; one compilation each. The last one must
    # be max_history. Empty: max_history alone.
    history_buckets: tuple[int, ...] = ()
    # A batch of training holds histories of one bucket. Off: of all lengths, padded to max_history; more arithmetic,
    # but each batch is a sample of all targets, where those of one bucket are, say, the first items of long histories.
    bucket_batches: bool = True


@dataclasses.dataclass
class LightGCNConfig:
    """Graph encoder and its pairwise loss. Source: LightGCN (He et al., 2020); TokenRec §IV-A."""

    # Size of user and item vectors (TokenRec: 64).
    embedding_dim: int = 64
    # Propagation steps; 0 is matrix factorisation (TokenRec: 3).
    num_layers: int = 3
    # One of GRAPH_LOSSES: an interaction against one sampled item (LightGCN, the paper) or against all items.
    loss: str = "bpr"
    # Divides cosine similarities in the loss "softmax".
    temperature: float = 0.2
    # Weight of the squared norm of the layer-0 rows in a batch (LightGCN: 1e-4).
    l2: float = 1e-4
    # Standard deviation of the initial vectors (LightGCN: 0.1).
    init_std: float = 0.1


@dataclasses.dataclass
class TokenizerConfig:
    """Vector-quantized tokenizers, one for users and one for items. Source: TokenRec §IV-B."""

    # One of TOKENIZER_KINDS.
    kind: str = "masked_vq"
    # Codebooks, which is tokens an id (K in the paper: 3).
    num_books: int = 3
    # Codes in a book (L in the paper: 256 or 512).
    book_size: int = 256
    # Probability that an input element is zeroed in training (rho in the paper: 0.2).
    mask_ratio: float = 0.2
    # Size of a code vector (paper: 512).
    code_dim: int = 512
    # Hidden sizes of the encoder MLPs, reversed in the decoder (paper: 128, 256).
    hidden_dims: tuple[int, ...] = (128, 256)
    # Dropout rate in the MLPs.
    dropout: float = 0.0
    # Let each encoder of `masked_vq` read its own share of the principal directions of the vectors, which makes the
    # books differ; False: all read the whole vector (paper).
    distinct_views: bool = True
    # Weight of the codebook loss and of the commitment loss (beta; VQ-VAE: 0.25, with which
    # more items share a full code: 101 against 62 of 3,646 on LastFM after 400 steps, seed 0).
    codebook_weight: float = 1.0
    commitment_weight: float = 1.0
    # Codes that won fewer than this share of 1 / book_size of the recent assignments are moved onto encoder outputs.
    revival_threshold: float = 0.1
    # Rows that k-means looks at when the books are initialised (whole table if smaller), and its iterations.
    kmeans_rows: int = 20_000
    kmeans_iterations: int = 20


@dataclasses.dataclass
class LLMConfig:
    """Language model, what it reads and how its output becomes a query. Source: TokenRec §IV-C."""

    # `scratch:<preset>` for random weights, a folder with Hugging Face files, a hub id such as `t5-small`, a .gguf
    # file, or `smollm2` (extra smollm2).
    name: str = "scratch:compact"
    # Tokenizer: folder, hub id, .gguf file or `smollm2`. Empty: the one of `name`; for `scratch:` the words of our
    # templates.
    tokenizer: str = ""
    # One of OBJECTIVES: one query a prompt (the paper) or one after each history item.
    objective: str = "prompt"
    # One of ITEM_POSITIONS: an item takes one position a code (the paper), or one for the sum of its codes' embeddings.
    item_positions: str = "codes"
    # One of TUNINGS: which weights of the language model move; code tokens and projection head always do.
    tuning: str = "full"
    # Rank and alpha of the adapters of `lora` (LoRA, Hu et al.: alpha / rank scales them).
    lora_rank: int = 8
    lora_alpha: float = 16.0
    # One of USER_TOKENS: codes of the learned user vector (the paper), of the folded-in history, or no user tokens.
    user_tokens: str = "learned"
    # Probability that the user tokens of a training example are left out.
    user_token_dropout: float = 0.0
    # Start the query from the fold-in of the history in item space (off in the paper).
    fold_in: bool = False
    # One of FOLD_IN_VECTORS, what each item adds to it: the graph encoder's vector divided by sqrt(degree), or the unit
    # vector of its place in the item space, wherever that moves.
    fold_in_vectors: str = "graph"
    # Initial weight of the unit fold-in vector in the query, in units of a logit.
    fold_in_scale: float = 10.0
    # Initial weight of an item in the fold-in: 1 / (number of items from it to the newest)^recency. The weights of all
    # distances are learned from there. 0: all alike.
    fold_in_recency: float = 0.0
    # Let what an item adds to the fold-in move away from that vector by a learned residual: what tells of the next item
    # need not be what is like it.
    fold_in_residual: bool = False
    # Let item vectors of the retrieval loss move away from the graph encoder's by a learned residual.
    item_residual: bool = False
    # Length of the graph encoder's vector of an item before residual and features are added to it and the sum is made
    # a unit vector. The shorter, the sooner they turn it: an optimizer's steps are as long as ever.
    item_vector_length: float = 1.0
    # Add the projected vector of an item in the item space to each of its code tokens at the input.
    item_vectors_at_input: bool = False
    # Read the code tokens of an item, the paper's idea; without them `item_vectors_at_input` must be on.
    codes_at_input: bool = True
    # Dropout rate of the elements of what each item adds to the fold-in: without it, a learned residual knows the
    # training set by heart before the language model has learned anything.
    fold_in_dropout: float = 0.0
    # Probability that a history item is hidden in training: from the language model, where its place stays, and from
    # the fold-in, where it leaves no gap.
    item_dropout: float = 0.0
    # Learn vectors of the categorical values of items, at the input and in the item space; none where there are none.
    item_features: bool = False
    # Values that fewer items have are no features: they would stand for those items. The 4,096 most frequent count.
    min_feature_items: int = 5
    # Frozen language model that turns the text of each item into a vector, named like `name`; empty: no text.
    item_text: str = ""
    # Principal components of those vectors that are kept.
    item_text_dim: int = 64
    # Initialise the added tokens from the code vectors (paper's idea, not its code); random otherwise.
    init_from_codebooks: bool = True
    # One of PROJECTIONS, what the language model adds to the fold-in: a vector of any length that starts from zero, or
    # a unit vector divided by the temperature (without `fold_in` always that, as in the paper); or "cosine": the sum of
    # a vector of any length and the fold-in is made a unit vector divided by the temperature.
    projection: str = "free"
    # Hidden size of the projection head into item space (TokenRec: 256); 0: the head is linear.
    projection_dim: int = 256
    # Start random weights of the language model at a tenth and read item vectors at unit variance, so that the first
    # queries are what the items say and not what random layers make of it. For `scratch:` models.
    small_start: bool = False
    # Dropout rate of the language model in training; negative: the checkpoint's own.
    dropout: float = -1.0
    # Draw it for each position of a history, as SASRec and transformers do; otherwise once for all positions of a row,
    # which is how T5 was pretrained and takes far fewer random numbers.
    dropout_each_position: bool = False
    # Type of activations: "float32" or "bfloat16"; parameters, softmax, norms and losses are always float32.
    dtype: str = "float32"
    # One of REMATS, what of a layer's activations is kept for the backward pass: everything, products with weights, or
    # nothing but its input. Less memory, more arithmetic.
    remat: str = "none"
    # Compile one layer and loop over all: compiled many times faster, but a step copies the weights.
    scan_layers: bool = False


@dataclasses.dataclass
class LossConfig:
    """Retrieval loss of the stages LLM and JOINT. Source: TokenRec eq. 13 for `pairwise`."""

    # One of LOSSES: cosine ranking against sampled negatives with a margin (the paper) or softmax over all items.
    kind: str = "softmax"
    # Divides cosine similarities in the softmax.
    temperature: float = 0.07
    # Share of the target's probability that the softmax spreads over all items.
    label_smoothing: float = 0.0
    # Weight of the mean of 1 - cosine between what content says of an item and where the item is, which is what lets
    # content stand for items that nobody has touched; read only with `llm.item_features` or `llm.item_text`.
    content_weight: float = 0.3
    # Margin of the pairwise loss, in cosine similarity (reference code: 0).
    margin: float = 0.1
    # Sampled negatives a position of the pairwise loss (TokenRec: 1).
    num_negatives: int = 1
    # Weights of the three terms in stage JOINT.
    collaborative_weight: float = 1.0
    tokenizer_weight: float = 1.0
    retrieval_weight: float = 1.0


@dataclasses.dataclass
class StageConfig:
    """Optimisation of one stage: AdamW with linear warm-up and cosine decay to zero."""

    # Optimizer steps.
    steps: int = 1000
    # Step after which the stage ends although its learning rate is planned for `steps`; 0: it goes on to `steps`.
    stop_at: int = 0
    # Examples a step, over all devices: interactions, table rows or histories.
    batch_size: int = 512
    # Parts that a batch is cut into, whose gradients are summed one after another: less memory, and the same gradient
    # but for what is drawn at random and, in JOINT, for the tokenizers' statistics. In the stages LLM and JOINT only.
    accumulate: int = 1
    # Peak learning rate.
    learning_rate: float = 1e-3
    # Decoupled weight decay on the kernels of layers; tables, codebooks, scales and biases have none, nor has the graph
    # encoder: it has `lightgcn.l2`.
    weight_decay: float = 0.0
    # Share of the steps that warm up linearly.
    warmup: float = 0.05
    # Decay to zero along a cosine after the warm-up; constant otherwise.
    cosine_decay: bool = True
    # Largest global norm of the gradient; 0 for no clipping.
    clip_norm: float = 0.0
    # Steps between evaluations on the validation split, of which the best one's model is kept; 0: at the end only. The
    # stage TOKENIZER ranks nothing and has none.
    eval_every: int = 500


@dataclasses.dataclass
class TrainConfig:
    """Training loop. `steps` and `batch_size` replace those of every stage when they are not 0."""

    # Optimizer steps of every stage; 0: each stage's own.
    steps: int = 0
    # Examples a step in every stage; 0: each stage's own.
    batch_size: int = 0
    collaborative: StageConfig = dataclasses.field(
        default_factory=lambda: StageConfig(steps=2000, batch_size=8192, learning_rate=5e-3, cosine_decay=False)
    )
    tokenizer: StageConfig = dataclasses.field(
        default_factory=lambda: StageConfig(steps=2000, batch_size=512, learning_rate=1e-3, weight_decay=0.01)
    )
    llm: StageConfig = dataclasses.field(
        default_factory=lambda: StageConfig(steps=5000, batch_size=128, learning_rate=1e-3, weight_decay=0.01)
    )
    joint: StageConfig = dataclasses.field(
        default_factory=lambda: StageConfig(steps=5000, batch_size=128, learning_rate=1e-3, weight_decay=0.01)
    )
    # Steps between metric lines, and between checkpoints.
    log_every: int = 50
    checkpoint_every: int = 500
    # Evaluations without a better validation NDCG@10 after which the stages LLM and JOINT stop; 0: never.
    patience: int = 0
    # Steps of each stage to trace into DIR/profile, "first:last" with last excluded; empty: none.
    profile: str = ""
    # In stage JOINT the code tables follow the moving tokenizers every so many steps, and before each evaluation.
    refresh_codes_every: int = 200


@dataclasses.dataclass
class MeshConfig:
    """Devices along each axis of the mesh; 0 along `data` takes all that the other two leave."""

    data: int = 0
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass
class EvaluationConfig:
    """Ranking of the full catalogue."""

    # k of HR, NDCG, MRR, recall and coverage.
    cutoffs: tuple[int, ...] = (5, 10, 20, 30)
    # Users scored at once.
    batch_size: int = 256
    # Rank popularity, item-kNN and EASE too, which no run trains: minutes on tens of thousands of users and
    # items, which a grid on the same data need spend only once. LightGCN, which a run trains, is always ranked.
    baselines: bool = True
    # One of PROTOCOLS: leave-one-out as it should be, or one of two to compare with; see evaluation/comparability.py.
    protocol: str = "honest"
    # Newest interactions of each user that nothing is trained on. 2: the last is the test item, the one before it the
    # validation item, which chooses the best step of a stage. 1: the test item alone, and 0: none; then stages end with
    # the model of their last step. `experiments.refit` sets this.
    held_out: int = 2
    # One of GRAPHS, the interactions that vectors and codes rest on when the test split is ranked, with the weights as
    # they were trained: those of the training, or all that are older than a target, which adds everybody's validation
    # item (the paper's way to take new interactions in, §IV-D). The counts of the baselines of a run rest on them, too.
    graph: str = "training"

    @property
    def untrained(self) -> int:
        """Newest interactions of each user that training leaves out: `reference` trains on the validation item."""
        return min(self.held_out, 1) if self.protocol == "reference" else self.held_out


@dataclasses.dataclass
class Config:
    """Everything that decides a run; saved as config.json in its working directory."""

    # Seed of initialisation, sampling, dropout and order of the data.
    seed: int = 0
    # Stages in the order in which they run; members of `Stage`.
    stages: tuple[str, ...] = ("collaborative", "tokenizer", "llm")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    lightgcn: LightGCNConfig = dataclasses.field(default_factory=LightGCNConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    llm: LLMConfig = dataclasses.field(default_factory=LLMConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def stage(self, stage: Stage) -> StageConfig:
        """Returns the optimisation of a stage, with the overrides of `train.steps` and `train.batch_size` applied."""
        own: StageConfig = getattr(self.train, stage.value)
        return dataclasses.replace(
            own, steps=self.train.steps or own.steps, batch_size=self.train.batch_size or own.batch_size
        )


def to_json(config: Any) -> str:
    """Returns a config, this one or another data class, as indented JSON with sorted keys."""
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    A value that is missing is newer than the run and has its default, which is what runs without it did; whole sections
    must be there.

    Raises:
      ConfigError: not JSON, a section is missing, or a field is unknown or of another type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error}") from None
    return _build(Config, values, "config")


def _build(cls: type, values: Any, where: str) -> Any:
    """Returns `cls` made from nested dicts; lists become tuples, as JSON has none."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: is {values}; allowed are fields with values")
    if unknown := sorted(values.keys() - fields.keys()):
        raise ConfigError(f"{where}: unknown fields {unknown}; allowed are {sorted(fields)}")
    sections: dict[str, Any] = {
        name: field.type for name, field in fields.items() if dataclasses.is_dataclass(field.type)
    }
    if missing := sorted(sections.keys() - values.keys()):
        raise ConfigError(f"{where}: no {', '.join(missing)}; allowed are configs with {', '.join(sections)}")
    made = {}
    for name, value in values.items():
        if name in sections:
            made[name] = _build(sections[name], value, f"{where}.{name}")
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
            wanted: Any = get_origin(fields[name].type) or fields[name].type
            if type(made[name]) is not wanted and not (wanted is float and type(value) is int):
                raise ConfigError(f"{where}.{name}: is {value!r}; allowed is a {wanted.__name__}")
    return cls(**made)
