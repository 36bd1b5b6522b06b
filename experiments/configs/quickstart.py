"""MovieLens-small (100,004 ratings, shipped inside a Python package) with titles, in minutes on a CPU.

Command: python -m experiments.train --config=experiments/configs/quickstart.py --workdir=runs/quickstart
"""

from tokenrec_jax import config as c


def get_config(argument: str = "compact") -> c.Config:
    """Returns the config; `argument` is the preset of the language model."""
    config = c.Config()
    config.data = c.DataConfig(source="movielens-small", min_interactions=5, max_history=50, history_buckets=(20, 50))
    config.lightgcn = c.LightGCNConfig()
    config.tokenizer = c.TokenizerConfig(book_size=256)
    config.llm = c.LLMConfig(
        name=f"scratch:{argument}",
        objective="dense",
        item_positions="pooled",
        user_tokens="none",
        fold_in=True,
        item_residual=True,
        item_vectors_at_input=True,
        dropout=0.3,
    )
    config.loss = c.LossConfig(temperature=0.1)
    config.train = c.TrainConfig(
        collaborative=c.StageConfig(steps=1500, batch_size=8192, learning_rate=5e-3),
        tokenizer=c.StageConfig(steps=400, batch_size=512, learning_rate=3e-3, weight_decay=0.01),
        llm=c.StageConfig(steps=600, batch_size=64, learning_rate=1e-3, weight_decay=0.01, eval_every=50),
        checkpoint_every=200,
    )
    return config
