"""Warm worker groups: pool, job queue, worker loop, autoscaling and placement."""
