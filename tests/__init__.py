"""Tests; a package, so that helpers are found as ``tests.<folder>.<file>`` in any order."""
