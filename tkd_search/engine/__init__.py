"""The search on Ray: driver, controller, pipeline, warm worker groups and Tune adapters."""
