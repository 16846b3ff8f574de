"""Puts a load on a broker that just started."""

from . import backlog, churn, flow
from .runs import Run
from .scenarios import Backlog, Churn, Flow, Scenario
from .subject import Subject


def measure(scenario: Scenario, subject: Subject) -> Run:
    """Raises LoadFailed if the load could not be put on it at all."""
    match scenario:
        case Flow():
            return flow.run(scenario, subject)
        case Backlog():
            return backlog.run(scenario, subject)
        case Churn():
            return churn.run(scenario, subject)
    raise TypeError(f"nobody knows how to run {scenario}")
