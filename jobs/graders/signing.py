"""How an endpoint knows who asks: Standard Webhooks, with a secret of each project's own.

A project that could sign as another would be believed by the other's endpoint, and whoever runs an
endpoint must know its secret. So none is shared: each is derived from the operator's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"
_PURPOSE = b"honed endpoint grader\0"


def project_key(server_key: bytes, project_id: str) -> bytes:
    """HMAC-SHA256(server's key, purpose + project): from it nobody finds another project's."""
    return hmac.new(server_key, _PURPOSE + project_id.encode(), hashlib.sha256).digest()


def shown_secret(key: bytes) -> str:
    """A key as Standard Webhooks' libraries take it."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def signature(keys: Sequence[bytes], body: bytes, message_id: str) -> dict[str, str]:
    """Headers by which a receiver knows the sender, https://www.standardwebhooks.com.

    webhook-signature = "v1," + base64(HMAC-SHA256(key, id.timestamp.body)), one for each key with
    spaces between: a receiver that knows any of them is content.
    """
    timestamp = str(int(time.time()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests),
    }
