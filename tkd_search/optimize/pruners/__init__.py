"""Pruners, which decide at a rung whether a trial goes on."""
