"""Files of the Hugging Face hub, through its own client and its own cache; the hash of each is checked every time.

The client is optional (extra ``hub``). It is asked for a fixed revision, so a file that is in the cache needs no
network. It does not hash what it finds there, so that is done here.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from taesd_core.tensor_file import shorten


class HubError(Exception):
    """A file cannot be had; the message is for the middle of a sentence."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a fixed revision."""

    repository: str
    """``owner/name``."""
    revision: str
    """The commit, 40 digits."""
    name: str
    """In the repository."""
    sha256: str
    """What it must hold."""


def find_cached(file: HubFile) -> Path | None:
    """Return a file that is in the cache.

    Raises:
        HubError: it is there, but with another hash.
        OSError: it cannot be read.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(file.repository, file.name, revision=file.revision)
    # Beside a path and None there is a mark for files that the hub has said it does not have.
    return _check_hash(file, Path(found)) if isinstance(found, str) else None


def fetch_file(file: HubFile) -> Path:
    """Return a file out of the cache, or else fetch it and show the progress on a terminal.

    Raises:
        HubError: it cannot be fetched, or has another hash.
        OSError: the disk is full, or the cache cannot be written.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise HubError("huggingface_hub is not installed: pip install 'taesd-tiler[hub]'") from None
    where = f"{file.repository}@{file.revision[:8]}"
    with _quiet_log():
        try:
            path = hf_hub_download(file.repository, file.name, revision=file.revision)
        except errors.LocalEntryNotFoundError as error:
            raise HubError(_explain(error.__cause__)) from error
        except (errors.EntryNotFoundError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
            raise HubError(f"the hub has no {file.name} in {where}") from error
        except errors.HfHubHTTPError as error:
            raise HubError(_explain(error)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise HubError(f"the download failed, {shorten(error)}") from error
        # What the client lets through of the library below it is not documented.
        except Exception as error:
            raise HubError(f"the download failed, {shorten(error)}") from error
    return _check_hash(file, Path(path))


def _check_hash(file: HubFile, path: Path) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise HubError(f"not the published file: path={path}, sha256={found}, published={file.sha256}; delete it")
    return path


def _explain(error: BaseException | None) -> str:
    """Return why the hub could not be asked."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub fails: status={error.response.status_code}, hub={constants.ENDPOINT}"
    if isinstance(error, errors.FileMetadataError):
        return f"what answers is no hub: HF_ENDPOINT={constants.ENDPOINT}"
    if error is None or isinstance(error, errors.OfflineModeIsEnabled):
        return "offline, and not in the cache"
    return f"no connection to the hub: hub={constants.ENDPOINT}, {shorten(error)}"


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep off the terminal what the client logs of each try: the error says it in the end."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)
