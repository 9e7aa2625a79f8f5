"""No secret in what is shown or kept: hub tokens and credentials in addresses are blotted out."""

from __future__ import annotations

import os
import re

MARK = "***"

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

# So short a value is no token, and would blot out words.
_LEAST = 8

_PATTERNS = (
    # Hugging Face's access tokens, wherever they come from: 34 characters of both cases. Fewer
    # may be the name of a folder, which a build has to write down as it is.
    (
        re.compile(
            r"(?<![A-Za-z0-9])(hf|api_org)_"
            r"(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])[A-Za-z0-9]{34,}"
        ),
        rf"\1_{MARK}",
    ),
    # JSON Web Tokens, as signing in with OAuth gives them (RFC 7519: three parts in base64url, of
    # which the first is an object).
    (re.compile(r"(?<![A-Za-z0-9])(hf_[a-z]+_)?eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MARK),
    # user:password@ and token@ of an address.
    (re.compile(r"(?<=://)[^\s/@'\"\\]+(?=@)"), MARK),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"), rf"\1{MARK}"),
    (
        re.compile(
            r"(?i)([?&](?:access_)?(?:token|api_?key|password|secret|signature|"
            r"x-amz-signature|sig)=)[^\s&#'\"\\]+"
        ),
        rf"\1{MARK}",
    ),
)


def redact(text: str) -> str:
    """The text without secrets: `***` in the place of each.

    A secret is the value of HF_TOKEN or HUGGING_FACE_HUB_TOKEN, anything that looks like a token
    of the hub, a bearer token, and in an address user and password or a `token=` of its query.
    """
    for variable in _VARIABLES:
        value = os.environ.get(variable, "").strip()
        if len(value) >= _LEAST:
            text = text.replace(value, MARK)
    for pattern, mark in _PATTERNS:
        text = pattern.sub(mark, text)
    return text
