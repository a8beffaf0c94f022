"""Pruners: decide at a rung whether a trial goes on."""
