"""What the doctor says of one thing that it has found. Owns the form, and no finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Something to know."""

    name: str
    problem: bool
    """Whether something will go wrong; else it is a note."""
    finding: str
    why: str
    remedy: str
