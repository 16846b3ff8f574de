"""What a scenario claims, what was measured, and whether that holds."""

import sys
import time
from dataclasses import dataclass

HEADINGS = ("claim", "measured", "limit", "")
VERDICTS = {True: "pass", False: "FAIL", None: ""}


@dataclass(frozen=True)
class Claim:
    """A line of the table. A note claims nothing: it has no limit and neither passes nor fails."""

    claim: str
    measured: str
    limit: str = ""
    passed: bool | None = None
    about_time: bool = False
    """It depends on how fast the machine is, and on what else it does."""
    value: float | None = None


class Report:
    """Collects the claims of one run."""

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario
        self.claims: list[Claim] = []
        self._began = time.monotonic()

    def phase(self, what: str) -> None:
        """Tell whoever watches what is being done now."""
        print(f"{time.monotonic() - self._began:8.1f} s  {what}", file=sys.stderr, flush=True)

    def at_most(
        self, claim: str, value: float, limit: float, unit: str, *, about_time: bool = False, why: str = ""
    ) -> None:
        """`why` is said behind the measured value."""
        self._add(claim, value, f"<= {limit:,g} {unit}", value <= limit, unit, about_time, why)

    def at_least(
        self, claim: str, value: float, limit: float, unit: str, *, about_time: bool = False, why: str = ""
    ) -> None:
        self._add(claim, value, f">= {limit:,g} {unit}", value >= limit, unit, about_time, why)

    def holds(self, claim: str, problem: str) -> None:
        """True if there is no problem."""
        self.claims.append(Claim(claim, problem or "yes", "yes", not problem))

    def note(self, what: str, measured: str) -> None:
        self.claims.append(Claim(what, measured))

    def failed(self, *, ignoring_times: bool) -> list[Claim]:
        return [
            claim
            for claim in self.claims
            if claim.passed is False and not (ignoring_times and claim.about_time)
        ]

    def table(self) -> str:
        rows = [
            HEADINGS,
            *((one.claim, one.measured, one.limit, VERDICTS[one.passed]) for one in self.claims),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join(lines)

    def _add(
        self, claim: str, value: float, limit: str, passed: bool, unit: str, about_time: bool, why: str
    ) -> None:
        measured = f"{value:,.{0 if abs(value) >= 1000 else 2}f} {unit}{' (' + why + ')' if why else ''}"
        self.claims.append(Claim(claim, measured, limit, passed, about_time, value))
