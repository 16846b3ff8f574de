"""Configuration: where a value comes from, what is refused, and how a refusal reads."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from leveret.broker.daemon.config import OPTIONS, Config, ConfigError, load


def write(directory: Path, text: str) -> Path:
    file = directory / "leveret.toml"
    file.write_text(text)
    return file


def refusal(flags: dict[str, str] | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, None)
    return str(caught.value)


def test_without_any_source_everything_is_the_default() -> None:
    assert load({}, {}, None) == Config()


def test_defaults_are_those_of_the_reference() -> None:
    config = Config()
    assert (config.channel_max, config.frame_max_bytes, config.heartbeat_s) == (2047, 131072, 60)
    assert config.message_size_max_bytes == 16 * 1024 * 1024, "as in RabbitMQ 4"
    assert config.loopback_users == ("guest",)


def test_every_option_has_a_flag_a_variable_and_help() -> None:
    assert set(OPTIONS) == {declared.name for declared in fields(Config)}
    option = OPTIONS["frame_max_bytes"]
    assert (option.flags[0], option.variable) == ("--frame-max-bytes", "LEVERET_FRAME_MAX_BYTES")
    assert option.help == "Largest AMQP frame. [LEVERET_FRAME_MAX_BYTES; default: 131072]"


def test_a_default_that_is_worked_out_is_described() -> None:
    assert OPTIONS["disk_free_limit_bytes"].help == (
        "Free room on the disk below which publishers are blocked. "
        "[LEVERET_DISK_FREE_LIMIT_BYTES; default: 256 MiB, or 15 % of a smaller file system]"
    )
    assert all(option.about.default for option in OPTIONS.values() if option.default is None)
    assert load({"disk_free_limit_bytes": "1"}, {}, None).disk_free_limit_bytes == 1


def test_every_default_passes_its_own_validation() -> None:
    for option in OPTIONS.values():
        default = option.default
        if default is None:
            continue
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        assert option.read(text, "its default") == default


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "port = 1\nhttp_port = 1\nchannel_max = 1\n")
    config = load({"port": "3"}, {"LEVERET_PORT": "2", "LEVERET_HTTP_PORT": "2"}, file)
    assert (config.port, config.http_port, config.channel_max, config.heartbeat_s) == (3, 2, 1, 60)


def test_values_get_their_types(tmp_path: Path) -> None:
    file = write(tmp_path, 'loopback_users = ["a", "b"]\nhandshake_timeout_s = 3\ndata_dir = "/x"\n')
    config = load({"shutdown_grace_s": "0.5"}, {}, file)
    assert config.loopback_users == ("a", "b")
    assert config.handshake_timeout_s == 3.0
    assert isinstance(config.handshake_timeout_s, float)
    assert config.data_dir == Path("/x")
    assert config.shutdown_grace_s == 0.5


def test_a_list_in_text_is_split_at_commas_and_may_be_empty() -> None:
    assert load({"loopback_users": " a, b ,"}, {}, None).loopback_users == ("a", "b")
    assert load({}, {"LEVERET_LOOPBACK_USERS": ""}, None).loopback_users == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("port", "many", "port must be a whole number or none, not 'many' (from --port)"),
        ("port", "70000", "port must be at most 65535, not '70000' (from --port)"),
        ("port", "-1", "port must be at least 0, not '-1' (from --port)"),
        ("heartbeat_s", "1.5", "heartbeat_s must be a whole number, not '1.5' (from --heartbeat-s)"),
        ("shutdown_grace_s", "nan", "shutdown_grace_s must be a number, not 'nan' (from --shutdown-grace-s)"),
        ("engine", "disk", "engine must be one of lmdb, memory, not 'disk' (from --engine)"),
        ("host", "", "host must not be empty, not '' (from --host)"),
        ("data_dir", "", "data_dir must not be empty, not '' (from --data-dir)"),
    ],
)
def test_a_bad_flag_is_refused_by_name_and_source(name: str, text: str, message: str) -> None:
    assert refusal({name: text}) == message


TLS = {"tls_port": "5671", "tls_certificate": "/cert.pem", "tls_key": "/key.pem"}


def test_tls_is_off_until_it_is_set_up() -> None:
    assert Config().tls_port is None
    config = load({**TLS, "tls_client_ca": "/ca.pem", "port": "none"}, {}, None)
    assert (config.port, config.tls_port, config.tls_key) == (None, 5671, Path("/key.pem"))
    assert config.tls_client_ca == Path("/ca.pem")


@pytest.mark.parametrize("missing", TLS)
def test_half_of_tls_is_refused(missing: str) -> None:
    assert (
        refusal({name: text for name, text in TLS.items() if name != missing}) == f"TLS needs {missing}, too"
    )


def test_a_client_ca_without_tls_is_refused() -> None:
    message = "TLS needs tls_port and tls_certificate and tls_key, too"
    assert refusal({"tls_client_ca": "/ca.pem"}) == message


def test_a_broker_without_any_port_is_refused() -> None:
    assert refusal({"port": "none"}) == "port is none, and there is no tls_port: nobody could connect"


def test_a_bad_variable_is_named() -> None:
    assert refusal(environ={"LEVERET_PORT": "tcp://10.0.0.1:5672"}).endswith("(from LEVERET_PORT)")


@pytest.mark.parametrize("value", ["true", "[5672]", "5672.0", '"x"'])
def test_a_file_with_a_value_of_the_wrong_type_is_refused(tmp_path: Path, value: str) -> None:
    file = write(tmp_path, f"port = {value}\n")
    with pytest.raises(
        ConfigError, match=r"port must be a whole number or none, not .* \(from .*leveret.toml\)"
    ):
        load({}, {}, file)


def test_an_unknown_key_of_the_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = write(tmp_path, "heartbaet = 5\n")
    with pytest.raises(ConfigError, match=r"unknown option heartbaet .*, did you mean heartbeat\?"):
        load({}, {}, file)


def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load({}, {}, tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is not TOML"):
        load({}, {}, write(tmp_path, "port: 5672\n"))


def test_the_password_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(load({"default_password": "s3cret"}, {}, None))


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]  # the point of the test


def test_the_unit_of_a_name_may_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "leveret.toml"
    file.write_text("heartbeat = 7\n")
    assert load({}, {}, file).heartbeat_s == 7
    assert load({}, {"LEVERET_HEARTBEAT": "8"}, file).heartbeat_s == 8
    assert OPTIONS["shutdown_grace_s"].flags == ("--shutdown-grace-s", "--shutdown-grace")
    assert OPTIONS["port"].flags == ("--port",)
