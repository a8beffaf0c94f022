"""Clusters: cluster files, tunnels, Ray jobs, and the processes and checks that run on cluster hosts.

Nothing here depends on the method or the search.
"""
