"""Write docs/reference/tasks.md from the built-in task files. A test holds the two together.

python tools/task_reference.py > docs/reference/tasks.md
"""

from __future__ import annotations

from stillshot.tasks import builtin_tasks, load_task


def reference() -> str:
    """The whole page."""
    rows = []
    for name in builtin_tasks():
        task = load_task(name)
        sources = [kind for kind, source in task.sources if source is not None]
        rows.append(
            f"| `{name}` | {task.description} | {', '.join(task.labels)} | {', '.join(task.patterns)} | "
            f"{', '.join(task.channels) or 'none'} | {', '.join(sources)} |"
        )
    head = (
        "# Built-in tasks\n\nMade from `stillshot/tasks/builtin`. The first pattern and channel are the defaults. "
        "Sources are tried in order; `local` is a folder named by `data.root` or `STILLSHOT_DATA`.\n\n"
        "| task | what | labels | patterns | channels | sources |\n|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
