"""How the floors are called wherever people read of them: in tables, on pages and in model cards.

Apart from `floors.py`, which needs scikit-learn: `stprivacy show` prints a table and computes nothing.
"""

FLOOR_TITLES = {"chance": "chance", "constant": "constant answer", "action_only": "action label alone"}
"""By their names in metrics.json, in the order of tables."""
