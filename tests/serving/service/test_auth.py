"""Bearer tokens: who may do what, and files that do not hold them."""

from __future__ import annotations

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.serving.config import ListenConfig
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.service.auth import AccessTokens, load_tokens

READ, ADMIN = "r" * 20, "a" * 20


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# ours\nread {READ}\n\nadmin {ADMIN}\n")
    return load_tokens(ListenConfig(tokens=path))


def test_a_token_gives_its_role_and_a_name_that_does_not_tell_it(tokens):
    assert not tokens.caller(f"Bearer {READ}").is_admin
    admin = tokens.caller(f"bearer {ADMIN}")
    assert admin.is_admin
    assert ADMIN not in repr(admin)
    assert ADMIN not in repr(vars(tokens))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {READ}",
        f"Bearer {READ}x",
        f"Bearer {READ[:-1]}",
        READ,
        "Bearer \udcff",
    ],
)
def test_anything_else_is_401(tokens, header):
    with pytest.raises(RefusedError) as refusal:
        tokens.caller(header)
    assert refusal.value.status == 401


def test_every_token_is_compared_in_constant_time(tokens, monkeypatch):
    import hmac

    compared = []

    def compare(left, right):
        compared.append((len(left), len(right)))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tokens.caller(f"Bearer {READ}")
    assert compared == [(32, 32)] * 2


def test_without_tokens_everybody_reads_and_nobody_changes():
    assert not AccessTokens({}).caller("").is_admin


def test_tokens_come_from_the_environment_where_no_file_is_given(monkeypatch):
    monkeypatch.setenv("VETDINO_ADMIN_TOKEN", ADMIN)
    assert load_tokens(ListenConfig()).caller(f"Bearer {ADMIN}").is_admin


def test_another_address_needs_tokens():
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 .* needs tokens"):
        load_tokens(ListenConfig(host="0.0.0.0"))


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "holds no token"),
        (f"write {READ}", "line 1"),
        (f"read {READ} more", "line 1"),
        ("read short", "5 characters"),
        (f"read {READ}\nadmin {READ}", "already one for read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_usable_tokens_is_refused_without_quoting_one(tmp_path, text, fact):
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=fact) as refusal:
        load_tokens(ListenConfig(tokens=path))
    assert READ not in str(refusal.value)
