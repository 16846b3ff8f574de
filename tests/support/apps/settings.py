"""What a test tells the processes of its application, through their environment."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .journal import Journal

_VARIABLE = "APP_SETTINGS"


@dataclass(frozen=True)
class Settings:
    url: str
    prefix: str  # of everything that the application makes on the broker; the name of its queue
    folder: str  # where its processes meet: the journal, logs, results, what releases tasks
    conf: dict[str, Any] = field(default_factory=dict)  # the framework's own settings

    @classmethod
    def of_this_process(cls) -> "Settings":
        return cls(**json.loads(os.environ[_VARIABLE]))

    def environment(self) -> dict[str, str]:
        return {_VARIABLE: json.dumps(asdict(self))}

    @property
    def journal(self) -> Journal:
        return Journal(Path(self.folder) / "journal")

    def release(self, key: str) -> None:
        """Let the job that waits for this key go on."""
        self._gate(key).touch()

    def is_released(self, key: str) -> bool:
        return self._gate(key).exists()

    def _gate(self, key: str) -> Path:
        return Path(self.folder) / f"release-{key}"
