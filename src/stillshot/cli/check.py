"""``stillshot check``: all that can fail, before any model runs."""

from __future__ import annotations

from dataclasses import asdict

from stillshot.cli.arguments import AsJson, Overrides, RecipePath, echo_json, read_recipe, require_models
from stillshot.cli.console import echo
from stillshot.errors import StillshotError


def check(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Look at all that can fail, before any model runs.

    Also says how much of the data will be used, how often, and how much is asked of the teacher.

    \b
    Example:
      stillshot check recipe.yaml
    """
    try:
        asked = read_recipe(recipe, overrides)
        require_models(asked)
        from stillshot.evaluate.runner import quiet_libraries
        from stillshot.methods import check as checks

        quiet_libraries()
        findings = checks.check(asked)
    except StillshotError as error:
        if as_json:
            echo_json({"ok": False, "error": str(error), "findings": []})
        raise
    if as_json:
        rows = [asdict(finding) for finding in findings]
        echo_json({"ok": True, "error": None, "findings": rows})
        return
    width = max(len(finding.what) for finding in findings if not finding.warning)
    for finding in findings:
        if not finding.warning:
            echo(f"{finding.what:<{width}}  {finding.detail}")
    for finding in findings:
        if finding.warning:
            echo(f"warning: {finding.what}: {finding.detail}", err=True)
