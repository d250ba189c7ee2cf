"""TLS: requests over it, clients that never shake hands, files that are no certificates."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.servers import ServerProcess

from flover.config import ServerConfig
from flover.errors import ConfigError
from flover.server.tls import tls_context


def write_certificate(folder: Path, password: bytes | None = None) -> tuple[str, str]:
    """A certificate of 127.0.0.1 by itself, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    host = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(host, critical=False).sign(key, hashes.SHA256())
    closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, closed))
    return str(paths[0]), str(paths[1])


def test_https_and_clients_that_never_shake_hands(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    limits = {"header_timeout": 1.0}
    server = start(server={"ssl_certfile": certificate, "ssl_keyfile": key, "limits": limits})
    assert server.url.startswith("https://")
    port = int(server.url.rpartition(":")[2])
    began = time.monotonic()
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
    context = ssl.create_default_context(cafile=certificate)
    with httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False) as client:
        answer = client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 3})
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        assert "https://" in server.output[-1]
    for one in silent:
        assert one.recv(1) == b"", "a connection without a handshake is closed"
        one.close()
    assert 0.9 < time.monotonic() - began < 8
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"HTTP/1.1" not in plain.recv(100), "no plain HTTP on a port with TLS"
    plain.close()


def test_files_that_are_no_certificates_are_refused_by_name(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    assert tls_context(ServerConfig()) is None
    for files, words in (
        ({"ssl_certfile": key}, "--ssl-certfile .*key.pem: not a certificate"),
        ({"ssl_certfile": "/nowhere", "ssl_keyfile": key}, "--ssl-certfile /nowhere --ssl-keyfile .*: cannot be read"),
    ):
        with pytest.raises(ConfigError, match=words):
            tls_context(ServerConfig(**files))
    certificate, key = write_certificate(tmp_path, b"secret")
    with pytest.raises(ConfigError, match="has a password"):
        tls_context(ServerConfig(ssl_certfile=certificate, ssl_keyfile=key))
    with pytest.raises(ConfigError, match="--ssl-keyfile needs --ssl-certfile"):
        ServerConfig(ssl_keyfile=key)
