"""LightningModules: one per component; they wire models, losses and optimizers, nothing else."""
