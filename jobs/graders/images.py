"""Pictures that judges are shown: which URLs a judge's server may be told to fetch.

The server that fetches is the judge's, and the URL may hold what a model wrote: no scheme but
https, no bare address, no password. A picture may also stand in the URL itself.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from jobs.graders.grade import GradeFailure
from jobs.graders.template import Template

MAX_DATA_CHARS = 2 * 1024 * 1024

_HTTPS, _DATA = "https://", "data:image/"
_DATA_URL = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


def check_template(url: Template) -> None:
    """Raise ValueError for a template that can give no such URL, whatever its values are."""
    if url.is_fixed:
        if problem := _problem(url.source):
            raise ValueError(problem)
        return
    start = url.beginning.lower()
    if not any(start.startswith(known) or known.startswith(start) for known in (_HTTPS, _DATA)):
        raise ValueError(_WRONG_SCHEME)


def checked(url: str) -> str:
    """The URL; raises GradeFailure where a judge is not to be shown it."""
    if len(url) > MAX_DATA_CHARS:
        raise GradeFailure("truncated_observation_error", _TOO_LARGE)
    if problem := _problem(url):
        raise GradeFailure("invalid_variable_error", problem)
    return url


_WRONG_SCHEME = (
    "image_url must be an https:// URL, or data:image/...;base64, with the picture in it: nothing "
    "else is fetched for a judge"
)
_TOO_LARGE = f"image_url has more than {MAX_DATA_CHARS:,} characters"


def _problem(url: str) -> str | None:
    if len(url) > MAX_DATA_CHARS:
        return _TOO_LARGE
    if url.lower().startswith("data:"):
        if _DATA_URL.fullmatch(url) is None:
            return "image_url is no data:image/png, jpeg, webp or gif;base64, followed by base64"
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "image_url is not a URL"
    if parts.scheme != "https" or not host:
        return _WRONG_SCHEME
    if parts.username is not None or parts.password is not None:
        return "image_url carries a user name or password"
    if _is_address(host):
        return "image_url names a bare address: use a host name"
    return None


def _is_address(host: str) -> bool:
    """Also as a number or in the short forms that resolvers take, such as 127.1."""
    if re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
