"""The commands of ``python -m tkd_search COMMAND``."""
