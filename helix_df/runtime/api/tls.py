"""The API's side of TLS. Doesn't know HTTP."""

from __future__ import annotations

import ssl
from pathlib import Path

from helix_df.errors import DeploymentError


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """What a server with this certificate (and those up to its authority) and private key speaks: TLS 1.2 and later.

    Raises:
        DeploymentError: with the field of the job at fault.
    """
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise DeploymentError(
                f"the API's {name} can't be read", where=f"runtime.tls.{name}", found=f"{path}: {error.strerror}"
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def password() -> str:
        raise DeploymentError(
            "the API's key has a password, and nobody is there to type it", where="runtime.tls.key", found=key
        )

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        mismatch = "KEY_VALUES_MISMATCH" in str(error)
        raise DeploymentError(
            "the API's certificate and key don't belong together" if mismatch else "no certificate and key are there",
            where="runtime.tls",
            found=f"{certificate}, {key}: {error.reason or error}",
            expected="two files in PEM",
        ) from error
    return context
