"""``python -m helix_df``: the command line."""

from helix_df.cli.main import main

if __name__ == "__main__":
    main()
