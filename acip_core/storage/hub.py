"""What lies on the Hugging Face Hub: fetch an artifact or a file by name and revision, publish a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import HubError
from ..paths import exists_here, local_path
from .network import hub_reachable, offline_mode

_ARTIFACT_FILES = ("*.json", "*.safetensors", "README.md")


@dataclass(frozen=True)
class HubConfig:
    """How files are fetched from the Hub, in the words of transformers' `from_pretrained`.

    Attributes:
        token: of an account; None or True for the one that `hf auth login` or `HF_TOKEN` left, False for none.
        cache_dir: folder of the copies; the Hub library's own by default.
        local_files_only: ask nobody, copies on this machine only.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def why_offline(self) -> str:
        """Why only copies on this machine count; empty where the Hub is asked."""
        if self.local_files_only:
            return "local_files_only is set"
        return "" if hub_reachable() else _why_offline()


def split_revision(name: str) -> tuple[str, str | None]:
    """`user/repo@v1.0` as its parts; no revision stands for the newest."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def is_on_hub(name: str | Path) -> bool:
    """Whether a name is that of a repository, `user/repo` or `user/repo@revision`, and no folder here has it."""
    text = str(name)
    if isinstance(name, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        return False
    return not exists_here(text)


@dataclass(frozen=True)
class Repository:
    """A repository whose files are fetched one by one.

    Attributes:
        name: `user/repo` or `user/repo@revision`.
    """

    name: str
    options: HubConfig = HubConfig()

    def file(self, path: str) -> Path | None:
        """A copy of one of its files; None where it has none of that name, or offline none was fetched before.

        Raises:
            HubError: there is no such repository or revision, it is private, or the connection broke.
        """
        repo, revision = split_revision(self.name)
        offline = self.options.why_offline()
        with _reporting_hub_errors(self.name, offline):
            try:
                copy = hf_hub_download(
                    repo,
                    path,
                    revision=revision,
                    endpoint=_endpoint(),
                    token=self.options.token,
                    cache_dir=self.options.cache_dir,
                    local_files_only=bool(offline),
                )
            except EntryNotFoundError as error:
                if isinstance(error, FileNotFoundError) and not offline:  # the library asked, and got no answer
                    raise
                return None
        return Path(copy)


def artifact_folder(name: str | Path, hub: HubConfig = HubConfig()) -> Path:
    """The folder of an artifact: a folder on this machine as it is, or a copy of what the Hub has under that name.

    Args:
        name: a folder, or `user/repo`, `user/repo@revision`. A folder of that name comes first.

    Raises:
        HubError: there is no such repository or revision, it is private, or it cannot be reached and was never fetched.
    """
    text = str(name)
    if not is_on_hub(name):
        return local_path(text)
    repo, revision = split_revision(text)
    offline = hub.why_offline()
    with _reporting_hub_errors(text, offline):
        copy = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(_ARTIFACT_FILES),
            endpoint=_endpoint(),
            token=hub.token,
            cache_dir=hub.cache_dir,
            local_files_only=bool(offline),
        )
    if not (Path(copy) / "acip.json").is_file():
        raise HubError(f"The repository '{text}' holds no artifact (no acip.json); check the name.")
    return Path(copy)


def check_publishable(repo: str, token: str | bool | None = None) -> None:
    """Refuse to start work whose result could not be published: no network, nobody logged in, not a name.

    Raises:
        HubError: one sentence.
    """
    if repo.count("/") != 1 or "@" in repo:
        raise HubError(f"'{repo}' is not a repository's name; write it as user/repo.")
    if not hub_reachable():
        raise HubError(f"Nothing can be published as '{repo}': {_why_offline()}.")
    with _reporting_hub_errors(repo):
        HfApi(_endpoint(), token).whoami()


def publish(folder: Path, repo: str, private: bool = False, token: str | bool | None = None) -> str:
    """Upload a folder, making the repository where there is none.

    Returns:
        Its address.

    Raises:
        HubError: one sentence; the folder stays.
    """
    if not folder.is_dir() or not any((folder / name).is_file() for name in ("acip.json", "config.json")):
        raise HubError(f"{folder} is neither an artifact nor an exported model; name the folder of one.")
    return upload(folder, repo, private, token)


def upload(folder: Path, repo: str, private: bool = False, token: str | bool | None = None) -> str:
    """As `publish`, whatever the folder holds."""
    check_publishable(repo, token)
    api = HfApi(_endpoint(), token)
    with _reporting_hub_errors(repo):
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=[".*"], commit_message="Upload by acip")
    return str(address)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _why_offline() -> str:
    return "HF_HUB_OFFLINE is set" if offline_mode() else "the Hub cannot be reached; connect to the network"


@contextmanager
def _reporting_hub_errors(name: str, offline: str = "") -> Iterator[None]:
    """Turn what the Hub's library raises into one sentence.

    Args:
        offline: why only copies on this machine count, if so.
    """
    try:
        yield
    except (GatedRepoError, LocalTokenNotFoundError):
        raise HubError(f"'{name}' needs an account: run `hf auth login` or set HF_TOKEN, then try again.") from None
    except RevisionNotFoundError:
        raise HubError(f"'{name}' has no such revision; leave out what follows the @, or check it.") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"There is no repository '{name}' on the Hub, or it is private: check the name, or run `hf auth login`."
        ) from None
    except HFValidationError:
        raise HubError(f"'{name}' is not a repository's name; write it as user/repo or user/repo@revision.") from None
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise HubError(
                f"The Hub refuses '{name}' ({code}): run `hf auth login` with a token that may write there."
            ) from None
        raise HubError(f"The Hub answered {code} to '{name}'; try again later.") from error
    except (HTTPError, OSError, ValueError) as error:  # a broken connection; LocalEntryNotFoundError
        if offline:
            raise HubError(
                f"There is neither a folder nor an earlier copy of '{name}' on this machine, and {offline}."
            ) from None
        raise HubError(f"The Hub cannot be asked for '{name}' ({error}); try again later.") from error
