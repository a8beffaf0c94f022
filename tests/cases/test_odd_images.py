"""Images that Pillow warns about, fails on, or that would fill the memory."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import writers
from tkd_search.data import DataSettings, decode, load_data
from tkd_search.errors import UserError

LIMIT = """
import resource, sys
from tkd_search.data import decode
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
print(decode.decode(sys.argv[1], 224, 3).mean())
"""


def encoded(image, suffix, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


# fdintino/pillow-avif-plugin#28, kha-white/mokuro#164: decoders' errors that name no file
@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode frame 0"), TypeError("'float'"), MemoryError(), KeyError(3)]
)
def test_whatever_a_decoder_raises_is_a_damaged_image(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    writers.write_image_folder(tmp_path, {"train": 5})
    monkeypatch.setattr(decode, "from_image", fail)
    with pytest.raises(UserError, match=r"15 of 15 images cannot be read: .*train/cat/000\.png: "):
        load_data(DataSettings(name="imagefolder", path=str(tmp_path)))


def test_a_damaged_avif_file_is_refused_by_name(tmp_path):
    content = bytearray(encoded(Image.new("RGB", (24, 24), (1, 200, 3)), ".avif"))
    place = content.index(b"iloc")
    content[place : place + 4] = b"xloc"
    path = tmp_path / "a.avif"
    path.write_bytes(content)
    for read in (lambda: decode.decode(str(path), 8, 3), lambda: decode.read_header(str(path))):
        with pytest.raises(decode.DamagedImageError, match=r"a\.avif: "):
            read()


# soft-matter/pims#173, pbs/its#144: a line of 20,000 pixels, scaled to a height of 224, took four gigabytes
@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1)])
def test_very_long_images_take_little_memory(tmp_path, shape):
    Image.fromarray(np.full(shape, 77, np.uint8)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", LIMIT, str(tmp_path / "a.png")]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "77.0\n", done.stderr[-1000:]


# layumi/University1652-Baseline#17, imageio#475: a palette with transparency, and PYTHONWARNINGS=error
@pytest.mark.parametrize("channels", [1, 3])
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, channels):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    image.putpalette(bytes(range(256)) * 3)
    plain = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    (tmp_path / "a.png").write_bytes(encoded(image, ".png", transparency=bytes(range(256))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = decode.decode(str(tmp_path / "a.png"), 8, channels)
    assert np.array_equal(read.transpose(1, 2, 0).squeeze(), plain)


# GantMan/nsfw_model#66, deepfates/memery#10: too many pixels
def test_a_decompression_bomb_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    with pytest.raises(decode.DamagedImageError, match=r"a\.png: .*exceeds limit"):
        decode.decode(str(tmp_path / "a.png"), 8, 1)


# Downloads that failed, wrong suffixes and animations.
def test_the_content_decides_not_the_suffix(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    for suffix in (".gif", ".webp"):
        content = encoded(frames[0], suffix, save_all=True, append_images=frames[1:])
        (tmp_path / "moving.jpg").write_bytes(content)
        assert decode.decode(str(tmp_path / "moving.jpg"), 8, 3)[0].min() > 200  # the first frame
    for content in (b"", b"<html>404</html>", b"\xff\xd8\xff"):
        (tmp_path / "failed.jpg").write_bytes(content)
        with pytest.raises(decode.DamagedImageError, match=r"failed\.jpg: cannot identify image file$"):
            decode.decode(str(tmp_path / "failed.jpg"), 8, 3)
