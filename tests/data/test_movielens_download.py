"""MovieLens as TFDS gets it: downloaded from a server of this machine, extracted, parsed, prepared."""

import contextlib
import functools
import http.server
import threading
import zipfile

import pytest

from tokenrec_jax.config import DataConfig
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.types import DataError

#: What the archives hold: user 1 rates 3, 1 and 2, user 2 rates 1, 2 and 3, in this order.
RATINGS = [("1", "3", 10), ("1", "1", 20), ("1", "2", 30), ("2", "1", 5), ("2", "2", 6), ("2", "3", 7)]
TITLES = {"1": "Toy Story (1995)", "2": "Misérables, Les (1995)", "3": "Heat (1995)"}
FLAGS = "|".join("1" if number in (3, 4) else "0" for number in range(19))
ARCHIVES = {
    "100k": {
        "ml-100k/u.item": "".join(
            f"{movie}|{title}|01-Jan-1995||http://x|{FLAGS}\n" for movie, title in TITLES.items()
        ),
        "ml-100k/u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
        "ml-100k/u.data": "".join(f"{user}\t{movie}\t4\t{time}\n" for user, movie, time in RATINGS),
    },
    "latest-small": {
        "ml-latest-small/movies.csv": "movieId,title,genres\n"
        + "".join(f'{movie},"{title}",Animation|Children\n' for movie, title in TITLES.items()),
        "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\n"
        + "".join(f"{user},{movie},4.0,{time}\n" for user, movie, time in RATINGS),
    },
}
ENCODINGS = {"100k": "latin-1", "latest-small": "utf-8"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Has a variant downloaded from here; yields the folder of the archives."""
    from tensorflow_datasets.structured.movielens import Movielens

    (tmp_path / "server").mkdir()
    with served(tmp_path / "server") as address:
        for config in Movielens.BUILDER_CONFIGS:
            monkeypatch.setattr(config, "_download_url", f"{address}/{config.name.removesuffix('-ratings')}.zip")
        yield tmp_path / "server"


@pytest.mark.parametrize("variant", ARCHIVES)
def test_a_variant_is_downloaded_extracted_and_read_without_tensorflow(variant, downloads, tmp_path):
    with zipfile.ZipFile(downloads / f"{variant}.zip", "w") as archive:
        for name, text in ARCHIVES[variant].items():
            archive.writestr(name, text.encode(ENCODINGS[variant]))
    config = DataConfig(source="movielens", path=variant, cache_dir=str(tmp_path / "cache"))
    data = load_interactions(config)
    histories = {user: [data.item_ids[item] for item in data.history(row)] for row, user in enumerate(data.user_ids)}
    assert histories == {"1": ["3", "1", "2"], "2": ["1", "2", "3"]}
    assert dict(zip(data.item_ids, data.item_titles, strict=True)) == TITLES
    assert set(data.item_attributes) == {("Animation", "Children")}
    # It is there from now on.
    (downloads / f"{variant}.zip").unlink()
    assert load_interactions(config).item_titles == data.item_titles


def test_what_is_wrong_with_an_archive_is_said_and_it_can_be_tried_again(downloads, tmp_path):
    (downloads / "100k.zip").write_bytes(b"no archive")
    with pytest.raises(
        DataError, match=r"100k could not be prepared \(BadZipFile: File is not a zip file\); try again"
    ):
        load_interactions(DataConfig(source="movielens", path="100k", cache_dir=str(tmp_path / "cache")))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
