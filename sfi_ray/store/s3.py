"""What pyarrow cannot do on S3: conditional writes, and lists that begin within a folder."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
from obstore.store import ObjectStore, S3Store
from pyarrow import fs

from sfi_ray.errors import StorageError
from sfi_ray.text import MOST_REASON, printable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config


def open_s3(location: str, path: str, region: str) -> ObjectStore:
    """Opens a folder of S3, or of a store with the same interface.

    Args:
        location: Its URI, with the options that pyarrow understands.
        path: Its bucket and its path in the bucket.
        region: The region of the bucket.
    """
    address = urlsplit(location)
    options = {name: values[-1] for name, values in parse_qs(address.query).items()}
    bucket, _, prefix = path.partition("/")
    config: S3Config = {"region": region}
    endpoint = options.get("endpoint_override")
    if endpoint:
        config["endpoint"] = endpoint if "://" in endpoint else f"{options.get('scheme', 'https')}://{endpoint}"
    client: ClientConfig = {"allow_http": True, "connect_timeout": timedelta(seconds=5), "timeout": "10s"}
    if "tls_ca_file_path" in options:
        client["root_certificate"] = Path(options["tls_ca_file_path"]).read_bytes()
    provider = None
    if address.username and address.password:
        config["access_key_id"] = unquote(address.username)
        config["secret_access_key"] = unquote(address.password)
    elif find_spec("boto3"):  # it also knows the profiles of ~/.aws
        from obstore.auth.boto3 import Boto3CredentialProvider

        with contextlib.suppress(ValueError):  # it finds none; the store looks for itself
            provider = Boto3CredentialProvider()
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options=client,
        # Renewals must not hang on one request for minutes.
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=15)},
        credential_provider=provider,
    )


def list_from(store: ObjectStore, root: str, beginning: str) -> list[fs.FileInfo]:
    """Lists the objects whose names begin alike, and nothing before them.

    Args:
        store: A folder.
        root: Its bucket and its path in the bucket.
        beginning: A folder in it and the beginning of the names there.

    Raises:
        StorageError: The store cannot be reached.
    """
    found: list[fs.FileInfo] = []
    try:
        # Asks for the names behind this one, page by page.
        for page in obstore.list(store, beginning.rpartition("/")[0], offset=beginning):
            for meta in page:
                if not meta["path"].startswith(beginning):
                    return found
                path, mtime = f"{root}/{meta['path']}", meta["last_modified"]
                found.append(fs.FileInfo(path, fs.FileType.File, size=meta["size"], mtime=mtime))
    except obstore.exceptions.BaseError as error:
        raise StorageError(f"cannot list '{root}/{beginning}...': {first_line(error)}; check that it exists") from error
    return found


def first_line(error: Exception) -> str:
    """Returns what an error of the store says, without the dump of its parts."""
    return printable(str(error).partition("\n\nDebug source")[0], MOST_REASON)
