"""Multi-objective search as pure code: space, samplers, pruners, Pareto front and the study."""
