"""How a client gets to the API of a job: where it is, with which key, and how it knows that it is this job's.

Doesn't speak HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass, field

SECRET_HEADER = "X-Helix-Secret"
"""Of a request that changes a job: the job's secret."""

CONTROL = "/helix/control"
"""Where such requests go."""


@dataclass(frozen=True, slots=True)
class Access:
    """An API at ``url``, the ``key`` that it asks for, and the file of the ``certificate`` that it has itself."""

    url: str
    key: str | None = field(default=None, repr=False)
    certificate: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Of each request."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """Whom to believe: exactly the job's own certificate, where it is known, whatever name is in it."""
        if self.certificate is None:
            return self.url.startswith("https:")
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def operator_key(secret: str) -> str:
    """The API key that a job takes from its own tools, for whoever knows its secret."""
    return "hdf-" + hmac.new(secret.encode(), b"helix-df API", hashlib.sha256).hexdigest()
