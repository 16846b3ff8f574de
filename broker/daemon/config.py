"""Configuration: every option is declared once, as a field of `Config`.

A field's annotation is the option's type, its default the default; its name ends with the unit and its
metadata holds the help text and the limits. From that come the command-line flag (`--heartbeat-s`), the key
of the TOML file (`heartbeat_s`) and the environment variable (`LEVERET_HEARTBEAT_S`); all three may also be
given without the unit (`--heartbeat`). What is set in several places is taken from the command line, else the
environment, else the file, else the default.

`load` validates everything and makes the one `Config` of the process. It is frozen and handed down, never
global.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

KIB = 1024
MIB = 1024 * KIB
PORT_MAX = 65535
UNITS = ("s", "ms", "bytes")  # with which names end


class ConfigError(Exception):
    """An option that cannot be used; the message names it and says where the value came from."""


@dataclass(frozen=True, slots=True)
class About:
    """What a field of `Config` cannot say by its name, type and default."""

    explanation: str
    default: str | None = None  # in words, where the field's own is None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False
    shown: bool = True  # in --help


def _about(explanation: str, **limits: Any) -> dict[str, About]:
    """The metadata of a field; `limits` are fields of `About`."""
    return {"about": About(explanation, **limits)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one broker."""

    data_dir: Path = field(
        default=Path("data"),
        metadata=_about("Directory that holds everything durable; made when missing."),
    )
    engine: str = field(
        default="lmdb",
        metadata=_about("Where messages are stored; memory forgets at exit.", choices=("lmdb", "memory")),
    )

    host: tuple[str, ...] = field(
        default=("127.0.0.1",),
        metadata=_about("Addresses to listen on for AMQP and the native protocol, with commas."),
    )
    port: int | None = field(
        default=5672,
        metadata=_about(
            "Port for AMQP and the native protocol; 0: any free one, none: TLS only.",
            minimum=0,
            maximum=PORT_MAX,
        ),
    )
    tls_port: int | None = field(
        default=None,
        metadata=_about(
            "Port for both over TLS, usually 5671; 0: any free one.",
            default="none",
            minimum=0,
            maximum=PORT_MAX,
        ),
    )
    tls_certificate: Path | None = field(
        default=None,
        metadata=_about(
            "PEM file with the certificate that TLS clients are shown, and those that vouch for it.",
            default="none",
        ),
    )
    tls_key: Path | None = field(
        default=None,
        metadata=_about("PEM file with that certificate's private key, not encrypted.", default="none"),
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata=_about(
            "PEM file with who vouches for clients; with it, each TLS client must show a certificate.",
            default="none",
        ),
    )
    http_host: str = field(
        default="127.0.0.1",
        metadata=_about("Address to listen on for health checks and metrics."),
    )
    http_port: int = field(
        default=15672,
        metadata=_about("Port for health checks and metrics; 0: any free one.", minimum=0, maximum=PORT_MAX),
    )

    log_level: str = field(
        default="info",
        metadata=_about("Least urgent level to log.", choices=("debug", "info", "warning", "error")),
    )
    log_format: str = field(
        default="text",
        metadata=_about("A line of text or a JSON object per event.", choices=("text", "json")),
    )

    default_user: str = field(default="guest", metadata=_about("The user who may log in."))
    default_password: str = field(default="guest", repr=False, metadata=_about("That user's password."))
    loopback_users: tuple[str, ...] = field(
        default=("guest",),
        metadata=_about("Users who may log in from this machine only, with commas.", may_be_empty=True),
    )

    # Limits and timeouts are RabbitMQ's defaults, because the clients' defaults are tuned to them.
    heartbeat_s: int = field(
        default=60,
        metadata=_about("Heartbeat interval proposed to clients; 0: none.", minimum=0, maximum=0xFFFF),
    )
    frame_max_bytes: int = field(
        default=128 * KIB,
        metadata=_about("Largest AMQP frame.", minimum=8 * KIB, maximum=16 * MIB),
    )
    channel_max: int = field(
        default=2047,
        metadata=_about("Most channels on one connection.", minimum=1, maximum=0xFFFF),
    )
    message_size_max_bytes: int = field(
        default=16 * MIB,
        metadata=_about("Largest message body.", minimum=1, maximum=512 * MIB),
    )
    connections_max: int = field(
        default=10_000,
        metadata=_about("Most connections at a time.", minimum=1),
    )
    handshake_timeout_s: float = field(
        default=10.0,
        metadata=_about("Time that a client has to log in.", minimum=0.01),
    )
    checkpoint_bytes: int = field(
        default=32 * MIB,
        metadata=_about("Growth of the log between checkpoints; a start replays up to that much.", minimum=1),
    )
    consumer_timeout_ms: int = field(
        default=1_800_000,
        metadata=_about(
            "Time until a delivery without ack is taken back, where its queue says nothing; 0: for ever.",
            minimum=0,
        ),
    )
    producer_ttl_s: float = field(
        default=86_400.0,
        metadata=_about(
            "Time until a producer of the native protocol without a channel is forgotten.", minimum=0
        ),
    )
    memory_high_watermark: float = field(
        default=0.6,
        metadata=_about(
            "Share of the machine's memory above which publishers are blocked.", minimum=0, maximum=1
        ),
    )
    disk_free_limit_bytes: int | None = field(
        default=None,
        metadata=_about(
            "Free room on the disk below which publishers are blocked.",
            default="256 MiB, or 15 % of a smaller file system",
            minimum=0,
        ),
    )
    shutdown_grace_s: float = field(
        default=30.0,
        metadata=_about("Time for work under way when the broker is told to stop.", minimum=0),
    )

    # Clients switch features on and off by these two (kombu, Bunny, the Java client).
    server_product: str = field(
        default="RabbitMQ", metadata=_about("Product name that AMQP clients are told.")
    )
    server_version: str = field(default="3.13.7", metadata=_about("Version that AMQP clients are told."))

    sync_delay_ms: float = field(
        default=0.0,
        metadata=_about("Time added to every sync, to measure with a slower disk.", minimum=0, shown=False),
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for options that do not go together."""
        missing = [name for name in ("tls_port", "tls_certificate", "tls_key") if getattr(self, name) is None]
        if 0 < len(missing) < 3 or (missing and self.tls_client_ca is not None):
            raise ConfigError(f"TLS needs {' and '.join(missing)}, too")
        if self.port is None and self.tls_port is None:
            raise ConfigError("port is none, and there is no tls_port: nobody could connect")


@dataclass(frozen=True, slots=True)
class Option:
    """A field of `Config`, with the names it has elsewhere."""

    name: str
    type: object
    default: object
    about: About

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, and the one without the unit if it has one."""
        bare, _, unit = self.name.rpartition("_")
        return (self.name, bare) if unit in UNITS else (self.name,)

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple("--" + name.replace("_", "-") for name in self.names)

    @property
    def variable(self) -> str:
        return _variable(self.name)

    @property
    def help(self) -> str:
        default = self.about.default or self.default
        default = ",".join(default) if isinstance(default, tuple) else default
        choices = f" One of: {', '.join(self.about.choices)}." if self.about.choices else ""
        return f"{self.about.explanation}{choices} [{self.variable}; default: {default}]"

    def read(self, value: object, source: str) -> object:
        """Give a value the option's type and hold it to the limits. Text is parsed, as a TOML file may have
        either.

        Raises:
            ConfigError: naming the option and the source.
        """
        wanted, parse = _TYPES[self.type]
        try:
            parsed = parse(value)
        except ValueError:
            raise ConfigError(f"{self.name} must be {wanted}, not {value!r} (from {source})") from None
        rule = self._broken_rule(parsed)
        if rule is not None:
            raise ConfigError(f"{self.name} must {rule}, not {value!r} (from {source})")
        return parsed

    def _broken_rule(self, value: object) -> str | None:
        about = self.about
        if value in ("", Path(), ()) and not about.may_be_empty:
            return "not be empty"
        if about.choices and value not in about.choices:
            return f"be one of {', '.join(about.choices)}"
        if isinstance(value, int | float):
            if about.minimum is not None and value < about.minimum:
                return f"be at least {about.minimum}"
            if about.maximum is not None and value > about.maximum:
                return f"be at most {about.maximum}"
        return None


def _variable(name: str) -> str:
    return "LEVERET_" + name.upper()


def _parse_int(value: object) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _parse_int_or_none(value: object) -> int | None:
    return None if value == "none" else _parse_int(value)


def _parse_float(value: object) -> float:
    number = float(value) if isinstance(value, str | float) else float(_parse_int(value))
    if not math.isfinite(number):
        raise ValueError
    return number


def _parse_text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError


def _parse_path(value: object) -> Path:
    return Path(_parse_text(value))


def _parse_names(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else _parse_text(value).split(",")
    return tuple(stripped for name in names if (stripped := _parse_text(name).strip()))


_TYPES: Mapping[object, tuple[str, Callable[[object], object]]] = {
    int: ("a whole number", _parse_int),
    int | None: ("a whole number or none", _parse_int_or_none),
    float: ("a number", _parse_float),
    str: ("text", _parse_text),
    Path: ("a path", _parse_path),
    Path | None: ("a path", _parse_path),
    tuple[str, ...]: ("a list of names", _parse_names),
}

OPTIONS: Mapping[str, Option] = {
    declared.name: Option(declared.name, declared.type, declared.default, declared.metadata["about"])
    for declared in fields(Config)
}


_BY_ANY_NAME = {name: option for option in OPTIONS.values() for name in option.names}


def load(flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None) -> Config:
    """Merge the sources and validate. `flags` maps option names to the text given on the command line.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    values: dict[str, Any] = {}
    for name, value, source in (*_from_file(file), *_from_environment(environ), *_from_flags(flags)):
        values[name] = OPTIONS[name].read(value, source)
    return Config(**values)


def _from_file(file: Path | None) -> Iterator[tuple[str, object, str]]:
    if file is None:
        return
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    for name, value in document.items():
        option = _BY_ANY_NAME.get(name)
        if option is None:
            near = difflib.get_close_matches(name, _BY_ANY_NAME, 1)
            suggestion = f", did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown option {name} (from {file}){suggestion}")
        yield option.name, value, str(file)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    for name, option in _BY_ANY_NAME.items():
        variable = _variable(name)
        if variable in environ:
            yield option.name, environ[variable], variable


def _from_flags(flags: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    for name, value in flags.items():
        yield name, value, OPTIONS[name].flags[0]
