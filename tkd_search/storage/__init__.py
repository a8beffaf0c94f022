"""Files and folders that every node can read: on a disk or on object storage."""

from tkd_search.storage.object_store import (
    below,
    check_storage,
    delete,
    file_exists,
    get_file,
    is_remote,
    last_name,
    local_path,
    move,
    put_file,
    read_bytes,
    storage_uri,
    write_bytes,
    write_error,
)

__all__ = [
    "below",
    "check_storage",
    "delete",
    "file_exists",
    "get_file",
    "is_remote",
    "last_name",
    "local_path",
    "move",
    "put_file",
    "read_bytes",
    "storage_uri",
    "write_bytes",
    "write_error",
]
