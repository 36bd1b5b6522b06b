import pytest

from tokenrec_jax.serving.access import Access
from tokenrec_jax.types import ConfigError

KEY = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_this_machine_needs_no_key(host):
    assert not Access.of(host, key="").key


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "localhost.example.org"])
def test_others_need_one(host):
    with pytest.raises(ConfigError, match="set TOKENREC_API_KEY"):
        Access.of(host, key="")
    assert Access.of(host, key=KEY).key == KEY


@pytest.mark.parametrize("key", ["short", "with spaces in the key", "ключключключключ", "0123456789abcdef\n"])
def test_a_key_must_be_one(key):
    with pytest.raises(ConfigError, match="TOKENREC_API_KEY"):
        Access.of("127.0.0.1", key=key)


@pytest.mark.parametrize(
    ("header", "status"),
    [(f"Bearer {KEY}", None), (f"bearer  {KEY} ", None), ("", 401), (KEY, 401), (f"Bearer {KEY}0", 401),
     ("Bearer ", 401), ("Bearer ключ", 401), (f"Basic {KEY}", 401)],
)  # fmt: skip
def test_the_key_is_checked(header, status):
    refusal = Access(KEY).check(authorization=header.encode(), host=b"example.org")
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:80", "[::1]", ""])
def test_without_a_key_names_of_this_machine_are_served(host):
    assert Access().check(authorization=b"", host=host.encode()) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::2]:80", "\u00ff"])
def test_and_no_others(host):
    assert Access().check(authorization=b"", host=host.encode()).status == 403
