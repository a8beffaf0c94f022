"""The method: distillation through generated, selected teachers, in plain PyTorch.

Nothing here knows Ray, Optuna, MLflow, pydantic or the file system. Start at ``trainer.Distiller``; the
equations are in docs/method.md.
"""
