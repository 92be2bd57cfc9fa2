"""How a stage is spread over processes: DeepSpeed ZeRO as this project needs it, its checkpoints, and export to one file."""
