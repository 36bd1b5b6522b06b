"""What the mathematics of a step needs, whatever the program does: the numerator of an MFU. Read `training_flops`.

Two operations a multiply-add of every matrix product of the forward pass; a trained weight costs twice that again on
the way back (6 N a token), a frozen one once, for the gradient that passes through it (4 N). Attention is counted
without the half that a causal mask hides, and cross-attention by the cheaper of its two orders, so that neither helps
the figure. Look-ups, norms, softmax, dropout and the optimizer count nothing.
"""

import dataclasses

from tokenrec_jax.config import Config
from tokenrec_jax.models import llm
from tokenrec_jax.models.tables import ModelShape
from tokenrec_jax.numerics import round_up


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Positions of one batch.

    Attributes:
      batch: examples.
      prompts: prompts that the language model reads: one an example, or one for all.
      prompt: positions of a prompt.
      queries: positions after the prompt, or of a T5's decoder, for each example.
      answers: of these, the ones that become a query.
    """

    batch: int
    prompts: int
    prompt: int
    queries: int
    answers: int


def lengths(config: Config, shape: ModelShape, *, batch: int, num_answer_tokens: int) -> Lengths:
    """Returns the positions of a batch of the longest histories."""
    history, books = config.data.max_history, config.tokenizer.num_books
    per_item = 1 if config.llm.item_positions == "pooled" else books
    user = 1 if config.llm.user_tokens == "none" else books
    dense = config.llm.objective == "dense"
    prompt = round_up(shape.num_text_tokens + user + (0 if dense else history * per_item), multiple=8)
    return Lengths(
        batch=batch,
        prompts=1 if dense and config.llm.user_tokens == "none" else batch,
        prompt=prompt,
        queries=history * per_item if dense else num_answer_tokens,
        answers=history if dense else 1,
    )


def forward_flops(model: llm.LanguageModelConfig, sizes: Lengths) -> float:
    """Returns the operations of the language model, forward."""
    return _t5(model, sizes) if isinstance(model, llm.T5Config) else _decoder(model, sizes)


def head_flops(config: Config, shape: ModelShape, sizes: Lengths, *, hidden: int, with_softmax: bool) -> float:
    """Returns the operations of the query head, of item vectors at the input and of the full-catalogue softmax."""
    dim, inner = config.lightgcn.embedding_dim, config.llm.projection_dim
    positions = sizes.batch * sizes.answers
    total = 2.0 * positions * (hidden * inner + inner * dim if inner else hidden * dim)
    if config.llm.item_vectors_at_input:
        total += 2.0 * sizes.batch * config.data.max_history * dim * hidden
    if with_softmax and config.loss.kind == "softmax":
        total += 2.0 * positions * shape.num_items * dim
    return total


def training_flops(config: Config, model: llm.LanguageModelConfig, shape: ModelShape, sizes: Lengths) -> float:
    """Returns the operations of one train step of stage LLM, forward and backward, over all devices."""
    backbone = forward_flops(model, sizes)
    times = 3.0 if config.llm.tuning == "full" else 2.0
    hidden = getattr(model, "model_dim", 0)
    total = times * backbone + 3.0 * head_flops(config, shape, sizes, hidden=hidden, with_softmax=True)
    if config.llm.tuning == "lora":
        total += 3.0 * backbone * _lora_share(config, model)
    return total


def _attention(queries: int, keys: int | float, inner: int) -> float:
    """Returns the operations of scores and mixing for `queries` positions of `keys` slots each."""
    return 4.0 * queries * keys * inner


def _t5(model: llm.T5Config, sizes: Lengths) -> float:
    dim, inner = model.model_dim, model.num_heads * model.head_dim
    feed_forward = (3 if model.gated else 2) * dim * model.feed_forward_dim
    source, target = sizes.prompts * sizes.prompt, sizes.batch * sizes.queries
    encoder = 2.0 * source * (4 * dim * inner + feed_forward) + _attention(source, sizes.prompt, inner)
    own = 2.0 * target * (4 * dim * inner + feed_forward) + _attention(target, sizes.queries / 2, inner)
    ahead = 2.0 * source * 2 * dim * inner + _attention(target, sizes.prompt, inner)
    # Kernels on the side of the queries: each head then reads the source itself, `dim` wide.
    aside = 2.0 * target * 2 * dim * inner + _attention(target, sizes.prompt, model.num_heads * dim)
    cross = 2.0 * target * 2 * dim * inner + min(ahead, aside)
    return model.num_encoder_layers * encoder + model.num_decoder_layers * (own + cross)


def _decoder(model, sizes: Lengths) -> float:
    dim, inner = model.model_dim, model.num_heads * model.head_dim
    kv = 2 * dim * model.num_kv_heads * model.head_dim
    feed_forward = (2 if isinstance(model, llm.GPT2Config) else 3) * dim * model.feed_forward_dim
    asking = 2 * dim * inner + feed_forward
    prompt, queries = sizes.prompts * sizes.prompt, sizes.batch * sizes.queries
    layer = 2.0 * (prompt + queries) * (asking + kv)
    layer += _attention(prompt, sizes.prompt / 2, inner)
    layer += _attention(queries, sizes.prompt + sizes.queries / 2, inner)
    # Of the last layer only the queries' states are used: the prompt's are keys and values there.
    unused = 2.0 * prompt * asking + _attention(prompt, sizes.prompt / 2, inner)
    return model.num_layers * layer - unused


def _lora_share(config: Config, model) -> float:
    """Returns the operations of the adapters as a share of those of the kernels beside which they work."""
    dim, inner, wide = model.model_dim, model.num_heads * model.head_dim, model.feed_forward_dim
    kernels = 4 * dim * inner + 3 * dim * wide
    return config.llm.lora_rank * (4 * (dim + inner) + 3 * (dim + wide)) / kernels
