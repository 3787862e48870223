"""Hostile drivers: seeded episodes, and what QEMU must survive of them.

An episode's walk (walk.py) is drawn from its name alone: a target (target.py) and moves
(grammar.py, moves_*.py) of a driver (driver.py) that writes raw rings (rings.py) and registers
(wire*.py) into a QEMU (bed.py). judge.py says what became of QEMU, and knows nothing of the walk
but which memory the driver gave (arena.py).
"""
