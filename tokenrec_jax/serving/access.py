"""Who may reach the server: this machine alone, or whoever has the key. Read `Access.check`."""

import dataclasses
import hmac
import ipaddress

from tokenrec_jax.types import ConfigError

KEY_VARIABLE = "TOKENREC_API_KEY"
#: A key that can be guessed is none.
MIN_KEY = 16


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Status and one line."""

    status: int
    error: str


@dataclasses.dataclass(frozen=True)
class Access:
    """The rule of one server.

    Attributes:
      key: what clients must send as `Authorization: Bearer KEY`; "" where none is needed.
    """

    key: str = ""

    @classmethod
    def of(cls, host: str, *, key: str) -> "Access":
        """Returns the rule for a server that listens on `host`.

        Raises:
          ConfigError: other machines could reach it without a key, or the key is too short.
        """
        if not key and not is_loopback(host):
            raise ConfigError(
                f"--host={host}: other machines can reach it; set {KEY_VARIABLE} to a secret that clients must send, "
                "or listen on 127.0.0.1"
            )
        if key and (len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key):
            raise ConfigError(
                f"{KEY_VARIABLE}: allowed are {MIN_KEY} or more printable ASCII characters without spaces"
            )
        return cls(key)

    def check(self, *, authorization: bytes, host: bytes) -> Refusal | None:
        """Returns why a request with these two headers is refused, None if it is not."""
        if self.key:
            scheme, _, given = authorization.partition(b" ")
            if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.key.encode("ascii")):
                return None
            return Refusal(401, "send the API key as a header, Authorization: Bearer KEY")
        # Without a key being on this machine is the key. A web page of somebody else that has its own name point here
        # (DNS rebinding) would send that name.
        name = _without_port(host.decode("latin-1"))
        if name and not is_loopback(name):
            return Refusal(403, f"host {name[:100]!r}: without an API key only localhost is served")
        return None


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a server on `host`; other names than localhost count as no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    """Returns NAME of NAME:PORT, as a Host header has it."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
