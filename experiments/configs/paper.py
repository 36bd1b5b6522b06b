"""The paper's settings, shared by the configs of its four data sets. Source: TokenRec §V and its reference code.

Differs: 3-layer propagated vectors instead of layer 0; working gradients in the tokenizer; the newest items of a
history, in order; the best step by the validation item, not by the test item; see README.md for the whole list.
"""

from tokenrec_jax import config as c

#: `compact` is a small T5 from random weights, for CPUs; other names are hub ids or folders of pretrained weights.
COMPACT = "compact"


def get_config(argument: str = "t5-small", *, name: str = "LastFM", book_size: int = 256) -> c.Config:
    """Returns the config of a data set in the reference layout.

    Args:
      argument: size of the language model: `compact`, `scratch:<preset>`, a hub id such as `t5-small`, or a folder.
      name: folder of the data set below $TOKENREC_DATA.
      book_size: codes in a book (256 for LastFM and ML1M, 512 for Beauty and Clothing).
    """
    config = c.Config()
    config.data = c.DataConfig(source="tokenrec", name=name, max_history=50, history_buckets=(5, 10, 20, 35, 50))
    config.lightgcn = c.LightGCNConfig()
    config.tokenizer = c.TokenizerConfig(book_size=book_size)
    config.llm = c.LLMConfig(
        name="scratch:compact" if argument == COMPACT else argument,
        objective="prompt",
        user_tokens="learned",
        fold_in=False,
    )
    config.loss = c.LossConfig(kind="pairwise", margin=0.1, num_negatives=1)
    config.train = c.TrainConfig(
        collaborative=c.StageConfig(steps=2000, batch_size=8192, learning_rate=5e-3, cosine_decay=False),
        tokenizer=c.StageConfig(steps=2000, batch_size=512, learning_rate=1e-3, weight_decay=0.01),
        # The paper fine-tunes pretrained weights at 5e-5; random ones need more.
        llm=c.StageConfig(
            steps=20_000,
            batch_size=128,
            learning_rate=1e-3 if argument == COMPACT else 5e-5,
            weight_decay=0.01,
        ),
        eval_every=1000,
        checkpoint_every=1000,
        patience=5,
    )
    return config
