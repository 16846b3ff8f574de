"""A certificate for 127.0.0.1 that nobody but a test trusts, made by the `openssl` command."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """`file` is also whom to trust: it is its own authority."""

    file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key_file)
        return context

    def client_context(self, shown: "Certificate | None" = None) -> ssl.SSLContext:
        """Of a client that trusts this one, and shows the other."""
        context = ssl.create_default_context(cafile=str(self.file))
        if shown is not None:
            context.load_cert_chain(shown.file, shown.key_file)
        return context


def make_certificate(folder: Path) -> Certificate:
    """A new one, good for a day, in a folder that is made when missing."""
    folder.mkdir(exist_ok=True)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate = Certificate(folder / "cert.pem", folder / "key.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    )
    files = ["-keyout", str(certificate.key_file), "-out", str(certificate.file)]
    extension = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files, *extension], check=True, capture_output=True)
    return certificate
