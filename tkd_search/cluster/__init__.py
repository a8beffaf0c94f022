"""Clusters: reading cluster files, the way in over SSH tunnels and Ray jobs, prices, and what hosts need.

Nothing here knows the method or the search. ``file``, ``resources``, ``prices``, ``idle`` and ``staging`` are
pure; ``tunnels``, ``jobs``, ``launch``, ``keeper``, ``aws`` and ``checks`` act.
"""
