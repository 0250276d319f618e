"""A model folder, put on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from stillshot.errors import WorkError


def push(folder: Path, repo: str) -> str:
    """Upload a folder as a model repository; one that is new is private.

    Args:
        folder: Holds the model and its card.
        repo: ``owner/name``, or a name of the user who is logged in.

    Returns:
        The repository's address.

    Raises:
        WorkError: The Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  (of its HTTP client)
    )

    api = HfApi()
    try:
        created = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id, folder_path=folder, commit_message="Add a student of Stillshot"
        )
    # Offline, no token, no access, a connection that breaks, a name that cannot be.
    except (OSError, HTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WorkError(
            f"The Hub did not take {repo}: {reason} The folder {folder} is complete: upload it later with "
            f"`hf upload {repo} {folder}` (after `hf auth login`)."
        ) from error
    return str(created)
