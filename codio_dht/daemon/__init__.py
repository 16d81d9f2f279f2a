"""The process around a node: start and stop, logs, and the control API that commands talk to."""
