"""``python -m bench``"""

from bench.cli import main

if __name__ == "__main__":  # child processes that import this module must not run it
    main()
