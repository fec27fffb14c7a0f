"""The report as SARIF 2.1.0, which code hosts show beside the source."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from .findings import Finding, Report
from .rules import CODES, RULES

LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render(report: Report) -> str:
    """Return one SARIF log with one run. What is migrated is left out, what a baseline lists is suppressed."""
    results = [_result(finding) for finding in report.findings if finding.open or finding.baselined]
    notifications = [
        {
            "level": "error",
            "message": {"text": error["message"]},
            "locations": [_location(error["file"], error["line"])],
        }
        for error in report.errors
    ]
    run = {
        "tool": {
            "driver": {
                "name": "offload-db audit",
                "rules": [
                    {
                        "id": rule.code,
                        "name": rule.name,
                        "shortDescription": {"text": rule.summary},
                        "fullDescription": {"text": rule.explanation},
                    }
                    for rule in RULES
                ],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notifications}],
        "results": results,
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _result(finding: Finding) -> dict[str, Any]:
    where = f" ({', '.join(map(str, finding.endpoints))})" if finding.endpoints else ""
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": CODES.index(finding.rule),
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.function}{where}: {finding.message}"},
        "locations": [_location(finding.file, finding.line, finding.column)],
        "partialFingerprints": {"offloadDb/v1": finding.fingerprint},
        "properties": {"severity": finding.severity, "via": list(finding.via), "chain": list(finding.chain)},
    }
    if finding.baselined:
        result["suppressions"] = [{"kind": "external"}]
    return result


def _location(file: str, line: int, column: int = 1) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": ("file://" if file.startswith("/") else "") + quote(file)},
            "region": {"startLine": line, "startColumn": column},
        }
    }
