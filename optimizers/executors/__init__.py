"""The three ways to run a rule: `eager` (plain torch), `cpu` (Numba) and `cuda` (Triton)."""
