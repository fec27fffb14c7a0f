"""A server that speaks TLS, and certificates for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from examples.support.mariadb import PrivateServer
from tests.conftest import MySQL

_PEM = serialization.Encoding.PEM


def certify(directory: Path, name: str = "cert") -> Path:
    """Write a certificate that has signed itself, and beside it its key; returns the certificate's path."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / name
    path.write_bytes(certificate.public_bytes(_PEM))
    plain = serialization.NoEncryption()
    (directory / f"{name}.key").write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain))
    return path


@contextmanager
def tls_server_in(directory: Path) -> Iterator[MySQL]:
    """Give a private server with the certificate ``cert`` in *directory*."""
    path = certify(directory)
    with PrivateServer(options=[f"--ssl-cert={path}", f"--ssl-key={path}.key"]) as private:
        yield MySQL(private.endpoint)
