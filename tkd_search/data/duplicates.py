"""Images that occur in several parts of a data set."""

import itertools
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from tkd_search.data.bundle import Split
from tkd_search.data.decode import pixel_hash
from tkd_search.errors import printable

_NAMED = 3


def duplicates_note(taught: Mapping[str, Split], measured: Mapping[str, Split]) -> tuple[str, ...]:
    """Return a note on images of a measured part that another part has too; none without any.

    Images are equal if their pixels are, at the size that the networks see. The note counts the images for
    each pair of parts and names up to three pairs of images.
    """
    splits = {**taught, **measured}
    content = {part: content_hashes(split) for part, split in splits.items()}
    counts, named = [], list[tuple[int, str]]()
    for one, other in itertools.combinations(splits, 2):
        if other in taught:
            continue
        found = np.flatnonzero(np.isin(content[other], content[one])).tolist()
        counts += [f"{len(found):,} of {other} in {one}"] if found else []
        for rank, position in enumerate(found[:_NAMED]):
            twin = int(np.flatnonzero(content[one] == content[other][position])[0])
            named.append((rank, f"{_name(splits, other, position)} = {_name(splits, one, twin)}"))
    if not counts:
        return ()
    pairs = [text for _, text in sorted(named, key=lambda pair: pair[0])]
    shown = ", ".join(pairs[:_NAMED]) + (" …" if len(pairs) > _NAMED else "")
    found_in = "; ".join(counts)
    return (f"data: identical images in two parts make accuracies look better: {found_in} ({shown})",)


def content_hashes(split: Split) -> np.ndarray:
    """Return a hash of every image's pixels, int64 [N], whether the images are in memory or not."""
    if split.content is not None:
        return split.content.numpy()
    if not isinstance(split.images, Tensor):
        raise TypeError("a streamed store needs the hashes of a scan")
    return np.array([pixel_hash(image) for image in split.images.numpy()], dtype=np.int64)


def _name(splits: Mapping[str, Split], part: str, position: int) -> str:
    names = splits[part].names
    return printable(names[position]) if names else f"{part} image {position}"
