"""The command `tether`, which is `python -m tether` too."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Runs `tether.cli.main`; Ctrl-C while that is imported is one line, as it is later."""
    try:
        from tether.cli import main as run

        run()
    except KeyboardInterrupt:
        print("tether: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
