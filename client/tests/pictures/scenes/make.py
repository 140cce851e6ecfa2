"""Creates the scenes of the table with the Blender that runs it: make.py -- ROOT NAMES (no names: all)."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import base
import hidden  # noqa: F401
import idle  # noqa: F401
import libraries  # noqa: F401
import outputs  # noqa: F401
import pictures  # noqa: F401
import simulations  # noqa: F401
import things  # noqa: F401
import times  # noqa: F401

base.main()
