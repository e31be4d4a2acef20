"""The ``hetero-noise`` command; its sub-commands are loaded when they are called."""
