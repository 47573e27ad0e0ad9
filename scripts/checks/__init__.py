"""What must hold on a machine, or beside other libraries: `python -m scripts.checks.device` and its like."""
