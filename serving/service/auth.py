"""Bearer tokens: `read` may look and search, `admin` may change galleries, too."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ...platform.core.errors import ConfigError
from ..config import HOST, ListenConfig
from ..engine.errors import RefusedError

ROLES = ("read", "admin")
VARIABLES = {"read": "VETDINO_READ_TOKEN", "admin": "VETDINO_ADMIN_TOKEN"}

SHORTEST = 16
"""Characters of a token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. name: the same for all requests with one token; says nothing of the token."""

    name: str
    is_admin: bool


class AccessTokens:
    """The tokens of a service, kept as SHA-256. With none, everybody who can reach it may read."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """tokens: token -> role."""
        self._roles = {hashlib.sha256(token.encode()).digest(): role for token, role in tokens.items()}

    def __len__(self) -> int:
        return len(self._roles)

    def caller(self, authorization: str) -> Caller:
        """Who a request is from, by its Authorization header. Raises RefusedError (401).

        Every token is compared, each in constant time.
        """
        if not self._roles:
            return Caller("everybody", is_admin=False)
        scheme, _, token = authorization.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = ""
        for known, role in self._roles.items():
            if hmac.compare_digest(given, known):
                found = role
        if scheme.lower() != "bearer" or not found:
            raise RefusedError(401, "Unauthorized", "a bearer token of this service is needed")
        return Caller(f"{found}-{given.hex()[:8]}", found == "admin")


def load_tokens(listen: ListenConfig) -> AccessTokens:
    """The tokens of a file, or of the environment.

    Raises ConfigError for a file that cannot be read, a line that is no role and token, a short token, or an address
    other than 127.0.0.1 without any token. No message quotes a token.
    """
    found: dict[str, str] = {}
    if listen.tokens is not None:
        try:
            lines = listen.tokens.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{listen.tokens}: tokens cannot be read ({type(error).__name__})") from None
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or words[0] not in ROLES:
                raise ConfigError(f"{listen.tokens}: line {number} must be `read TOKEN` or `admin TOKEN`")
            _add(found, words[1], words[0], f"{listen.tokens}: line {number}")
        if not found:
            raise ConfigError(f"{listen.tokens}: holds no token; a line is `read TOKEN` or `admin TOKEN`")
    else:
        for role, variable in VARIABLES.items():
            if token := os.environ.get(variable):
                _add(found, token, role, variable)
    if not found and listen.host != HOST:
        raise ConfigError(
            f"host {listen.host} can be reached from other machines, which needs tokens; give --tokens FILE, or listen "
            f"on {HOST}"
        )
    return AccessTokens(found)


def _add(found: dict[str, str], token: str, role: str, where: str) -> None:
    if len(token) < SHORTEST:
        raise ConfigError(
            f"{where}: a token of {len(token)} characters can be guessed; take {SHORTEST} or more"
        )
    if found.get(token, role) != role:
        raise ConfigError(f"{where}: this token is already one for {found[token]}")
    found[token] = role
