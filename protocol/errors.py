"""What can go wrong on a wire, on two axes: how far it reaches, and with which reply code.

- `AmqpError`: carries `reply_code`, `reply_text` and, where one is to blame, the failing method.
    - `SoftError`: closes the channel; the connection lives on. (AMQP calls it a soft error.)
    - `HardError`: closes the connection and all of its channels. (A hard error.)

The domain raises these; a session turns them into its wire's close. Nothing else may leave a parser.
"""

from .reply_codes import ReplyCode

REPLY_TEXT_MAX_BYTES = 255  # reply-text is a short string (0-9-1 section 4.2.5.3)


class AmqpError(Exception):
    """An error that a peer is told about as a reply code and a text."""

    def __init__(self, reply_code: ReplyCode, explanation: str, method: tuple[int, int] = (0, 0)) -> None:
        """`explanation` is the text after the code's name; `method` is (class id, method id) or (0, 0)."""
        super().__init__(explanation)
        self.reply_code = reply_code
        self.explanation = explanation
        self.method = method

    @property
    def reply_text(self) -> str:
        """`NAME - explanation`, cut to what a short string holds."""
        text = f"{self.reply_code.name} - {self.explanation}"
        return text.encode()[:REPLY_TEXT_MAX_BYTES].decode(errors="ignore")

    def __str__(self) -> str:
        return f"{int(self.reply_code)} {self.reply_text}"


class SoftError(AmqpError):
    """Closes the channel it happened on."""


class HardError(AmqpError):
    """Closes the connection it happened on."""
