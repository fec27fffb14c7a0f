"""The report as JSON. Its keys are documented in the guide's chapter on the audit and stay; new ones may come."""

from __future__ import annotations

import json

from .findings import Report

VERSION = 1


def render(report: Report) -> str:
    """Return one JSON object."""
    return (
        json.dumps(
            {
                "version": VERSION,
                "places": [place.as_dict() for place in report.places],
                "findings": [finding.as_dict() for finding in report.findings],
                "handlers": [handler.as_dict() for handler in report.handlers],
                "errors": report.errors,
                "summary": report.summary(),
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )
