"""Seconds on a CPU: the synthetic data set through all stages, for tests and first steps.

Command: python -m experiments.train --config=experiments/configs/tiny.py --workdir=runs/tiny
"""

from tokenrec_jax import config as c


def get_config(argument: str = "tiny") -> c.Config:
    """Returns the config; `argument` is the preset of the language model."""
    config = c.Config()
    config.data = c.DataConfig(source="synthetic", max_history=12, history_buckets=(6, 12))
    config.lightgcn = c.LightGCNConfig(embedding_dim=16, num_layers=2)
    config.tokenizer = c.TokenizerConfig(book_size=16, code_dim=32, hidden_dims=(32,))
    # A unit projection, so that what the language model says shows before anything is trained.
    config.llm = c.LLMConfig(
        name=f"scratch:{argument}", projection_dim=32, projection="unit", fold_in=True, dropout=0.0
    )
    config.train = c.TrainConfig(
        collaborative=c.StageConfig(steps=60, batch_size=512, learning_rate=2e-2, cosine_decay=False, eval_every=30),
        tokenizer=c.StageConfig(steps=60, batch_size=64, learning_rate=2e-3),
        llm=c.StageConfig(steps=60, batch_size=32, learning_rate=3e-3, eval_every=30),
        joint=c.StageConfig(steps=20, batch_size=32, learning_rate=1e-3, eval_every=10),
        log_every=20,
        checkpoint_every=20,
        refresh_codes_every=10,
    )
    return config
