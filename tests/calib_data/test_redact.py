from __future__ import annotations

import pytest

from calib_data.redact import redact

# As long as the hub makes them.
TOKEN = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token hf_{TOKEN} is bad", "token hf_*** is bad"),
        (f"HF_TOKEN=hf_{TOKEN}", "HF_TOKEN=hf_***"),
        (f"of the organization: api_org_{TOKEN}", "of the organization: api_org_***"),
        ("oauth hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6WyJ.A-b_c is bad", "oauth *** is bad"),
        ("https://me:secret@host/path", "https://***@host/path"),
        ("https://hf_token@host/", "https://***@host/"),
        ("GET https://host/x?token=abc123&v=1", "GET https://host/x?token=***&v=1"),
        ("https://host/x?X-Amz-Signature=abc%2F", "https://host/x?X-Amz-Signature=***"),
        ("{'authorization': 'Bearer abcdefgh.ijk'}", "{'authorization': 'Bearer ***'}"),
    ],
)
def test_secrets_are_blotted_out(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_token_in_the_environment_is_blotted_out(monkeypatch, variable):
    monkeypatch.setenv(variable, "of-no-known-form")
    assert redact("401 for 'of-no-known-form'") == "401 for '***'"


@pytest.mark.parametrize(
    "text",
    [
        "bert.encoder.layer.0.attention.self.query",
        "hf_home is not writable",
        "hf_checkpoint12345678/hf_TaskFilesOfMine",
        f"hf_{TOKEN[:33]}",
        "hf_robertabasefinetunedonsst2dataset1234",
        "the bearer of the message",
        "https://huggingface.co/org/model@main",
        "name@host, 1 x 128 tokens=5",
    ],
)
def test_other_text_stays(text):
    assert redact(text) == text


def test_a_short_value_is_no_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "x")
    assert redact("max_drop") == "max_drop"
