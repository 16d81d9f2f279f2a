"""``python -m benchmarks.wan run`` measures, ``.. report`` writes docs/wan.md and its plot anew."""

from __future__ import annotations

import argparse

from benchmarks.wan import report, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.wan")
    commands = parser.add_subparsers(required=True)
    for module in (run, report):
        command = commands.add_parser(module.__name__.rpartition(".")[2], help=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    options = parser.parse_args()
    options.main(options)


if __name__ == "__main__":
    main()
