"""A checkpoint of each family through train, evaluate, recommend and export, with every tuning and objective."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from experiments import cli
from experiments.configs import tiny
from experiments.evaluation import split_metrics
from experiments.train import run
from tokenrec_jax.data import prompts
from tokenrec_jax.data.vocabulary import load_tokenizer, word_tokenizer
from tokenrec_jax.export import export, language_model
from tokenrec_jax.models import llm
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Split

FAMILIES = {
    "t5": llm.preset("tiny", vocab_size=100),
    "llama": llm.preset("llama-tiny", vocab_size=100),
    "gpt2": llm.preset("gpt2-tiny", vocab_size=100),
}


def save_checkpoint(folder, family: str) -> None:
    """Writes random weights with a tokenizer; 100 tokens, which no device count but small ones divides."""
    model = llm.make_model(FAMILIES[family], rngs=nnx.Rngs(7))
    llm.save_hf(model, folder, word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER)))


def make_config(tmp_path, name: str):
    config = tiny.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.history_buckets = ()
    config.llm.name = name
    config.train.steps = 4
    config.evaluation.baselines = False
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "objective", "tuning"),
    [
        ("t5", "prompt", "lora"),
        ("t5", "dense", "frozen"),
        ("llama", "prompt", "full"),
        ("llama", "dense", "lora"),
        ("gpt2", "prompt", "frozen"),
        ("gpt2", "dense", "full"),
    ],
)
def test_a_checkpoint_goes_all_the_way(family, objective, tuning, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", family)
    config = make_config(tmp_path, str(tmp_path / "checkpoint"))
    config.llm.objective, config.llm.tuning = objective, tuning
    config.llm.item_positions = "pooled" if family == "gpt2" else "codes"
    workdir = Workdir.start(str(tmp_path / "run"), config)
    run(config, workdir)
    # A finished run needs nothing outside of its directory.
    shutil.rmtree(tmp_path / "checkpoint")
    recommender = Recommender.load(str(tmp_path / "run"))
    metrics = split_metrics(recommender.score_function(), recommender.interactions, Split.TEST, config=config)
    assert metrics == workdir.result()["test"]
    user = recommender.interactions.user_ids[0]
    assert len(recommender.recommend([user], k=5)[0]) == 5

    export(recommender, str(tmp_path / "exported"))
    check_export(recommender, tmp_path / "exported", adapted=tuning == "lora")
    with pytest.raises(ConfigError, match="is there already"):
        export(recommender, str(tmp_path / "exported"))


def check_export(recommender: Recommender, folder, *, adapted: bool) -> None:
    """The folder is the trained model, bit for bit, and its tokenizer makes the ids that the model was trained with."""
    vocabulary, model = recommender.built.vocabulary, recommender.model
    again = llm.load(str(folder))
    ours = language_model(model, vocabulary)
    params = [nnx.to_pure_dict(nnx.state(each, nnx.Param)) for each in (again, ours)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    assert model.merged_llm().vocab_size <= ours.vocab_size  # the run's own copy did not grow
    if adapted:
        before, after = (nnx.to_flat_state(nnx.state(each, nnx.Param)) for each in (model.llm, ours))
        pairs = [
            (path, np.asarray(a[...]), np.asarray(b[...])) for (path, a), (_, b) in zip(before, after, strict=True)
        ]
        moved = [path for path, a, b in pairs if a.shape == b.shape and (a != b).any()]
        assert moved and all(path[-1] == "kernel" for path in moved)

    tokenizer = load_tokenizer(str(folder))
    with (folder / "items.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [row["item"] for row in rows] == list(recommender.interactions.item_ids)
    codes = np.asarray(model.tables.item_codes[...])
    for item in (0, 7):
        ids = tokenizer(f"items {rows[item]['tokens']} were chosen", add_special_tokens=False)["input_ids"]
        offsets = vocabulary.first_item_token + np.arange(vocabulary.num_books) * vocabulary.book_size
        books = vocabulary.num_books
        assert ids[1 : 1 + books] == (offsets + codes[item]).tolist()
        # With the embeddings that training gave them.
        table = np.asarray(again.token_embedding[...])
        expected = np.asarray(model.code_tokens[...])[np.array(ids[1 : 1 + books]) - vocabulary.first_user_token]
        np.testing.assert_array_equal(table[ids[1 : 1 + books]], expected)
    arrays = load_file(folder / "tokenrec.safetensors")
    np.testing.assert_allclose(np.linalg.norm(arrays["item_vectors"], axis=1), 1.0, rtol=1e-5)
    assert len(arrays["item_vectors"]) == recommender.interactions.num_items

    transformers_sees_the_same(again, folder, tokenizer, rows[3]["tokens"])


def transformers_sees_the_same(ours, folder, tokenizer, item: str) -> None:
    """Compares hidden states of a prompt with PyTorch's, where it is installed."""
    torch = pytest.importorskip("torch")
    import transformers

    is_t5 = isinstance(ours.config, llm.T5Config)
    kind = transformers.AutoModelForSeq2SeqLM if is_t5 else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(folder).eval()
    ids = np.array([tokenizer(f"given the history {item} recommend one item", add_special_tokens=False)["input_ids"]])
    queries = ids[:, :4]
    with torch.no_grad():
        if is_t5:
            output = theirs(
                input_ids=torch.tensor(ids), decoder_input_ids=torch.tensor(queries), output_hidden_states=True
            )
            expected = output.decoder_hidden_states[-1].numpy()
            found = nnx.jit(lambda model: model(jnp.asarray(ids), decoder_input_ids=jnp.asarray(queries)))(ours)
        else:
            expected = theirs(input_ids=torch.tensor(ids), output_hidden_states=True).hidden_states[-1].numpy()
            found = nnx.jit(lambda model: model(jnp.asarray(ids)))(ours)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


BAD_CHECKPOINTS = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors",
    ),
    "missing shard": (lambda folder: lose_a_shard(folder), "model-00002-of-00002.safetensors"),
    "not finite": (lambda folder: poison(folder), "holds NaN or infinity"),
    "small embedding": (lambda folder: shrink(folder), "llm.tokenizer has"),
    "few positions": (lambda folder: shorten(folder), "more than the 8 of the language model; lower data.max_history"),
}


def lose_a_shard(folder) -> None:
    there, lost = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), there)
    (folder / "model.safetensors").rename(folder / there)
    weight_map[next(iter(weight_map))] = lost
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def poison(folder) -> None:
    model = llm.load(str(folder))
    model.layers[0].attention.query.kernel[...] = model.layers[0].attention.query.kernel[...].at[0, 0].set(np.nan)
    llm.save_hf(model, folder)


def shrink(folder) -> None:
    llm.save_hf(llm.make_model(llm.preset("llama-tiny", vocab_size=16), rngs=nnx.Rngs(0)), folder)


def shorten(folder) -> None:
    values = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 8}
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_one_line_and_leaves_no_run(name, tmp_path, capsys):
    save_checkpoint(tmp_path / "checkpoint", "llama")
    spoil, message = BAD_CHECKPOINTS[name]
    spoil(tmp_path / "checkpoint")
    config = make_config(tmp_path, str(tmp_path / "checkpoint"))
    workdir = Workdir.start(str(tmp_path / "run"), config)
    assert cli.guarded(lambda: run(config, workdir)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "run").exists()
