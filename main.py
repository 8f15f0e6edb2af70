"""`tspin run` of a checkout that is not installed: one run, or a multirun.

python main.py [GROUP=OPTION ...] [KEY=VALUE ...]        one run
python main.py -m loss=sft,tspin seed=0,1,2              every combination
python main.py -m sweep=alpha_beta                       the grids of sweeps/alpha_beta.yaml
python main.py --help
"""

from __future__ import annotations

import sys

from tspin.cli import outcome, run


def main() -> None:
    try:
        run.main(sys.argv[1:])
    except (ImportError, KeyboardInterrupt) as error:  # before self-play, which has its own
        sys.exit(outcome.exit_code(error))


if __name__ == "__main__":
    main()
