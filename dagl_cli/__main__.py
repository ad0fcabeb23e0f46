"""`python -m dagl_cli` is `dagl`."""

from .cli import main

if __name__ == "__main__":
    main()
