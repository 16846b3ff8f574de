"""The files of TLS: what is wrong with them is said before anybody can connect."""

import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Certificate, make_certificate

from leveret.broker.daemon.config import Config, ConfigError
from leveret.broker.daemon.tls import make_context


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path / "broker")


@pytest.fixture
def config(certificate: Certificate) -> Config:
    return Config(tls_port=0, tls_certificate=certificate.file, tls_key=certificate.key_file)


def refusal(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        make_context(config)
    return str(caught.value)


def test_nothing_older_than_tls_1_2_and_nobody_is_asked_for_a_certificate(config: Config) -> None:
    context = make_context(config)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE


def test_with_a_client_ca_every_client_is_asked(config: Config, certificate: Certificate) -> None:
    context = make_context(replace(config, tls_client_ca=certificate.file))
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("option", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_a_file_that_is_missing_or_something_else_is_named(
    config: Config, tmp_path: Path, option: str
) -> None:
    file = tmp_path / "file"
    changed = replace(config, **{option: file})  # type: ignore[arg-type]  # the three of them are paths
    assert refusal(changed) == f"{option} {file} cannot be read: No such file or directory"
    file.write_bytes(b"\xff\x00")
    assert refusal(changed).startswith(f"{option} {file} has no -----BEGIN ")


@pytest.mark.parametrize("option", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_a_damaged_file_is_named(
    config: Config, certificate: Certificate, tmp_path: Path, option: str
) -> None:
    source = certificate.key_file if option == "tls_key" else certificate.file
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("".join(source.read_text().splitlines(keepends=True)[:2]))
    message = refusal(replace(config, **{option: damaged}))  # type: ignore[arg-type]  # as above
    assert f"{option} {damaged}" in message
    assert "cannot be used" in message


def test_a_key_of_another_certificate_is_refused(config: Config, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other").key_file
    assert refusal(replace(config, tls_key=other)) == (
        f"tls_key {other} does not belong to tls_certificate {config.tls_certificate}"
    )


def test_an_encrypted_key_is_refused_instead_of_asked_for(config: Config, tmp_path: Path) -> None:
    encrypted = tmp_path / "encrypted.pem"
    encrypt = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret"]
    files = ["-in", str(config.tls_key), "-out", str(encrypted)]
    subprocess.run([*encrypt, *files], check=True, capture_output=True)
    assert f"tls_key {encrypted} is encrypted" in refusal(replace(config, tls_key=encrypted))
