"""Cases modelled on public bug reports of neighbouring projects, and where each is a test.

| case | test |
|---|---|
| 1 a notebook's MPLBACKEND | test_report |
| 2 a password in a URI | test_secrets |
| 3 artifacts that fail; 19 deleted runs; 20 a folder as URI; 22 a read-only folder | test_tracking |
| 4 no passwd entry, no home; 5 a long TMPDIR | test_host |
| 6 names in Latin-1; 9 links; 14 thumbnails; 15 AVIF, JPEG 2000, HEIC | tests/data/test_awkward_images |
| 7 locales and terminals | test_encodings |
| 8 8 and 12 bits in more | test_deep_images, tests/data/test_stores |
| 10 repeated keys, base sixty, 1e-4, ~; 17 statistics of 0 to 255 | test_config_files |
| 11 checkpoints of training scripts | test_weights |
| 12, 18, 21 broken and repeated images of any part | tests/data/test_awkward_images |
| 13 damaged journals and settings | test_damaged_files, test_config_files |
| 16 TinyImageNet's layouts | tests/data/test_sources |
| 23 a removed folder of students | test_damaged_files |
| a stranger's student.json | test_trust |
| names of classes, parts, columns and paths | test_names |
| images that fail, warn or are very long | test_odd_images |
| quantised and half-precision weights, LFS pointers, wrong suffixes | test_weights |
| texts that YAML reads as other values, encodings of Windows | test_config_files |
"""
