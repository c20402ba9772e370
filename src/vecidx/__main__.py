"""python -m vecidx"""

import sys

from vecidx.cli import main

if __name__ == "__main__":
    sys.exit(main())
